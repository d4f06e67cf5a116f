"""ID3v2 tags of mp3 files: read any, write 2.4 in UTF-8.

libsndfile encodes what is not ASCII twice and drops pictures. Libraries that write tags are under
licences that would bind whoever uses this one, and the few frames that are set need a page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

# libsndfile's names of the tags that have a frame.
_FRAMES = {
    "title": b"TIT2",
    "artist": b"TPE1",
    "album": b"TALB",
    "date": b"TDRC",
    "genre": b"TCON",
    "tracknumber": b"TRCK",
    "copyright": b"TCOP",
    "software": b"TSSE",
}
_MOST = 64_000_000  # bytes of a tag: pictures are of some megabytes


def tag_of(tags: Mapping[str, str], comment: str | None, pictures: Iterable[bytes] = ()) -> bytes:
    """An ID3v2.4 tag; nothing where there is nothing to say.

    Args:
        tags: by libsndfile's names; those without a frame are left out.
        comment: None for none.
        pictures: contents of APIC frames, as `pictures_of` gives them.
    """
    frames = [
        _frame(_FRAMES[name], b"\x03" + text.encode("utf-8", "replace"))
        for name, text in tags.items()
        if name in _FRAMES
    ]
    if comment is not None:
        frames.append(_frame(b"COMM", b"\x03XXX\0" + comment.encode("utf-8", "replace")))
    frames += [_frame(b"APIC", content) for content in pictures]
    body = b"".join(frames)
    return b"ID3\x04\x00\x00" + _synchsafe(len(body)) + body if body else b""


def pictures_of(file: Path | BinaryIO) -> tuple[bytes, ...]:
    """The contents of the APIC frames of a file's tag."""
    return tuple(content for name, content in frames_of(file) if name == b"APIC")


def comment_in(file: Path | BinaryIO) -> str:
    """The text of `TXXX:comment`, as which ffmpeg keeps a comment; empty where there is none."""
    for name, content in frames_of(file):
        if name == b"TXXX" and content:
            wide = content[0] in (1, 2)
            text = content[1:].decode(
                {0: "latin-1", 1: "utf-16", 2: "utf-16-be"}.get(content[0], "utf-8"), "replace"
            )
            about, _, value = text.partition("\0")
            if about.lower() == "comment":
                return value.lstrip("\ufeff" if wide else "").rstrip("\0")
    return ""


def frames_of(file: Path | BinaryIO) -> list[tuple[bytes, bytes]]:
    """The frames of an ID3v2.3 or 2.4 tag, name and content; none of any other file, nor of tags that
    are compressed or stuffed with zeros against false syncs."""
    if isinstance(file, Path):
        with file.open("rb") as stream:
            return frames_of(stream)
    file.seek(0)
    head = file.read(10)
    if len(head) < 10 or head[:3] != b"ID3" or head[3] not in (3, 4) or head[5] & 0xC0:
        return []
    body = file.read(min(_plain(head[6:10]), _MOST))
    found, at = [], 0
    while at + 10 <= len(body) and body[at] != 0:
        four = body[at + 4 : at + 8]
        size = _plain(four) if head[3] == 4 else int.from_bytes(four, "big")
        flags = body[at + 9]
        if size <= 0 or at + 10 + size > len(body):
            break
        if not flags:
            found.append((body[at : at + 4], body[at + 10 : at + 10 + size]))
        at += 10 + size
    return found


def _frame(name: bytes, content: bytes) -> bytes:
    return name + _synchsafe(len(content)) + b"\0\0" + content


def _synchsafe(number: int) -> bytes:
    return bytes(number >> shift & 127 for shift in (21, 14, 7, 0))


def _plain(four: bytes) -> int:
    return (four[0] & 127) << 21 | (four[1] & 127) << 14 | (four[2] & 127) << 7 | four[3] & 127
