"""Atomic writing: files and directories appear complete or not at all."""

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
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from magnet_cli.errors import AudioFileError, MagnetError, NoRoomError, UsageError

PARTIAL = ".partial-"  # prefix of unfinished files
_mark = contextvars.ContextVar("mark", default="")

NO_ROOM = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}

# What ends a program from outside: job queues and containers send SIGTERM, a terminal that closes SIGHUP.
ENDINGS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))

_HELD_OPEN = {5, 32, 33}  # Windows' access denied, sharing violation, lock violation


def open_to_others(path: Path) -> None:
    """Give a file the permissions of the user's umask, because temporary files are private."""
    path.chmod(0o666 & ~_umask())


@functools.cache
def _umask() -> int:
    # Cached, because it can only be read by setting it, which affects other threads.
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C and handled signals of `ENDINGS` until the end of the block.

    A library that calls back into Python, as libsndfile does for every block it writes, loses an exception
    that a signal raises there, and fails with its own message instead.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach only the main thread
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
    """Discard all output to stderr, and to C's stdout, in the block, such as what mpg123 and libsndfile print
    about damaged files. Other threads' stderr is lost, too, so keep the block short."""
    with uninterrupted():
        _mute.enter()
        try:
            yield
        finally:
            _mute.leave()


class _Mute:
    """Mutes the stderr of the process: the first thread to enter mutes it, the last to leave restores it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._kept = -1  # a duplicate of stderr; -1: not muted
        self._stdout: int | None = None  # C's own, while it is muted

    def enter(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside > 1:
                return
            # Without a stderr or free file descriptors nothing is muted.
            with contextlib.suppress(OSError), open(os.devnull, "wb") as nowhere:
                self._kept = os.dup(2)
                os.dup2(nowhere.fileno(), 2)
                if streams := _c_streams():
                    self._stdout, streams[0].value = streams[0].value, streams[1].value

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside and self._kept >= 0:
                if streams := _c_streams():
                    streams[0].value = self._stdout
                os.dup2(self._kept, 2)
                os.close(self._kept)
                self._kept = -1


_mute = _Mute()


@functools.cache
def _c_streams() -> tuple[Any, Any] | None:
    """C's variables `stdout` and `stderr` (c_void_p), which Python itself never writes to; None where they
    are not found, or are constants, as in musl."""
    import ctypes  # not at start-up, as most commands read no sound
    import platform

    names = ("__stdoutp", "__stderrp") if sys.platform == "darwin" else ("stdout", "stderr")
    if sys.platform != "darwin" and platform.libc_ver()[0] != "glibc":
        return None
    try:
        program = ctypes.CDLL(None)
        out, err = (ctypes.c_void_p.in_dll(program, name) for name in names)
    except (OSError, ValueError):  # a statically linked Python
        return None
    return out, err


@contextlib.contextmanager
def from_start(source: Path | BinaryIO) -> Iterator[BinaryIO]:
    """Open a file, or take a seekable stream, to read it from its beginning, where a stream is left."""
    with source.open("rb") if isinstance(source, Path) else contextlib.nullcontext(source) as file:
        file.seek(0)
        yield file
        file.seek(0)


@dataclass
class Draft:
    """A file that is being written.

    Attributes:
        path: the temporary file to write.
        final: the final name. It may change on completion, if another file has taken it meanwhile.
    """

    path: Path
    final: Path


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Turn exceptions of safetensors and torch about failed writes into OSError.

    Raises OSError: with the system's errno; for torch, which does not give it, ENOSPC.
    """
    try:
        yield
    except Exception as error:
        number = re.search(r"(?:\(os error|Os \{ code:) (\d+)", str(error))
        if type(error).__name__ == "SafetensorError" and number:
            code = int(number[1])
            raise OSError(code, os.strerror(code)) from error
        if isinstance(error, RuntimeError) and any(word in str(error) for word in _TORCH_WRITES):
            raise OSError(errno.ENOSPC, "the disk is full, or cannot be written to") from error
        raise


_TORCH_WRITES = ("PytorchStreamWriter", "inline_container", "unexpected pos", "iostream error")


