"""Corrects sound files whose headers give a wrong length, so that libsndfile reads them completely.

libsndfile trusts the header of an mp3, flac or ogg file, or estimates, and reads no further. This module
counts frames and pages. If the count differs, a temporary copy is read instead, with a correct Xing header
(mp3) or STREAMINFO (flac), or link by link (ogg).
"""

from __future__ import annotations

import mmap
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile

from magnet_cli.audio.metadata import synchsafe
from magnet_cli.files import from_start

UNKNOWN = 2**40  # samples: more than any file has, though some headers say so
_BLOCK = 65_536

_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_KBITS = {  # by MPEG 1 or not, and layer
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


@dataclass(frozen=True)
class Frame:
    """An MPEG audio frame.

    Attributes:
        at, size: offset and size in bytes.
        layer, rate, samples: 1 to 3; Hz; samples per channel.
        tag: offset in the frame at which a Xing header's `Xing` or `Info` would be.
    """

    at: int
    size: int
    layer: int
    rate: int
    samples: int
    tag: int


def frame_at(data: Any, at: int) -> Frame | None:
    """The MPEG frame at an offset; None if there is none, or its size is unknown."""
    head = data[at : at + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    kind, place = head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer == 4 or kind in (0, 15) or place == 3:
        return None
    rate, bits = _RATES[version][place], _KBITS[version == 3, layer][kind - 1] * 1000
    samples = 384 if layer == 1 else 576 if layer == 3 and version != 3 else 1152
    padding = head[2] >> 1 & 1
    size = (
        (12 * bits // rate + padding) * 4 if layer == 1 else samples // 8 * bits // rate + padding
    )
    mono = head[3] >> 6 == 3
    side = (17 if mono else 32) if version == 3 else (9 if mono else 17)
    return Frame(at, size, layer, rate, samples, 4 + side)


def frames_of(data: Any) -> Iterator[Frame]:
    """Yield the complete MPEG frames of a file, skipping tags and other data between them."""
    at, end, before = 0, len(data), False
    while at + 4 <= end:
        if data[at : at + 3] == b"ID3" and at + 10 <= end:
            at += 10 + synchsafe(data[at + 6 : at + 10])
            continue
        frame = frame_at(data, at)
        if frame is not None and at + frame.size <= end:
            follows = at + frame.size
            # Sync bytes may occur by chance, so after a gap the next frame must follow, too.
            if before or follows + 4 > end or frame_at(data, follows) is not None:
                yield frame
                at, before = follows, True
                continue
        before = False
        found = data.find(b"\xff", at + 1)
        tag = data.find(b"ID3", at + 1, end if found < 0 else found)  # not to the end for each 0xff
        if found < 0 and tag < 0:
            return
        at = found if tag < 0 else tag


_WITHIN = 65_536 + 4096  # bytes in which an mp3's first frame is complete


@contextmanager
def true_length(
    file: Path | BinaryIO,
) -> Iterator[tuple[Path | BinaryIO, int | None, tuple[str, ...]]]:
    """Yield a file with a correct header, its samples per channel if the header cannot say them, and
    remarks about a wrong length, as ends of sentences.

    It is `file` itself if its header is right, or is not of a kind known to be wrong.
    """
    said: list[str] = []
    with tempfile.TemporaryFile() as copy:
        changed = 0
        with (
            from_start(file) as stream,
            suppress(OSError, ValueError),  # cannot be mapped, such as an empty file
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            changed = _changed(data, copy, said)
        copy.seek(0)
        yield (copy if changed else file), (changed if changed > 0 else None), tuple(said)


def _changed(data: Any, copy: BinaryIO, said: list[str]) -> int:
    """Write a corrected file into `copy`. Returns its samples per channel, -1 if its header has them, or
    0 if no correction is needed."""
    start = 10 + synchsafe(data[6:10]) if data[:3] == b"ID3" and len(data) > 10 else 0
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        inner = _mpeg_in_wav(data, said)
        return 0 if inner is None else _mpeg(inner, copy, said, always=True)
    if data[start : start + 4] == b"fLaC":
        return _flac(data, start, copy)
    if data[:4] in (b"OggS", b"FORM", b"caff", b".snd", b"RF64", b"riff"):
        said += _cut_off(data)
        return 0
    return _mpeg(data, copy, said, always=False)


def _mpeg(data: Any, copy: BinaryIO, said: list[str], always: bool) -> int:
    first, count, claimed, extra = None, 0, None, []
    end, junk = 0, False
    if data[:3] != b"ID3" and next(frames_of(data[:_WITHIN]), None) is None:
        return 0  # without reading all of a large file that is none
    for frame in frames_of(data):
        junk, end = junk or 0 < end < frame.at, frame.at + frame.size
        if first is None:
            if frame.at > _WITHIN - 4096 and data[:3] != b"ID3":
                return 0  # not an mp3, but has similar bytes in places
            first = frame
        tag = data[frame.at + frame.tag : frame.at + frame.tag + 12]
        if frame.layer == 3 and tag[:4] in (b"Xing", b"Info"):
            if frame.at == first.at and len(tag) == 12 and tag[7] & 1:
                claimed = struct.unpack(">I", tag[8:12])[0]
            extra.append(frame.at)
            continue
        count += 1
    if first is None or count < 2 or (claimed == count and not (always or junk)):
        return 0
    if claimed is not None and count < claimed:
        lasts, seconds = count * first.samples / first.rate, claimed * first.samples / first.rate
        said.append(f"ends early: at {lasts:.2f} s of {seconds:.2f} s")
    if data[:3] == b"ID3":
        copy.write(data[: 10 + synchsafe(data[6:10])])
    if first.layer == 3:
        copy.write(_xing(data, first, count))
    size = 0
    for frame in frames_of(data):
        if frame.at not in extra:
            size += copy.write(data[frame.at : frame.at + frame.size])
    if first.layer != 3:
        # Other layers have no such header, so libsndfile estimates the length from the file size and reads no
        # further. Additional frames make the estimate large enough.
        last = data[frame.at : frame.at + frame.size]
        for _ in range(2 * size // len(last) + 2):
            copy.write(last)
        return count * first.samples
    return -1


def _cut_off(data: Any) -> list[str]:
    """Remarks about a cut-off ogg, aiff or au file, as ends of sentences."""
    kind, size = data[:4], len(data)
    if kind == b"OggS":
        last = data.rfind(kind)
        lengths = data[last + 27 : last + 27 + data[last + 26]] if last + 27 <= size else b""
        is_whole = lengths and last + 27 + data[last + 26] + sum(lengths) <= size
        return [] if is_whole else ["ends early: in the middle of a page"]
    said = int.from_bytes(data[4:8], "big")
    if kind == b".snd":
        said += int.from_bytes(data[8:12], "big")
    elif kind == b"FORM":
        said += 8
    # Programs that write to pipes put as much as they can.
    if kind not in (b"FORM", b".snd") or not size < said < 0x7FFFFF00:
        return []
    return [f"ends early: {size:,} of {said:,} bytes are there"]


def _xing(data: Any, first: Frame, frames: int) -> bytes:
    """A silent frame with a header that says how many frames follow."""
    head = bytearray(data[first.at : first.at + 4])
    head[1] |= 1  # no checksum
    version = head[1] >> 3 & 3
    head[2] = (5 if version == 3 else 8) << 4 | head[2] & 0x0C  # 64 kbit/s: there is room
    frame = frame_at(bytes(head), 0)
    assert frame is not None
    body = bytes(head) + bytes(frame.tag - 4) + b"Xing" + struct.pack(">II", 1, frames)
    return body.ljust(frame.size, b"\0")


def _flac(data: Any, start: int, copy: BinaryIO) -> int:
    """Correct a flac length of 0, which means unknown (as with a pipe), by the last frame."""
    at = start + 8 + 13  # the last 36 of the bits from here
    if len(data) < at + 5 or data[start + 4] & 127 != 0:
        return 0
    said = int.from_bytes(data[at : at + 5], "big")
    if said & (2**36 - 1):
        return 0
    most = int.from_bytes(data[start + 10 : start + 12], "big")  # samples per frame
    end = len(data)
    while (end := data.rfind(b"\xff", at, end)) >= 0:
        length = _flac_end(data[end : end + 18], most)
        if length is None:
            continue
        copy.seek(0)
        copy.write(data)
        copy.seek(at)
        copy.write((said | length).to_bytes(5, "big"))
        copy.seek(0)
        try:
            with soundfile.SoundFile(copy) as file:
                if counted(file) == length:
                    return -1
        except (soundfile.LibsndfileError, RuntimeError):
            pass  # what looked like a frame was not one: look for an earlier one
    return 0


def _flac_end(head: bytes, most: int) -> int | None:
    """Samples of a FLAC stream up to the end of the frame with this head; None if it is not a frame."""
    if len(head) < 7 or head[1] not in (0xF8, 0xF9):
        return None
    sizes, rates = head[2] >> 4, head[2] & 15
    ones = 8 - (head[4] ^ 0xFF).bit_length()  # the number is coded like UTF-8
    more = max(ones - 1, 0)
    after = 5 + more
    extra = {6: 1, 7: 2}.get(sizes, 0)
    end = after + extra + {12: 1, 13: 2, 14: 2}.get(rates, 0)
    if sizes == 0 or ones in (1, 8) or end >= len(head) or _crc8(head[:end]) != head[end]:
        return None
    number = head[4] & (0xFF if ones == 0 else 0x7F >> ones)
    for byte in head[5:after]:
        number = number << 6 | byte & 63
    if extra:
        size = int.from_bytes(head[after : after + extra], "big") + 1
    else:
        size = {1: 192}.get(sizes) or (576 << sizes - 2 if sizes < 6 else 256 << sizes - 8)
    first = number if head[1] & 1 else number * most
    return first + size if first + size < 2**36 else None


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x07 if crc & 0x80 else crc << 1) & 0xFF
    return crc


def _mpeg_in_wav(data: Any, said: list[str]) -> bytes | None:
    """The data of a wav file that contains mp3 or layer II; adds a remark if it ends early."""
    at, kind, per_second = 12, 0, 0
    while at + 8 <= len(data):
        name, size = struct.unpack("<4sI", data[at : at + 8])
        if name == b"fmt " and size >= 16 and at + 20 <= len(data):
            kind, _, _, per_second = struct.unpack("<HHII", data[at + 8 : at + 20])
        if name == b"data":
            here = len(data) - at - 8
            # Programs that write to pipes put 0, or as much as they can.
            if here < size < 0x7FFFFF00 and per_second:
                said.append(
                    f"ends early: at {here / per_second:.2f} s of {size / per_second:.2f} s"
                )
            return bytes(data[at + 8 : at + 8 + size]) if kind in (0x50, 0x55) else None
        at += 8 + size + size % 2
    return None


def counted(file: soundfile.SoundFile) -> int:
    """Count samples per channel by decoding the file."""
    file.seek(0)
    count = 0
    while (read := len(file.read(_BLOCK, dtype="float32", always_2d=True))) > 0:
        count += read
    file.seek(0)
    return count


class Known:
    """A file whose length is not in its header and is found by decoding it once."""

    def __init__(self, file: soundfile.SoundFile, frames: int | None) -> None:
        self._file, self.frames = file, counted(file) if frames is None else frames

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextmanager
def seekable(file: soundfile.SoundFile) -> Iterator[soundfile.SoundFile]:
    """Yield `file` at its beginning, or a decoded copy if it can only be read once (GSM)."""
    if file.seekable():
        yield file
        return
    with tempfile.TemporaryFile() as copy:
        form = {"format": "RF64", "subtype": "PCM_16"}  # they decode to that
        with soundfile.SoundFile(copy, "w", file.samplerate, file.channels, **form) as out:
            while len(block := file.read(_BLOCK, dtype="int16", always_2d=True)):
                out.write(block)
        copy.seek(0)
        with soundfile.SoundFile(copy) as opened:
            yield opened


class Links:
    """A chained ogg file read as one. Links with another sample rate or number of channels than the first are
    skipped and counted in `left_out`."""

    def __init__(self, files: list[soundfile.SoundFile]) -> None:
        first = files[0]
        alike = (first.samplerate, first.channels)
        self._files = [file for file in files if (file.samplerate, file.channels) == alike]
        self.left_out = len(files) - len(self._files)
        self._starts = np.cumsum([0, *(file.frames for file in self._files)]).tolist()
        self.frames = self._starts[-1]
        self._at = 0
        self.copy_metadata: Callable[[], dict[str, str]] = first.copy_metadata

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files[0], name)

    def seek(self, at: int) -> int:
        self._at = at
        return at

    def read(self, count: int, dtype: str, always_2d: bool) -> Any:
        parts = []
        for file, start in zip(self._files, self._starts, strict=False):
            first, stop = max(self._at, start), min(self._at + count, start + file.frames)
            if first < stop:
                if file.tell() != first - start:
                    file.seek(first - start)
                parts.append(file.read(stop - first, dtype=dtype, always_2d=always_2d))
        if not parts:
            return np.zeros((0, self._files[0].channels), dtype)
        read = np.concatenate(parts)
        self._at += len(read)
        return read


@contextmanager
def linked(file: Path | BinaryIO) -> Iterator[Links | None]:
    """Yield a chained ogg file, such as from web radio; None for a single link or another file."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        opened: list[soundfile.SoundFile] = []
        with from_start(file) as stream:
            for number, part in enumerate(_parts(stream)):
                path = Path(folder, f"{number}.ogg")
                path.write_bytes(part)
                opened.append(stack.enter_context(soundfile.SoundFile(path)))
        yield Links(opened) if len(opened) > 1 else None


def _parts(stream: BinaryIO) -> Iterator[bytes]:
    if stream.read(4) != b"OggS":
        return
    data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    starts, at, begun = [0], 0, True  # begun: only first pages of streams so far
    while data[at : at + 4] == b"OggS" and at + 27 <= len(data):
        is_first = bool(data[at + 5] & 2)
        if is_first and not begun:
            starts.append(at)
        begun = is_first
        lengths = data[at + 27 : at + 27 + data[at + 26]]
        at += 27 + len(lengths) + sum(lengths)
    if len(starts) > 1:
        for start, stop in zip(starts, [*starts[1:], len(data)], strict=True):
            yield data[start:stop]
    data.close()
