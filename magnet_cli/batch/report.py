"""What came of each clip, and of all of them."""

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
    """Someone else has made a file of the clip's name since the batch was planned."""


@dataclass(frozen=True)
class Outcome:
    """What came of one job."""

    job: Job
    seconds: float  # its share of the time for decoding, and writing
    saved: SavedClip | None = None
    error: MagnetError | None = None
    size: int | None = None  # bytes of the file, by which a copy that was cut off is known
    at: str = field(default_factory=now)
    worker: str | None = None  # which one made it, where there are several

    def record(self) -> dict[str, Any]:
        """The clip's line in the manifest, as JSON-able values."""
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
            kept["in_the_way"] = True  # so that no later run takes the file for its own
        kept["seconds"] = round(self.seconds, 3)
        kept["at"] = self.at
        if self.worker is not None:
            kept["worker"] = self.worker
        kept["settings"] = self.job.settings()
        return kept


OnOutcome = Callable[[Outcome], None]


@dataclass
class Tally:
    """A running batch in figures.

    Attributes:
        total: clips to be made in this run; None where their lines still arrive.
        made, failed: of those, so far.
        bad_lines: lines that could not be used.
        held_back: LUFS of the clips whose peaks kept them quieter than was asked for.
    """

    total: int | None = None
    made: int = 0
    failed: int = 0
    bad_lines: int = 0
    failures: list[Outcome] = field(default_factory=list)
    held_back: list[float] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)

    def start(self) -> None:
        """Loading is over: the clock of the clips starts."""
        self._began = time.monotonic()

    def count(self, outcome: Outcome) -> None:
        """Take in what came of a clip."""
        if outcome.saved is not None:
            self.made += 1
        else:
            self.failed += 1
            self.failures.append(outcome)

    @property
    def finished(self) -> int:
        """Clips that are over, one way or the other."""
        return self.made + self.failed

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._began

    @property
    def clips_per_minute(self) -> float:
        """Of this run, so far."""
        return 60 * self.finished / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Until all is made at this rate; None where that cannot be known."""
        if self.total is None or not self.finished:
            return None
        return (self.total - self.finished) * self.seconds / self.finished
