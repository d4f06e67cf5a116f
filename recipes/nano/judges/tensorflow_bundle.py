"""Read the tensors of a TensorFlow checkpoint (`.index` + `.data-00000-of-00001`) without TensorFlow.

The index is a LevelDB table: a footer points to an index block, which points to data blocks with
prefix-compressed keys; each value is a small protocol buffer (BundleEntryProto) with the dtype, the shape and
the position of the tensor's bytes in the data file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

_FOOTER_BYTES = 48
_BLOCK_TRAILER_BYTES = 5  # compression type and checksum
_DT_FLOAT = 1


def read_bundle(prefix: str) -> dict[str, np.ndarray]:
    """Float32 tensors of the checkpoint whose files are `<prefix>.index` and `<prefix>.data-…`, by name.

    Raises:
        ValueError: a block is compressed, or the files are not such a checkpoint.
    """
    table = Path(f"{prefix}.index").read_bytes()
    data = Path(f"{prefix}.data-00000-of-00001").read_bytes()
    tensors = {}
    footer = table[-_FOOTER_BYTES:]
    _, at = _varint(footer, 0)  # the metaindex block, which is not needed
    _, at = _varint(footer, at)
    for _, handle in _block(table, footer[at:]):
        for key, value in _block(table, handle):
            if not key:  # the header of the bundle
                continue
            fields = _fields(value)
            if fields.get(1) != _DT_FLOAT:
                continue
            shape = [int(size) for size in fields.get(2, [])]
            start, length = int(fields.get(4, 0)), int(fields[5])
            tensor = np.frombuffer(data[start : start + length], dtype="<f4")
            tensors[key.decode()] = tensor.reshape(shape)
    return tensors


def _block(table: bytes, handle: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of every entry in the block that a handle (offset, size) points to."""
    start, at = _varint(handle, 0)
    size, _ = _varint(handle, at)
    block = table[start : start + size]
    if table[start + size] != 0:
        raise ValueError("The checkpoint's index is compressed, which this reader does not know.")
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (restarts + 1)
    at, key = 0, b""
    while at < end:
        shared, at = _varint(block, at)
        fresh, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + fresh]
        at += fresh
        yield key, block[at : at + length]
        at += length


def _fields(message: bytes) -> dict[int, int | list[int]]:
    """BundleEntryProto: 1 dtype, 2 shape (a list of sizes), 4 offset, 5 size."""
    found: dict[int, int | list[int]] = {}
    for number, value in _wire(message):
        if number == 2:
            dims = [dict(_wire(dim)) for tag, dim in _wire(value) if tag == 2]
            found[2] = [int(dim.get(1, 0)) for dim in dims]
        elif isinstance(value, int):
            found[number] = value
    return found


def _wire(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field number and value of each field of a protocol buffer."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield number, value
        elif kind == 2:
            length, at = _varint(message, at)
            yield number, message[at : at + length]
            at += length
        elif kind == 5:
            at += 4  # the checksum
        else:
            raise ValueError(f"Field {number} of the checkpoint's index has unknown kind {kind}.")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
