"""Loop points and tempo in files, as samplers, game engines and players read them.

A wav file has them in its `smpl` chunk, which Unity, Godot and samplers read; flac and ogg have the tags
LOOPSTART, LOOPLENGTH, BPM and TEMPO (samples, samples, beats per minute), which are common in games.

libsndfile only writes tags that it knows, so it gets a licence tag of the right length as a placeholder,
which is then overwritten in place, whatever the size of the file.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from magnet_cli.files import from_start

STAND_IN = "license"  # libsndfile's name of the placeholder tag
_MARK = "?loop"
_HEAD = 1 << 18  # bytes to read of a file: tags come first, and ours first among them
_MOST_SAMPLES = 2**48
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True)
class LoopPoints:
    """Loop start and length in samples, and beats per minute; None if the file does not have them."""

    start: int | None = None
    length: int | None = None
    bpm: float | None = None

    def within(self, samples: int) -> bool:
        """Whether they lie within a sound of `samples` samples."""
        return (self.start or 0) + (self.length or 0) <= samples

    def chunk(self, sample_rate: int) -> bytes:
        """The content of a wav file's `smpl` chunk: one endless forward loop, with middle C as root."""
        if self.start is None or self.length is None:
            return b""
        last = self.start + self.length - 1  # the chunk's end is inclusive
        if last >= 2**32:
            return b""
        period = round(1e9 / sample_rate)
        head = struct.pack("<9I", 0, 0, period, 60, 0, 0, 0, 1, 0)
        return head + struct.pack("<6I", 0, 0, self.start, last, 0, 0)

    def tags(self) -> list[str]:
        """The points as tags for flac and ogg."""
        said = {"LOOPSTART": self.start, "LOOPLENGTH": self.length}
        tags = [f"{name}={value}" for name, value in said.items() if value is not None]
        if self.bpm is not None:
            # Players look for either name.
            tags += [f"{name}={round(self.bpm, 2):.10g}" for name in ("BPM", "TEMPO")]
        return tags

    @property
    def stand_in(self) -> str:
        """A placeholder of the same size as `tags`, for `put_tags`."""
        room = sum(4 + len(tag) for tag in self.tags()) - 4 - len(f"{STAND_IN}=")
        return _MARK.ljust(room, "?")


def put_tags(file: BinaryIO, points: LoopPoints) -> bool:
    """Replace the placeholder in a flac or ogg file by tags; returns whether it was found."""
    file.seek(0)
    data = bytearray(file.read(_HEAD))
    given = points.stand_in.encode()
    size = struct.pack("<I", len(f"{STAND_IN}=") + len(given))
    # With its name and size: another tag may have the same text.
    at = re.search(re.escape(size) + f"(?i:{STAND_IN}=)".encode() + re.escape(given), data)
    entry = -1 if at is None else at.start()
    count = _place_of_count(data, entry)
    if at is None or not count:
        return False
    own = b"".join(struct.pack("<I", len(tag)) + tag.encode() for tag in points.tags())
    data[entry : at.end()] = own
    number = struct.unpack_from("<I", data, count)[0]
    struct.pack_into("<I", data, count, number - 1 + len(points.tags()))
    changed = [(count, bytes(data[count : count + 4])), (entry, own)]
    page = data.rfind(b"OggS", 0, count)
    if data[:4] == b"OggS":
        length = 27 + data[page + 26] + sum(data[page + 27 : page + 27 + data[page + 26]])
        data[page + 22 : page + 26] = bytes(4)
        changed.append((page + 22, struct.pack("<I", _checksum(data[page : page + length]))))
    for place, what in changed:
        file.seek(place)
        file.write(what)
    return True


def read_points(
    source: Path | BinaryIO, chunks: Sequence[tuple[bytes, bytes]] = ()
) -> LoopPoints | None:
    """Read loop points and tempo of a file; None if it has none that are valid.

    Args:
        source: a file, or a seekable stream.
        chunks: a wav file's, from `metadata.kept_chunks`.
    """
    for name, content in chunks:
        if name == b"smpl" and len(content) >= 60 and struct.unpack_from("<I", content, 28)[0]:
            start, last = struct.unpack_from("<2I", content, 44)
            return LoopPoints(start, last - start + 1) if last >= start else None
    said: dict[str, float] = {}
    with from_start(source) as file:
        head = file.read(4)
        data = (head + file.read(_HEAD - 4)) if head in (b"fLaC", b"OggS") else b""
    for tag in _tags_in(data):
        name, _, text = tag.partition(b"=")
        with suppress(ValueError):
            said.setdefault(name.decode("ascii", "replace").upper(), float(text[:40]))
    start, length = said.get("LOOPSTART"), said.get("LOOPLENGTH")
    if length is None and start is not None and "LOOPEND" in said:
        length = said["LOOPEND"] - start
    bpm = said.get("BPM", said.get("TEMPO"))
    points = LoopPoints(
        int(start) if start is not None and 0 <= start < _MOST_SAMPLES else None,
        int(length) if length is not None and 1 <= length < _MOST_SAMPLES else None,
        bpm if bpm is not None and 1 <= bpm <= 1000 else None,
    )
    return None if points == LoopPoints() else points


def _place_of_count(data: bytes | bytearray, before: int) -> int:
    """Offset of the number of tags in the head of a flac or ogg file, below `before`; 0 if not found."""
    vendor = 0
    if data[:4] == b"fLaC":
        at = 4
        while at + 4 <= len(data) and data[at] & 127 != 4:
            if data[at] & 128:
                return 0
            at += 4 + int.from_bytes(data[at + 1 : at + 4], "big")
        vendor = at + 4
    else:
        for mark in (b"\x03vorbis", b"OpusTags"):
            if 0 <= (at := data.find(mark)) < before:
                vendor = at + len(mark)
    if not vendor or vendor + 4 > len(data):
        return 0
    count = int(vendor + 4 + struct.unpack_from("<I", data, vendor)[0])
    return count if count + 4 <= min(before, len(data)) else 0


def _tags_in(data: bytes) -> Iterator[bytes]:
    """Tags (name=text) in the head of a flac or ogg file, as far as they are contiguous."""
    count = _place_of_count(data, len(data))
    if not count:
        return
    at = count + 4
    for _ in range(min(int(struct.unpack_from("<I", data, count)[0]), 1000)):
        if at + 4 > len(data):
            return
        size = struct.unpack_from("<I", data, at)[0]
        yield data[at + 4 : at + 4 + min(size, 200)]
        at += 4 + size


def _checksum(page: bytes | bytearray) -> int:
    """Checksum of an ogg page with its checksum field zero (RFC 3533, section 6)."""
    # zlib's, but with the bits the other way round, and without the complements before and after.
    value = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{value:032b}"[::-1], 2)
