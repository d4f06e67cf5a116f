"""Outcomes of a batch's clips, and their totals."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from magnet_cli.batch.jobs import Job
from magnet_cli.batch.manifest import now
from magnet_cli.errors import MagnetError, UsageError

if TYPE_CHECKING:
    from magnet_cli.clips import SavedClip


class InTheWayError(UsageError):
    """A file of the clip's name appeared that this batch did not make."""


@dataclass(frozen=True)
class Outcome:
    """The result of one job."""

    job: Job
    seconds: float  # of writing, and its share of decoding
    saved: SavedClip | None = None
    error: MagnetError | None = None
    size: int | None = None  # bytes of the file, to detect an incomplete copy
    at: str = field(default_factory=now)
    worker: str | None = None  # which made it, if there are several

    def record(self) -> dict[str, Any]:
        """The clip's record in the manifest, as JSON types."""
        target = self.job.target
        kept: dict[str, Any] = {
            "file": self.job.file,
            "status": "failed" if self.saved is None else "done",
            "index": self.job.index,
            "line": self.job.line,
            "prompt": target.prompt,
            "seed": target.seed,
        }
        if self.saved is not None:
            kept |= {**self.saved.measured(), **self.saved.more}
        if self.size is not None:
            kept["bytes"] = self.size
        if self.error is not None:
            kept["error"] = str(self.error)
        if isinstance(self.error, InTheWayError):
            kept["in_the_way"] = True  # version 0.1.0 would treat the file as its own
        kept["seconds"] = round(self.seconds, 3)
        kept["at"] = self.at
        if self.worker is not None:
            kept["worker"] = self.worker
        kept["settings"] = self.job.settings()
        return kept


OnOutcome = Callable[[Outcome], None]


@dataclass
class Tally:
    """Counts of a running batch.

    Attributes:
        total: clips to make in this run; None while lines still arrive.
        made, failed: of those, so far.
        bad_lines: number of unusable lines.
        held_back: LUFS of clips whose peaks kept them quieter than requested.
    """

    total: int | None = None
    made: int = 0
    failed: int = 0
    bad_lines: int = 0
    failures: list[Outcome] = field(default_factory=list)
    held_back: list[float] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)

    def start(self) -> None:
        """Start the clock, after loading."""
        self._began = time.monotonic()

    def count(self, outcome: Outcome) -> None:
        """Count a clip's outcome."""
        if outcome.saved is not None:
            self.made += 1
        else:
            self.failed += 1
            self.failures.append(outcome)

    @property
    def finished(self) -> int:
        """Number of clips made or failed."""
        return self.made + self.failed

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began

    @property
    def clips_per_minute(self) -> float:
        """Rate of this run so far."""
        return 60 * self.finished / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds until all clips are made, or None if unknown."""
        if self.total is None or not self.finished:
            return None
        return (self.total - self.finished) * self.seconds / self.finished