@contextlib.contextmanager
def marked(mark: str) -> Iterator[None]:
    """Put a mark into the names of unfinished files of this thread, which identifies their owner."""
    before = _mark.set(f"{mark}-")
    try:
        yield
    finally:
        _mark.reset(before)


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on any error.

    The temporary file keeps the suffix, by which writers choose their format, and starts with a dot, so that
    it is not mistaken for a finished file. It is flushed to disk before the rename, so that a power cut
    leaves the old file or the new one. Raises OSError: the folder cannot be written to.
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
    """Like `atomic_path`, for a name that may be taken by the time the file is complete.

    Args:
        path: the file to write.
        replace: replace an existing file. Otherwise it is kept, even if a dangling link, and the new file
            gets a number (out-2.wav).

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
        with made.path.open("r+b") as written:  # Windows flushes only writable files
            os.fsync(written.fileno())
        if replace:
            os.replace(made.path, target)
        else:
            made.final = _placed(made.path, target)
    except BaseException:
        made.path.unlink(missing_ok=True)
        raise


def _placed(partial: Path, target: Path) -> Path:
    """Rename a file to the first free name of `target`, target-2, target-3, ..."""
    place = target
    for number in itertools.count(2):
        if _renamed(partial, place):
            break
        place = target.with_name(f"{target.stem}-{number}{target.suffix}")
    return place


def _renamed(partial: Path, place: Path) -> bool:
    """Rename a file, unless the name is taken."""
    try:
        os.link(partial, place)  # unlike a rename, never replaces
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links, such as FAT
        if os.path.lexists(place):
            return False
        os.replace(partial, place)
        return True
    partial.unlink()
    return True


def write_directory(
    directory: Path, write: Callable[[Path], None], overwrite: bool = False
) -> None:
    """Write a directory atomically.

    Args:
        write: called with a temporary directory beside `directory`, which is renamed on success.
        overwrite: replace an existing directory.

    Raises:
        UsageError: it exists and `overwrite` is off, or is a link.
        OSError: it cannot be written.
    """
    refuse_link(directory)
    if directory.exists() and not overwrite:
        raise UsageError(f"{directory} exists already.", "Choose another name, or remove it first.")
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=directory.parent))
    replaced = partial.with_name(partial.name + ".old")
    try:
        partial.chmod(0o777 & ~_umask())  # mkdtemp makes private directories
        with plain_errors():
            write(partial)
        if directory.exists():
            # A directory cannot be renamed onto a non-empty one, so the old one is moved away first.
            os.rename(directory, replaced)
        os.rename(partial, directory)
    except BaseException:
        if replaced.exists() and not directory.exists():
            os.rename(replaced, directory)
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def refuse_link(directory: Path) -> None:
    """Check that a directory is not a link, as replacing it would replace the link, not its folder.
    Raises UsageError: it is one."""
    if directory.is_symlink():
        raise UsageError(f"{directory} is a link.", "Name the folder that it points to.")


def refuse_device(path: Path) -> None:
    """Check that a path is not a device such as /dev/null, which a rename would replace system-wide.
    Raises AudioFileError: it is not a regular file, or lies in /dev or /proc."""
    folder = os.path.realpath(path.parent)
    odd = folder == "/dev" or not (path.is_file() or path.is_dir())
    if folder.startswith("/proc/") or (odd and path.exists()):
        raise AudioFileError(
            f"{path} is not a regular file.", "Name a file; a sound goes to stdout with -o -."
        )


def write_error(path: str | os.PathLike[str], error: OSError, room: str = "") -> MagnetError:
    """The error for a file that could not be written; `room`: the hint if the disk is full."""
    reason = error.strerror or str(error)
    if error.errno in NO_ROOM:
        return NoRoomError(
            f"There is no room for {path}: {reason}.",
            room or "No partial file was left. Free some space, or write to another disk.",
        )
    hint = "Choose an existing, writable folder."
    if getattr(error, "winerror", None) in _HELD_OPEN:
        hint = "Close it in other programs that have it open, or choose another name."
    return AudioFileError(f"{path} cannot be written: {reason}.", hint)
