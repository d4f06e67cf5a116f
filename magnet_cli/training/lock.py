"""A lock on a folder of tokens or a training run: two runs would write one log and delete each other's
checkpoints."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from magnet_cli.errors import UsageError

LOCK_NAME = ".lock"


@contextlib.contextmanager
def locked(folder: Path, main: bool = True) -> Iterator[None]:
    """Hold the lock on `folder`; the main process (`main`) holds it for all.

    The operating system holds the lock, so it is released when the process ends in any way.
    Raises UsageError: another run holds it.
    """
    with contextlib.ExitStack() as held:
        try:
            if main:
                held.enter_context(FileLock(folder / LOCK_NAME, timeout=0))
        except Timeout:
            raise UsageError(
                f"Another run is writing {folder}.",
                "Wait until it ends, stop it, or use another folder.",
            ) from None
        yield
