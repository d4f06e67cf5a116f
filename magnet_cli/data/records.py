"""Records of a byte stream, as they arrive: lines, or what stands between NULs. Never a longer one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

LONGEST_RECORD = 1_000_000  # bytes; a prompt file's line is a few hundred
_CHUNK = 65_536


class Readable(Protocol):
    """A buffered binary stream: an open file, a pipe, stdin's buffer, BytesIO."""

    def read1(self, size: int = -1, /) -> bytes:
        """At most `size` bytes, as soon as there are any; none at the end."""
        ...


def records(
    stream: Readable, separator: bytes = b"\n", longest: int = LONGEST_RECORD
) -> Iterator[bytes | None]:
    """Yield each record without its separator, as soon as it is complete.

    None stands for a record of more than `longest` bytes, which is read to its end and not kept: a
    file without a line's end costs no memory. What stands behind the last separator is a record
    where it is not empty.
    """
    kept, overlong = bytearray(), False
    while chunk := stream.read1(_CHUNK):
        *complete, rest = chunk.split(separator)
        for piece in complete:
            overlong = overlong or len(kept) + len(piece) > longest
            yield None if overlong else bytes(kept + piece)
            kept.clear()
            overlong = False
        kept += rest
        if len(kept) > longest:
            kept.clear()
            overlong = True
    if kept or overlong:
        yield None if overlong else bytes(kept)
