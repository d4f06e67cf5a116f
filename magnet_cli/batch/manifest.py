"""The manifest DIR/manifest.jsonl: a JSON line for each clip that was made or failed.

Lines are appended and synced to disk one by one, after their files are written. For each file the last
line counts; among the manifests of several shards, the newest by `at`. Each run begins with a line
`{"run": ...}`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from magnet_cli.batch.jobs import Shard
from magnet_cli.errors import UsageError
from magnet_cli.files import PARTIAL, write_error
from magnet_cli.foreign import reading
from magnet_cli.targets import MANIFEST_STEM

_LONGEST_LINE = 1_000_000  # bytes; prompts are far shorter (data.prompts)
_STALE_SECONDS = 600.0  # a partial file not written for so long is abandoned
_PATIENCE = 2.0  # seconds to try for a lock: shards that start take others for a moment
_STARTS = (b'{"run": ', b'{"file": ')  # of our lines


@dataclass
class Manifest:
    """Records of a folder's clips, and the open file to append to.

    Attributes:
        path: the manifest's file.
        clips: the last record of each clip, by its file in the folder.
        run: the last run's record; empty if there was no run.
        begun: when the first run began, in seconds since the epoch; 0: unknown.
        damaged: number of lines that could not be read, such as one cut by a crash.
    """

    path: Path
    clips: dict[str, dict[str, Any]] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    begun: float = 0.0
    damaged: int = 0
    _file: BinaryIO | None = None

    @classmethod
    def read(cls, folder: Path, shard: Shard, alone: bool = False) -> Manifest:
        """Read a folder's manifests, unless `alone` including those of other shards; all may be missing.
        Raises MagnetError: one exists but cannot be read."""
        manifest = cls(folder / manifest_name(shard))
        try:
            files = [] if alone else sorted(folder.glob(f"{MANIFEST_STEM}*.jsonl"))
        except OSError as error:  # a name that is too long
            raise _unreadable(manifest.path, error) from error
        others = [path for path in files if path != manifest.path]
        for path in (*others, manifest.path):  # its own last, as that counts
            manifest._take_file(path)
        return manifest

    @property
    def mark(self) -> str:
        """Mark in the names of this folder's unfinished files (files.marked)."""
        return mark_of(self.path)

    @property
    def anything_done(self) -> bool:
        """Whether any clip is done."""
        return any(clip["status"] == "done" for clip in self.clips.values())

    def begin(self, run: Mapping[str, Any]) -> None:
        """Record the start of this run. Raises MagnetError: the file cannot be written."""
        at = now()
        self.begun = self.begun if self.run else _epoch(at)
        self.run = {**run, "at": at}
        self._append({"run": self.run})

    def add(self, clip: Mapping[str, Any]) -> None:
        """Record a clip, with `file` and `status`, and sync it to disk.
        Raises MagnetError: the file cannot be written."""
        self.clips[clip["file"]] = dict(clip)
        self._append(clip)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _take_file(self, path: Path) -> None:
        try:
            with reading.open_regular(path, follow=False) as file:
                while line := file.readline(_LONGEST_LINE + 1):
                    self._take(line)
        except FileNotFoundError:
            return
        except (OSError, reading.ReadError) as error:
            raise _unreadable(path, error) from error

    def _take(self, line: bytes) -> None:
        record = _parsed(line)
        if record is not None and isinstance(record.get("run"), dict):
            began = _epoch(record["run"].get("at"))
            self.begun = min(self.begun, began) if self.run else began
            if not _is_older(record["run"], self.run):
                self.run = record["run"]
        elif record is not None and _is_clip(record):
            if not _is_older(record, self.clips.get(record["file"], {})):
                self.clips[record["file"]] = record
        else:
            self.damaged += 1

    def _append(self, record: Mapping[str, Any]) -> None:
        try:
            if self._file is None:
                self._file = self._open()
            self._file.write(json.dumps(record).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise write_error(self.path, error) from error

    def _open(self) -> BinaryIO:
        # Never follow a link, whose target would be truncated and written to.
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        flags |= getattr(os, "O_BINARY", 0)  # no CRLF on Windows
        file = os.fdopen(os.open(self.path, flags, 0o666), "a+b")
        # Remove a last line of ours that a crash cut, so that it does not spoil the next; if it only lacks
        # its newline, or is somebody else's, add that.
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _LONGEST_LINE))
        tail = file.read().rpartition(b"\n")[2]
        if tail:
            if _parsed(tail) is None and _is_begun(tail, *_STARTS):
                file.truncate(size - len(tail))
            else:
                file.write(b"\n")
        return file


def now() -> str:
    """The current time in ISO 8601, UTC, which sorts as text."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def manifest_name(shard: Shard) -> str:
    """A shard's manifest name; each has its own, as shards may run on machines that share a disk."""
    return f"{MANIFEST_STEM}{shard.suffix}.jsonl"


