"""One run at a time in a folder of tokens or of a training: two would write one log and delete each
other's checkpoints."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from magnet_cli.errors import UsageError

LOCK_NAME = ".lock"


@contextlib.contextmanager
def locked(folder: Path, main: bool = True) -> Iterator[None]:
    """Inside, no other run may write `folder`; the main process (`main`) holds the lock for all.

    The lock is the system's, so that it goes with the process however that ends.
    Raises UsageError: another run has it.
    """
    lock = FileLock(folder / LOCK_NAME, timeout=0)
    try:
        if main:
            lock.acquire()
    except Timeout:
        raise UsageError(
            f"Another run is writing {folder}.",
            "Wait until it ends, stop it, or use another folder.",
        ) from None
    try:
        yield
    finally:
        lock.release()
