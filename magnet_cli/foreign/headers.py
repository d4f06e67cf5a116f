"""What files of weights say of themselves, looked at before a library is given them. No torch here.

A safetensors file begins with the names and shapes of its tensors. A pickle of torch is a zip archive whose
members lie in it as they are; an older one is a stream of instructions. Nothing in either is run here.
"""

from __future__ import annotations

import io
import json
import math
import pickletools
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from magnet_cli.foreign import reading
from magnet_cli.foreign.reading import ReadError

_MOST_HEADER = 32_000_000  # bytes: a model of 3 billion parameters has 200,000
_MOST_PICKLE = 64_000_000  # bytes of instructions, likewise
_MOST_TENSORS = 200_000


@dataclass(frozen=True)
class Weights:
    """The tensors of a safetensors file, by name: their shapes, and what the file says beside."""

    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]

    def layers(self, prefix: str) -> int:
        """How many numbers follow a prefix, as of `layers.0.weight` and `layers.1.weight`."""
        found = {
            name[len(prefix) :].partition(".")[0] for name in self.shapes if name.startswith(prefix)
        }
        return sum(number.isdecimal() for number in found)


def safetensors(path: Path) -> Weights:
    """The header of a safetensors file.

    Raises:
        ReadError: it is none, or says what its own size does not allow.
        OSError: it is not there, or may not be read.
    """
    with reading.open_regular(path) as file:
        file.seek(0, 2)
        size = file.tell()
        file.seek(0)
        start = file.read(8)
        if start == b"version ":
            raise ReadError(reading.LFS_REASON)
        if len(start) < 8:
            raise ReadError("it is empty" if not start else "it is cut short")
        length = struct.unpack("<Q", start)[0]
        if length > min(size - 8, _MOST_HEADER):
            raise ReadError("it is cut short, or no safetensors file")
        text = file.read(length)
    try:
        said = json.loads(text)
    except RecursionError:
        raise ReadError("its header is nested too deeply") from None
    except ValueError:
        raise ReadError("it is no safetensors file, or damaged") from None
    if not isinstance(said, dict) or len(said) > _MOST_TENSORS:
        raise ReadError("its header does not name tensors")
    metadata = said.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ReadError("its header holds what is no text")
    return Weights({name: _shape(name, each, size) for name, each in said.items()}, metadata)


def _shape(name: str, said: Any, size: int) -> tuple[int, ...]:
    shape = said.get("shape") if isinstance(said, dict) else None
    if not isinstance(shape, list) or not all(type(n) is int and 0 <= n < 2**48 for n in shape):
        raise ReadError(f"its header gives {name[:60]!r} no shape")
    # No kind of number takes less than half a byte.
    if math.prod(shape) > 2 * size:
        raise ReadError(f"{name[:60]!r} would be larger than the file")
    return tuple(shape)


def check_pickle(path: Path) -> None:
    """Refuse a pickle of torch that could take more memory than its own size, or that is none.

    Raises:
        ReadError: it is.
        OSError: it is not there, or may not be read.
    """
    with reading.open_regular(path) as file:
        start = file.read(8)
        if start == b"version ":
            raise ReadError(reading.LFS_REASON)
        if not start:
            raise ReadError("it is empty")
        size = file.seek(0, 2)
        file.seek(0)
        if start[:4] == b"PK\x03\x04":
            _check_archive(file, size)
        else:
            _check_stream(file, size)


def _check_archive(file: BinaryIO, size: int) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise ReadError("it is compressed, which torch's own files are not")
            if sum(member.file_size for member in members) > size:
                raise ReadError("it holds more than its own size")
            for member in members:
                if member.filename.endswith("/data.pkl"):
                    if member.file_size > _MOST_PICKLE:
                        raise ReadError(f"it has more than {_MOST_PICKLE // 1_000_000} MB of names")
                    _check_numbers(io.BytesIO(archive.read(member)), size, pickles=1)
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError):
        raise ReadError("it is cut short or damaged") from None


def _check_stream(file: BinaryIO, size: int) -> None:
    """Older than torch 1.6: a number that marks torch's files, two small pickles, the content, and the
    storages' names."""
    _check_numbers(file, size, pickles=5)


def _check_numbers(file: BinaryIO, size: int, pickles: int) -> None:
    """Refuse numbers beyond the file's own size: they are lengths, shapes and strides, for which memory
    would be taken. What is no pickle at all is for torch to say."""
    most = max(size, _LEAST)
    try:
        for _ in range(pickles):
            for code, argument, _ in pickletools.genops(file):
                if isinstance(argument, int) and most < abs(argument) != _MAGIC:
                    raise ReadError(f"it speaks of more than its own size, in {code.name}")
    except ReadError:
        raise
    except Exception:  # pickletools raises anything
        return


_LEAST = 1 << 31  # times and the like are below it
_MAGIC = 0x1950A86A20F9469CFC6C
