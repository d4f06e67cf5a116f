"""The record of how a clip was made, as JSON in its file's comment, which every format has.

The JSON is ASCII, which all tools read alike, and has no time, so that the same settings give the same file.
libsndfile writes comments, but truncates those of wav files after a few kilobytes and puts the time of day
into float wav files, so this module writes them for wav. It also writes mp3's ID3v2 tags, in which libsndfile
encodes non-ASCII text twice and drops pictures; libraries for these have restrictive licences, and the few
frames take little code. ID3v2.3 and 2.4 are read; 2.4 in UTF-8 is written.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from magnet_cli.errors import AudioFileError
from magnet_cli.files import from_start
from magnet_cli.foreign import reading

# Opus has the lowest limit, 60 kB.
LONGEST_COMMENT = 50_000

# Chunks of a wav file that describe its samples and are written again with them; the others (loops, cue
# points and labels, broadcast notes) stay valid if the length stays.
_OF_THE_SAMPLES = {b"fmt ", b"data", b"fact", b"PEAK", b"JUNK", b"PAD ", b"FLLR", b"ds64"}

_KEY = "magnet"  # marks our comments


# libsndfile's names of the tags that have a frame.
_ID3_FRAMES = {
    "title": b"TIT2",
    "artist": b"TPE1",
    "album": b"TALB",
    "date": b"TDRC",
    "genre": b"TCON",
    "tracknumber": b"TRCK",
    "copyright": b"TCOP",
    "software": b"TSSE",
}
_MOST_TAG = 64_000_000  # maximum bytes of a tag: pictures may be some megabytes


def to_comment(metadata: Mapping[str, Any]) -> str:
    """Format a record as a comment. Raises AudioFileError if it is too long for a file."""
    comment = json.dumps({_KEY: metadata}, ensure_ascii=True, sort_keys=True)
    if len(comment) > LONGEST_COMMENT:
        raise AudioFileError(
            f"The settings are too long to be stored in the file ({len(comment)} characters).",
            "Shorten the prompt.",
        )
    return comment


def from_comment(comment: str) -> dict[str, Any] | None:
    """The record in a comment, or None if the comment is not ours."""
    try:
        # NaN and the like, which we never write, are skipped and the rest is read.
        found = reading.json_of(comment, invalid=True)
    except reading.ReadError:
        return None
    inner = found.get(_KEY) if isinstance(found, dict) else None
    return inner if isinstance(inner, dict) else None


def problem_of(comment: str) -> str | None:
    """Why a comment that begins like ours cannot be read; None if it can or is not ours."""
    if comment[:40].replace(" ", "").startswith(f'{{"{_KEY}":'):
        try:
            reading.json_of(comment, invalid=True)
        except reading.ReadError as error:
            return str(error)
    return None


def finish_wav(
    file: BinaryIO,
    comment: str | None,
    chunks: Sequence[tuple[bytes, bytes]] = (),
    mask: bytes = b"",
) -> None:
    """Complete a wav file written by libsndfile: remove the time of day, add chunks.

    Args:
        file: open for reading and writing.
        comment: stored as a LIST INFO chunk.
        chunks: further chunks, name and content, from `kept_chunks`.
        mask: speaker positions from `channel_mask`, which libsndfile guesses from the number of channels.
    """
    end = file.seek(0, os.SEEK_END)
    if mask and channel_mask(file):
        file.seek(_mask_place(file))
        file.write(mask)
    for name, start, _ in _chunks(file):
        if name == b"PEAK":  # version, time, then a value and a position for each channel
            file.seek(start + 4)
            file.write(bytes(4))
    added = list(chunks)
    if comment is not None:
        text = comment.encode("ascii") + b"\0"
        text += b"\0" * (len(text) % 2)
        added.append((b"LIST", b"INFO" + b"ICMT" + struct.pack("<I", len(text)) + text))
    if added:
        file.seek(end)
        file.write(b"\0" * (end % 2))
        for name, content in added:
            file.write(name + struct.pack("<I", len(content)) + content)
            file.write(b"\0" * (len(content) % 2))
        end = file.tell()
        file.seek(0)
        if file.read(4) == b"RF64":
            file.seek(20)  # in ds64, the first chunk
            file.write(struct.pack("<Q", end - 8))
        else:
            file.write(struct.pack("<I", min(end - 8, 0xFFFFFFFF)))
    file.seek(0)


def kept_chunks(source: Path | BinaryIO) -> tuple[tuple[bytes, bytes], ...]:
    """Chunks of a wav file, name and content, that a copy of the same length should keep.

    They do not include tags, which libsndfile reads. Empty for other files.
    """
    kept = []
    with from_start(source) as file:
        for name, start, size in _chunks(file):
            if name in _OF_THE_SAMPLES:
                continue
            file.seek(start)
            content = file.read(size)
            if len(content) == size and not (name == b"LIST" and content[:4] == b"INFO"):
                kept.append((name, content))
    return tuple(kept)


def channel_mask(source: Path | BinaryIO) -> bytes:
    """The speaker positions of a wav file's channels, as in its header; empty if there are none."""
    with from_start(source) as file:
        place = _mask_place(file)
        file.seek(place)
        return file.read(4) if place else b""


def _mask_place(file: BinaryIO) -> int:
    """Offset of the channel mask in a wav file; 0 if there is none."""
    for name, start, size in _chunks(file):
        if name == b"fmt " and size >= 40:
            file.seek(start)
            return start + 20 if file.read(2) == b"\xfe\xff" else 0  # WAVE_FORMAT_EXTENSIBLE
    return 0


