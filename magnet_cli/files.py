"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from magnet_cli.errors import AudioFileError, MagnetError, NoRoomError

_NO_ROOM = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


def open_to_others(path: Path) -> None:
    """Give a file the permissions that the user's umask gives: temporary files are made private."""
    path.chmod(0o666 & ~_umask())


@functools.cache
def _umask() -> int:
    # It can only be read by setting it, which other threads should not see often.
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


@dataclass
class Draft:
    """A file that is being written.

    Attributes:
        path: where to write it.
        final: where it goes. Known for certain once it is complete: a name that someone else has
            taken meanwhile is not theirs to lose.
    """

    path: Path
    final: Path


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on any error.

    The temporary file keeps the suffix (writers choose their format by it) and starts with a dot,
    so that nothing takes it for a finished file. Flushed to disk before the rename, so that a power
    cut leaves the old file or the new one. Raises OSError: the folder cannot be written to.
    """
    with draft(path, replace=True) as made:
        yield made.path


@contextlib.contextmanager
def draft(path: str | os.PathLike[str], replace: bool) -> Iterator[Draft]:
    """The same, for a name that may be taken by the time the file is complete.

    Args:
        path: where to.
        replace: what is there goes. Otherwise it stays, links to nothing too, and the file gets a
            number (out-2.wav): minutes of work are not thrown away for a name.

    Raises OSError: the folder cannot be written to.
    """
    target = Path(path)
    handle, name = tempfile.mkstemp(prefix=".partial-", suffix=target.suffix, dir=target.parent)
    os.close(handle)
    made = Draft(Path(name), target)
    try:
        yield made
        open_to_others(made.path)
        with made.path.open("rb") as written:
            os.fsync(written.fileno())
        if replace:
            os.replace(made.path, target)
        else:
            made.final = _placed(made.path, target)
    except BaseException:
        made.path.unlink(missing_ok=True)
        raise


def _placed(partial: Path, target: Path) -> Path:
    """Give a file the first name of `target`, target-2, target-3, ... that is free."""
    place = target
    for number in itertools.count(2):
        if _renamed(partial, place):
            break
        place = target.with_name(f"{target.stem}-{number}{target.suffix}")
    return place


def _renamed(partial: Path, place: Path) -> bool:
    """Rename a file, unless the name is taken."""
    try:
        os.link(partial, place)  # unlike a rename, it never replaces
    except FileExistsError:
        return False
    except OSError:  # a disk without hard links, a FAT one for example: look, then rename
        if os.path.lexists(place):
            return False
        os.replace(partial, place)
        return True
    partial.unlink()
    return True


def write_error(path: str | os.PathLike[str], error: OSError) -> MagnetError:
    """What to tell a user whose file could not be written."""
    reason = error.strerror or str(error)
    if error.errno in _NO_ROOM:
        return NoRoomError(
            f"There is no room for {path}: {reason}.",
            "Nothing was left half written. Make room, or write to another disk.",
        )
    return AudioFileError(
        f"{path} cannot be written: {reason}.", "Choose a folder that exists and can be written to."
    )
