"""One run at a time in a training folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from magnet_cli.errors import UsageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK_NAME = ".lock"


@contextlib.contextmanager
def locked(folder: Path, main: bool = True) -> Iterator[None]:
    """Inside, no other run may write `folder`; the main process (`main`) holds the lock for all.

    The lock is the kernel's, so that it goes with the process however that ends.
    Raises UsageError: another run has it.
    """
    if not main or fcntl is None:
        yield
        return
    with (folder / LOCK_NAME).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            who = file.read().strip()
            raise UsageError(
                f"Another run{f' (process {who})' if who else ''} is writing {folder}.",
                "Wait for its end, stop it, or train into another folder.",
            ) from None
        except OSError:  # a file system without locks
            yield
            return
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