def read_wav_comment(source: Path | BinaryIO) -> str:
    """The comment of a wav file or seekable stream; empty if there is none."""
    with from_start(source) as file:
        for name, start, size in _chunks(file):
            if name != b"LIST":
                continue
            file.seek(start)
            body = file.read(min(size, 2 * LONGEST_COMMENT))
            at = 4
            while body[:4] == b"INFO" and at + 8 <= len(body):
                field, length = struct.unpack_from("<4sI", body, at)
                if field == b"ICMT":
                    return body[at + 8 : at + 8 + length].rstrip(b"\0").decode("utf-8", "replace")
                at += 8 + length + length % 2
    return ""


def moved_comment(source: Path | BinaryIO) -> str:
    """Our comment where ffmpeg puts it: `DESCRIPTION` in flac and ogg, `TXXX:comment` in mp3; empty if there
    is none."""
    with from_start(source) as file:
        head = file.read(4)
        if head == b"fLaC" or head == b"OggS":
            # It is within the first 256 kB: a comment has at most 50 kB, and pictures come later.
            data = file.read(1 << 18)
            mark = f'DESCRIPTION={{"{_KEY}"'.encode()
            at = data.upper().find(mark.upper())
            if at >= 4:
                size = int.from_bytes(data[at - 4 : at], "little")
                field = data[at : at + size]
                if head == b"OggS" and b"OggS" in field:
                    return ""  # it spans pages
                return field.partition(b"=")[2].decode("utf-8", "replace")
            return ""
        return _id3_comment(file) if head[:3] == b"ID3" else ""


def has_flac_picture(source: Path | BinaryIO) -> bool:
    """Whether a flac file has a picture."""
    with from_start(source) as file:
        if file.read(4) != b"fLaC":
            return False
        while len(head := file.read(4)) == 4:
            if head[0] & 127 == 6:
                return True
            if head[0] & 128:
                return False
            file.seek(int.from_bytes(head[1:], "big"), os.SEEK_CUR)
    return False


def _chunks(file: BinaryIO) -> list[tuple[bytes, int, int]]:
    """Chunks of a RIFF WAVE file: name, offset of the content, size in bytes."""
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(12)
    if head[:4] not in (b"RIFF", b"RF64") or head[8:] != b"WAVE":
        return []
    found = []
    large = 0  # bytes of the samples if they exceed 32 bits
    at = 12
    while at + 8 <= end:
        file.seek(at)
        name, size = struct.unpack("<4sI", file.read(8))
        if name == b"ds64" and size >= 16:
            large = struct.unpack("<8xQ", file.read(16))[0]
        if name == b"data" and size == 0xFFFFFFFF and large:
            size = large
        found.append((name, at + 8, size))
        at += 8 + size + size % 2
    return found


# ------------------------------------------------------------------------------------- ID3 tags of mp3 files


def id3_tag(tags: Mapping[str, str], comment: str | None, pictures: Iterable[bytes] = ()) -> bytes:
    """Build an ID3v2.4 tag; empty if it has no content.

    Args:
        tags: by libsndfile's names; those without a frame are dropped.
        comment: None for none.
        pictures: contents of APIC frames, from `id3_pictures`.
    """
    frames = [
        _id3_frame(_ID3_FRAMES[name], b"\x03" + text.encode("utf-8", "replace"))
        for name, text in tags.items()
        if name in _ID3_FRAMES
    ]
    if comment is not None:
        frames.append(_id3_frame(b"COMM", b"\x03XXX\0" + comment.encode("utf-8", "replace")))
    frames += [_id3_frame(b"APIC", content) for content in pictures]
    body = b"".join(frames)
    return b"ID3\x04\x00\x00" + _to_synchsafe(len(body)) + body if body else b""


def id3_pictures(file: Path | BinaryIO) -> tuple[bytes, ...]:
    """Contents of the APIC frames in a file's tag."""
    return tuple(content for name, content in _id3_frames(file) if name == b"APIC")


def _id3_comment(file: Path | BinaryIO) -> str:
    """The text of `TXXX:comment`, where ffmpeg puts comments; empty if there is none."""
    for name, content in _id3_frames(file):
        if name == b"TXXX" and content:
            wide = content[0] in (1, 2)
            text = content[1:].decode(
                {0: "latin-1", 1: "utf-16", 2: "utf-16-be"}.get(content[0], "utf-8"), "replace"
            )
            about, _, value = text.partition("\0")
            if about.lower() == "comment":
                return value.lstrip("\ufeff" if wide else "").rstrip("\0")
    return ""


def _id3_frames(source: Path | BinaryIO) -> list[tuple[bytes, bytes]]:
    """Frames of an ID3v2.3 or 2.4 tag, name and content; none for other files, and for tags that are
    compressed or unsynchronised."""
    with from_start(source) as file:
        head = file.read(10)
        if len(head) < 10 or head[:3] != b"ID3" or head[3] not in (3, 4) or head[5] & 0xC0:
            return []
        body = file.read(min(synchsafe(head[6:10]), _MOST_TAG))
    found, at = [], 0
    while at + 10 <= len(body) and body[at] != 0:
        four = body[at + 4 : at + 8]
        size = synchsafe(four) if head[3] == 4 else int.from_bytes(four, "big")
        flags = body[at + 9]
        if size <= 0 or at + 10 + size > len(body):
            break
        if not flags:
            found.append((body[at : at + 4], body[at + 10 : at + 10 + size]))
        at += 10 + size
    return found


def _id3_frame(name: bytes, content: bytes) -> bytes:
    return name + _to_synchsafe(len(content)) + b"\0\0" + content


def _to_synchsafe(number: int) -> bytes:
    return bytes(number >> shift & 127 for shift in (21, 14, 7, 0))


def synchsafe(four: bytes) -> int:
    """Decode an ID3 number of four bytes with seven bits each."""
    return (four[0] & 127) << 21 | (four[1] & 127) << 14 | (four[2] & 127) << 7 | four[3] & 127
