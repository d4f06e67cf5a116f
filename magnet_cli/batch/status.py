"""A batch's progress from its manifests only, without loading, planning or locking.

Values that a manifest lacks are None: the total, for lines from a pipe and for runs of earlier versions.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from magnet_cli.batch.jobs import WHOLE, Shard
from magnet_cli.batch.manifest import Manifest
from magnet_cli.errors import UsageError
from magnet_cli.targets import MANIFEST_STEM


@dataclass(frozen=True)
class Count:
    """Counts for a batch or a part of it."""

    name: str  # "1/4", "worker 2", or "all"
    clips: int | None  # total
    done: int  # made, with existing files
    failed: int
    rate: float | None  # clips per minute of the last run
    last: str | None  # time of the last record

    @property
    def missing(self) -> int | None:
        """Number of clips neither done nor failed."""
        return None if self.clips is None else max(0, self.clips - self.done - self.failed)

    def record(self) -> dict[str, Any]:
        """The counts as JSON types."""
        return {
            "name": self.name,
            "clips": self.clips,
            "done": self.done,
            "failed": self.failed,
            "missing": self.missing,
            "rate": self.rate,
            "last": self.last,
        }


@dataclass(frozen=True)
class Status:
    """Counts for the whole batch, its shards, and the workers of its last run."""

    whole: Count
    workers: tuple[Count, ...] = ()
    shards: tuple[Count, ...] = ()  # begun ones
    to_begin: int = 0  # number of shards not begun
    damaged: int = 0  # number of unreadable lines


def status_of(folder: Path) -> Status:
    """The status of a folder's batch.

    Clips are counted by their number, so that after a change of the prompt file old clips are not counted
    beside the new ones.

    Raises:
        UsageError: the folder has no manifest.
        MagnetError: a manifest cannot be read.
    """
    everything = Manifest.read(folder, WHOLE)
    shards, count = _shards(folder)
    own = {shard: Manifest.read(folder, shard, alone=True) for shard in (WHOLE, *shards)}
    if not shards and not own[WHOLE].path.exists():
        raise UsageError(
            f"{folder} has no manifest of a batch.", "Give the folder that -O was: --status DIR."
        )
    clips = _newest(everything.clips.values())
    counts = []
    for shard in shards:
        part = [clip for index, clip in clips.items() if shard.has(index)]
        manifest = own[shard]
        counts.append(
            Count(
                f"{shard.number}/{shard.count}",
                _number(manifest.run.get("part")),
                *_sorted(folder, part),
                rate=_rate(manifest),
                last=_last(manifest),
            )
        )
    # Shards run in parallel, so their rates add up, unless a later run without --shard followed.
    rates = [rate for shard in shards if (rate := _rate(own[shard])) is not None]
    newest = max(own.values(), key=lambda each: _began(each) or "")
    rate = _rate(own[WHOLE]) if newest is own[WHOLE] or not rates else round(sum(rates), 1)
    whole = Count(
        "all",
        _number(newest.run.get("clips")),
        *_sorted(folder, clips.values()),
        rate=rate,
        last=_last(everything),
    )
    workers = _workers(folder, newest)
    return Status(whole, workers, tuple(counts), count - len(shards), everything.damaged)


def _workers(folder: Path, manifest: Manifest) -> tuple[Count, ...]:
    """Counts for each worker of a manifest's last run, by name."""
    began = _began(manifest)
    made: dict[str, list[dict[str, Any]]] = {}
    for clip in manifest.clips.values():
        name, at = clip.get("worker"), clip.get("at")
        if isinstance(name, str) and began is not None and _is_time(at) and clip["at"] >= began:
            made.setdefault(name, []).append(clip)
    counts = []
    for name in sorted(made, key=lambda name: (len(name), name)):
        last = max(clip["at"] for clip in made[name])
        rate = _per_minute(len(made[name]), began, last)
        done, failed = _sorted(folder, made[name])
        counts.append(Count(f"worker {name}", None, done, failed, rate, last))
    return tuple(counts)


def _shards(folder: Path) -> tuple[list[Shard], int]:
    """The shards that have begun, and the number of shards (the larger of two divisions)."""
    pattern = re.compile(rf"{MANIFEST_STEM}\.shard-(\d{{1,6}})-of-(\d{{1,6}})\.jsonl")
    found = [
        Shard(int(name[1]), int(name[2]))
        for path in folder.glob(f"{MANIFEST_STEM}.shard-*.jsonl")
        if (name := pattern.fullmatch(path.name))
    ]
    count = max((shard.count for shard in found), default=0)
    return sorted((s for s in found if s.count == count), key=lambda shard: shard.number), count


def _newest(clips: Iterable[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """The newest record of each clip, by number."""
    found: dict[int, dict[str, Any]] = {}
    for clip in clips:
        index = clip.get("index")
        if not isinstance(index, int):
            continue
        known = found.get(index)
        if known is None or str(clip.get("at", "")) >= str(known.get("at", "")):
            found[index] = clip
    return found


def _sorted(folder: Path, clips: Iterable[dict[str, Any]]) -> tuple[int, int]:
    """Numbers of clips done, with existing files, and failed."""
    done = failed = 0
    for clip in clips:
        if clip["status"] == "failed":
            failed += 1
        elif os.path.isfile(folder / clip["file"]):  # whatever its name
            done += 1
    return done, failed


def _rate(manifest: Manifest) -> float | None:
    """Clips per minute of a manifest's last run."""
    began, ended = _began(manifest), _last(manifest)
    if began is None or ended is None:
        return None
    count = sum(
        _is_time(clip.get("at")) and clip["at"] >= began for clip in manifest.clips.values()
    )
    return _per_minute(count, began, ended)


def _per_minute(count: int, began: str | None, ended: str) -> float | None:
    if began is None or not count:
        return None
    seconds = (datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds()
    return round(60 * count / seconds, 1) if seconds > 0 else None


def _began(manifest: Manifest) -> str | None:
    at = manifest.run.get("at")
    return at if isinstance(at, str) and _is_time(at) else None


def _last(manifest: Manifest) -> str | None:
    return max((c["at"] for c in manifest.clips.values() if _is_time(c.get("at"))), default=None)


def _number(value: object) -> int | None:
    """A run's recorded number of clips, or None if it is not valid."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _is_time(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False