@contextlib.contextmanager
def open_manifest(folder: Path, shard: Shard) -> Iterator[Manifest]:
    """Lock and open the manifest of a folder, creating the folder if necessary.

    The operating system releases the lock when the process ends in any way. Partial files of a killed run
    in this folder are removed, and no other files.

    Raises:
        UsageError: another process works in the folder, or its manifest.jsonl is not a batch's.
        MagnetError: the folder cannot be created or written to.
    """
    path = folder / manifest_name(shard)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from error
    _refuse_strange(path)
    lock = _locked(_lock_of(path))
    try:
        _refuse_other_shards(folder, shard)
        _refuse_another_file(Manifest.read(folder, shard, alone=True))
        _remove_stale(folder, mark_of(path))
        manifest = Manifest.read(folder, shard)
        try:
            yield manifest
        finally:
            manifest.close()
    finally:
        lock.release()


def _is_begun(line: bytes, *starts: bytes) -> bool:
    """Whether a line begins with one of some texts, or is the beginning of one."""
    return any(line.startswith(start) or start.startswith(line) for start in starts)


def _parsed(line: bytes) -> dict[str, Any] | None:
    """A line's JSON object, or None."""
    try:
        record = reading.json_of(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _is_clip(record: Mapping[str, Any]) -> bool:
    """Whether a record is a clip's, with the right types for resuming."""
    return (
        isinstance(record.get("file"), str)
        and record.get("status") in ("done", "failed")
        and isinstance(record.get("settings", {}), dict)
    )


def _unreadable(path: Path, error: Exception) -> UsageError:
    if isinstance(error, NotADirectoryError):
        return UsageError(f"{path.parent} is not a folder.", "Choose a folder with -O.")
    return UsageError(
        f"{path} cannot be read: {reading.reason(error)}.",
        "Move it away, or choose another folder with -O.",
    )


def mark_of(manifest: Path) -> str:
    """The mark of a folder's unfinished files, different for batches in parent and subfolders."""
    return hashlib.sha256(os.fsencode(os.path.realpath(manifest))).hexdigest()[:12]


def _epoch(at: Any) -> float:
    """A recorded time in seconds since the epoch; 0 if there is none."""
    try:
        return datetime.fromisoformat(at).timestamp()
    except (TypeError, ValueError, OverflowError, OSError):
        return 0.0


def _is_older(record: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """Whether a record is older than another; False if either has no time."""
    at, known_at = record.get("at"), known.get("at")
    return isinstance(at, str) and isinstance(known_at, str) and at < known_at


def _lock_of(manifest: Path) -> Path:
    return manifest.with_name(f".{manifest.name}.lock")


def _refuse_other_shards(folder: Path, shard: Shard) -> None:
    """Raise UsageError if a run with another division is active, which would make the same clips."""
    for path in folder.glob(f".{MANIFEST_STEM}*.jsonl.lock"):
        suffix = path.name.removeprefix(f".{MANIFEST_STEM}").removesuffix(".jsonl.lock")
        if suffix == shard.suffix or shard.shares_nothing_with(suffix):
            continue
        _locked(path).release()


def _locked(path: Path) -> FileLock:
    """Take a lock. Raises UsageError: another process holds it, or it is not a file; MagnetError: it cannot
    be written to."""
    _refuse_strange(path)
    lock = FileLock(path, timeout=_PATIENCE)
    try:
        lock.acquire(poll_interval=random.uniform(0.02, 0.1))  # so that many do not try at once
    except Timeout as error:
        raise _busy(path.parent) from error
    except OSError as error:
        raise write_error(path, error) from error
    return lock


def _refuse_another_file(own: Manifest) -> None:
    """Raise UsageError if a file of the manifest's name has lines, but none of a batch: it may be the user's
    prompts or list of sounds, which no line may be added to or removed from."""
    if not own.damaged or own.run or own.clips:
        return
    with reading.open_regular(own.path, follow=False) as file:
        first = file.readline(_LONGEST_LINE)
    # A run that was killed at once has left the beginning of its first line.
    if first.endswith(b"\n") or not _is_begun(first, _STARTS[0]):
        raise UsageError(
            f"{own.path} is not the manifest of a batch.",
            "Move it away, or choose another folder with -O.",
        )


def _busy(folder: Path) -> UsageError:
    return UsageError(
        f"Another batch is running in {folder}.", "Wait for it, or choose another folder with -O."
    )


def _refuse_strange(path: Path) -> None:
    """Raise UsageError if a manifest or lock is a link, a pipe or a folder, as it will be written to."""
    try:
        reading.open_regular(path, follow=False).close()
    except FileNotFoundError:
        return
    except (OSError, reading.ReadError) as error:
        raise _unreadable(path, error) from error


def _remove_stale(folder: Path, mark: str) -> None:
    for path in folder.rglob(f"{PARTIAL}{mark}-*"):
        with contextlib.suppress(OSError):
            stale = time.time() - path.lstat().st_mtime > _STALE_SECONDS
            if stale and path.is_file() and not path.is_symlink():
                path.unlink()
