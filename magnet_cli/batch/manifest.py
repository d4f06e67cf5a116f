"""The manifest: one JSON line for each clip of a batch that was made or failed, in DIR/manifest.jsonl.

Lines are appended and flushed to the disk one by one, after their files: a line that says "done" is
true. The last line of a file is the one that holds; between the manifests of several shards the
newest one, by `at`. A line `{"run": ...}` opens every run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
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
_STALE_SECONDS = 600.0  # a partial file that was not written to for so long belongs to no one


@dataclass
class Manifest:
    """What is known of the clips of a folder, and the open file where more is noted.

    Attributes:
        path: of the file.
        clips: the last line of each clip, by its file below the folder.
        run: how the last run was started; empty where there was none.
        damaged: lines that could not be read, such as one that a crash cut.
    """

    path: Path
    clips: dict[str, dict[str, Any]] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    damaged: int = 0
    _file: BinaryIO | None = None

    @classmethod
    def read(cls, folder: Path, shard: Shard) -> Manifest:
        """What a folder's manifests say; none need be there.

        Those of other shards are read, too: what they have made is made.

        Raises:
            MagnetError: one is there and cannot be read.
        """
        manifest = cls(folder / manifest_name(shard))
        others = sorted(set(folder.glob(f"{MANIFEST_STEM}*.jsonl")) - {manifest.path})
        for path in (*others, manifest.path):  # its own last: that holds
            manifest._take_file(path)
        return manifest

    @classmethod
    def read_one(cls, folder: Path, shard: Shard) -> Manifest:
        """What the manifest of one shard alone says. Errors as `read`."""
        manifest = cls(folder / manifest_name(shard))
        manifest._take_file(manifest.path)
        return manifest

    @property
    def mark(self) -> str:
        """What the unfinished files of this folder's runs have in their names (files.marked)."""
        return mark_of(self.path)

    @property
    def anything_done(self) -> bool:
        """Whether any clip was made."""
        return any(clip["status"] == "done" for clip in self.clips.values())

    def begin(self, run: Mapping[str, Any]) -> None:
        """Note how this run was started.

        Raises:
            MagnetError: the file cannot be written.
        """
        self.run = {**run, "at": now()}
        self._append({"run": self.run})

    def add(self, clip: Mapping[str, Any]) -> None:
        """Note a clip, with `file` and `status`; it is on the disk when this returns.

        Raises:
            MagnetError: the file cannot be written.
        """
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
        # A link would have what it leads to cut and written to.
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        flags |= getattr(os, "O_BINARY", 0)  # Windows would write its own ends of lines
        file = os.fdopen(os.open(self.path, flags, 0o666), "a+b")
        # A line that a crash cut goes, so that it does not spoil the next; if only its end is
        # missing, it gets one.
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _LONGEST_LINE))
        tail = file.read().rpartition(b"\n")[2]
        if tail:
            if _parsed(tail) is None:
                file.truncate(size - len(tail))
            else:
                file.write(b"\n")
        return file


def now() -> str:
    """The time, as manifests note it: ISO 8601, UTC, so that later is greater."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def manifest_name(shard: Shard) -> str:
    """The manifest's name: shards have one each, as they may run on machines that share a disk."""
    return f"{MANIFEST_STEM}{shard.suffix}.jsonl"


@contextlib.contextmanager
def open_manifest(folder: Path, shard: Shard) -> Iterator[Manifest]:
    """The manifest of a folder, which no one else can open meanwhile; the folder is made if need be.

    The lock is the operating system's: it goes with the process, however that ends. Files that a
    killed run of this folder left half written are removed; no others, whatever they are called.

    Raises:
        UsageError: another process works in the folder.
        MagnetError: the folder cannot be made or written to.
    """
    path = folder / manifest_name(shard)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for own in (path, _lock_of(path)):
            _refuse_strange(own)
        lock = FileLock(_lock_of(path), timeout=0)
        lock.acquire()
    except Timeout as error:
        raise _busy(folder) from error
    except OSError as error:
        raise write_error(folder, error) from error
    try:
        _refuse_other_shards(folder, shard)
        _remove_stale(folder, mark_of(path))
        manifest = Manifest.read(folder, shard)
        try:
            yield manifest
        finally:
            manifest.close()
    finally:
        lock.release()


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The object of a line; None where it is none."""
    try:
        record = reading.json_of(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _is_clip(record: Mapping[str, Any]) -> bool:
    """Whether a line tells of a clip: what resuming asks it for is of the right kind."""
    return (
        isinstance(record.get("file"), str)
        and record.get("status") in ("done", "failed")
        and isinstance(record.get("settings", {}), dict)
    )


def _unreadable(path: Path, error: Exception) -> UsageError:
    return UsageError(
        f"{path} cannot be read: {reading.reason(error)}.",
        "Move it away, or choose another folder with -O.",
    )


def mark_of(manifest: Path) -> str:
    """The mark of a folder's unfinished files: other batches, below it or above, have others."""
    return hashlib.sha256(os.fsencode(os.path.realpath(manifest))).hexdigest()[:12]


def _is_older(record: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """Whether a record was noted before another; where one does not say when, it was not."""
    at, known_at = record.get("at"), known.get("at")
    return isinstance(at, str) and isinstance(known_at, str) and at < known_at


def _lock_of(manifest: Path) -> Path:
    return manifest.with_name(f".{manifest.name}.lock")


def _refuse_other_shards(folder: Path, shard: Shard) -> None:
    """Shards of one sharding share no clip; with another sharding, or none, they would."""
    for path in folder.glob(f".{MANIFEST_STEM}*.jsonl.lock"):
        suffix = path.name.removeprefix(f".{MANIFEST_STEM}").removesuffix(".jsonl.lock")
        if suffix == shard.suffix or shard.shares_nothing_with(suffix):
            continue
        other_lock = FileLock(path, timeout=0)
        try:
            other_lock.acquire()
        except Timeout as error:
            raise _busy(folder) from error
        other_lock.release()


def _busy(folder: Path) -> UsageError:
    return UsageError(
        f"Another batch is at work in {folder}.", "Wait for it, or choose another folder with -O."
    )


def _refuse_strange(path: Path) -> None:
    """Refuse a manifest or lock that is a link, a pipe or a folder: it is to be written to.

    Raises:
        UsageError: it is.
    """
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
