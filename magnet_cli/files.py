"""Files and directories that appear whole or not at all."""

from __future__ import annotations

import contextlib
import contextvars
import errno
import functools
import itertools
import os
import re
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magnet_cli.errors import AudioFileError, MagnetError, NoRoomError, UsageError

PARTIAL = ".partial-"  # what the name of an unfinished file begins with
_mark = contextvars.ContextVar("mark", default="")

_NO_ROOM = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}

# What ends a program from outside: job queues and containers send SIGTERM, a terminal that closes SIGHUP.
ENDINGS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))

_HELD_OPEN = {5, 32, 33}  # Windows' access denied, sharing violation, lock violation


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
def uninterrupted() -> Iterator[None]:
    """Inside, Ctrl-C and what is handled of `ENDINGS` wait for the end.

    A library that calls back into Python, as libsndfile does for every block it writes, loses the
    exception that a signal raises there, and fails with words of its own instead.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread alone
        return
    came: list[tuple[int, Any]] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *ENDINGS)}
    held = {number: handler for number, handler in before.items() if callable(handler)}
    for number in held:
        signal.signal(number, lambda number, frame: came.append((number, frame)))
    try:
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
        for first, frame in came[:1]:
            held[signal.Signals(first)](first, frame)


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """Inside, nothing reaches stderr: libraries in C, as mpg123 of a damaged mp3, print there what no user
    can use. What other threads write meanwhile is lost, too: keep it short."""
    with uninterrupted():
        _mute.enter()
        try:
            yield
        finally:
            _mute.leave()


class _Mute:
    """The one stderr of a process: the first thread that asks mutes it, the last one restores it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._kept = -1  # the true stderr; -1: nothing is muted

    def enter(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside > 1:
                return
            # There may be no stderr, or no more files can be opened: then nothing is muted.
            with contextlib.suppress(OSError), open(os.devnull, "wb") as nowhere:
                self._kept = os.dup(2)
                os.dup2(nowhere.fileno(), 2)

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside and self._kept >= 0:
                os.dup2(self._kept, 2)
                os.close(self._kept)
                self._kept = -1


_mute = _Mute()


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
def plain_errors() -> Iterator[None]:
    """Inside, a disk that is full is an OSError, also where safetensors or torch were writing, which say so
    by exceptions and in words of their own.

    Raises OSError: with the system's number, and of torch, which does not tell it, with that of a full disk.
    """
    try:
        yield
    except Exception as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if type(error).__name__ == "SafetensorError" and number:
            code = int(number[1])
            raise OSError(code, os.strerror(code)) from error
        if isinstance(error, RuntimeError) and any(word in str(error) for word in _TORCH_WRITES):
            raise OSError(errno.ENOSPC, "the disk is full, or cannot be written to") from error
        raise


_TORCH_WRITES = ("PytorchStreamWriter", "inline_container", "unexpected pos", "iostream error")


@contextlib.contextmanager
def marked(mark: str) -> Iterator[None]:
    """Inside, in this thread, unfinished files bear a mark: who finds one later knows whose it is."""
    before = _mark.set(f"{mark}-")
    try:
        yield
    finally:
        _mark.reset(before)


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
def written(path: str | os.PathLike[str], make_folder: bool = False) -> Iterator[Path]:
    """Like `atomic_path`, but an OSError is raised as `write_error` words it."""
    try:
        if make_folder:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as partial:
            yield partial
    except OSError as error:
        raise write_error(path, error) from error


@contextlib.contextmanager
def draft(path: str | os.PathLike[str], replace: bool) -> Iterator[Draft]:
    """The same, for a name that may be taken by the time the file is complete.

    Args:
        path: where to.
        replace: what is there goes. Otherwise it stays, links to nothing too, and the file gets a
            number (out-2.wav): minutes of work are not thrown away for a name.

    Raises OSError: the folder cannot be written to; AudioFileError: as `refuse_device`.
    """
    target = Path(path)
    refuse_device(target)
    prefix = f"{PARTIAL}{_mark.get()}"
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=target.suffix, dir=target.parent)
    os.close(handle)
    made = Draft(Path(name), target)
    try:
        with plain_errors():
            yield made
        open_to_others(made.path)
        with made.path.open("r+b") as written:  # Windows flushes only what may be written to
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


def write_directory(
    directory: Path, write: Callable[[Path], None], overwrite: bool = False
) -> None:
    """Write a directory that appears whole or not at all.

    Args:
        write: called with a temporary directory beside `directory`, which becomes it on success.
        overwrite: replace what is there.

    Raises:
        UsageError: something is there, and is not to be replaced.
        OSError: it cannot be written.
    """
    refuse_link(directory)
    if directory.exists() and not overwrite:
        raise UsageError(f"{directory} exists already.", "Choose another name, or remove it first.")
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=directory.parent))
    replaced = partial.with_name(partial.name + ".old")
    try:
        partial.chmod(0o777 & ~_umask())  # mkdtemp makes private ones
        with plain_errors():
            write(partial)
        if directory.exists():
            # A directory cannot be renamed onto one that holds files: the old one steps aside.
            os.rename(directory, replaced)
        os.rename(partial, directory)
    except BaseException:
        if replaced.exists() and not directory.exists():
            os.rename(replaced, directory)
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def refuse_link(directory: Path) -> None:
    """Refuse to replace a link: it would be renamed, not its folder, which nobody has asked for.
    Raises UsageError: it is one."""
    if directory.is_symlink():
        raise UsageError(f"{directory} is a link.", "Name the folder that it leads to.")


def refuse_device(path: Path) -> None:
    """Refuse what a rename would take away from the whole machine, as /dev/null, or /dev/stdout even where
    it leads to a file. Raises AudioFileError: it is no regular file."""
    folder = os.path.realpath(path.parent)
    odd = folder == "/dev" or not (path.is_file() or path.is_dir())
    if folder.startswith("/proc/") or (odd and path.exists()):
        raise AudioFileError(
            f"{path} is not a regular file.", "Name a file; a sound goes to stdout with -o -."
        )


def write_error(path: str | os.PathLike[str], error: OSError, room: str = "") -> MagnetError:
    """What to tell a user whose file could not be written; `room`: what to do where a disk is full."""
    reason = error.strerror or str(error)
    if error.errno in _NO_ROOM:
        return NoRoomError(
            f"There is no room for {path}: {reason}.",
            room or "Nothing was left half written. Make room, or write to another disk.",
        )
    hint = "Choose a folder that exists and can be written to."
    if getattr(error, "winerror", None) in _HELD_OPEN:
        hint = "If a player or an editor has it open, close it there; or give another name."
    return AudioFileError(f"{path} cannot be written: {reason}.", hint)
