"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


def open_to_others(path: Path) -> None:
    """Give a file the permissions that the user's umask gives: temporary files are made private."""
    path.chmod(0o666 & ~_umask())


@functools.cache
def _umask() -> int:
    # It can only be read by setting it, which other threads should not see often.
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on any error.

    The temporary file keeps the suffix (writers choose their format by it) and starts with a dot,
    so that nothing takes it for a finished file. Flushed to disk before the rename, so that a
    power cut leaves the old file or the new one.

    Raises:
        OSError: the folder cannot be written to.
    """
    target = Path(path)
    handle, name = tempfile.mkstemp(prefix=".partial-", suffix=target.suffix, dir=target.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        open_to_others(partial)
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
