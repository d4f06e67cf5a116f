"""How far a batch is: an overall bar above those of the clips in hand, or a line for each clip."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from magnet_cli.cli.clips import in_words, warn
from magnet_cli.cli.output import Talk, complain, write_stdout
from magnet_cli.cli.progress import ClipDisplay

if TYPE_CHECKING:
    from magnet_cli.batch.jobs import Job
    from magnet_cli.batch.report import Outcome, Tally
    from magnet_cli.decoding.contracts import OnStep


class BatchDisplay(ClipDisplay):
    """Bars on a terminal, a line for each finished clip elsewhere, and stdout for other programs.

    `finished` is called from the thread that writes the clips, everything else from the main one.
    """

    def __init__(self, talk: Talk, tally: Tally, path_end: bytes | None) -> None:
        """`path_end`: what ends the path of each finished file on stdout; None: none is written."""
        super().__init__(talk)
        self._tally, self._path_end = tally, path_end

    def __enter__(self) -> BatchDisplay:
        super().__enter__()
        if self._bars is not None:
            self._overall = self._bars.add_task("clips", total=self._tally.total, detail="")
        return self

    def begin_jobs(self, jobs: Sequence[Job]) -> OnStep | None:
        """Jobs that are decoded together are begun: what is told of their steps."""
        if self._bars is None:
            return None
        on_step = self.begin(jobs[0].target.prompt, jobs[0].target.seed)
        self._show_overall()
        return on_step

    def less(self, size: int) -> None:
        """The memory holds only so many clips at once."""
        clips = "one clip" if size == 1 else f"{size} clips"
        self._talk.warn(f"The memory is not enough: going on with {clips} at once.")

    def finished(self, outcome: Outcome) -> None:
        """A clip is written, or has failed."""
        tally = self._tally
        tally.count(outcome)
        count = f"[{tally.finished}{f'/{tally.total}' if tally.total is not None else ''}]"
        if outcome.saved is not None:
            path = outcome.saved.target.path
            left = f", {_rough(tally.seconds_left)} left" if tally.seconds_left else ""
            self._talk.note(
                f"{count} {in_words(outcome.saved)}, in {outcome.seconds:.1f} s "
                f"({tally.clips_per_minute:.1f} clips/min{left})"
            )
            warn(outcome.saved, self._talk, outcome.job.output, f"{outcome.job.file}: ")
            if self._path_end is not None and path is not None:
                write_stdout(os.fsencode(path) + self._path_end)
        elif outcome.error is not None:
            where = f"{count} {outcome.job.file} (line {outcome.job.line})"
            complain(f"{where}: {outcome.error.message}", outcome.error.hint)
        self._talk.data({"event": "clip", **outcome.record()})
        self._show_overall()

    def _show_overall(self) -> None:
        if self._bars is not None and self._overall is not None:
            rate = self._tally.clips_per_minute
            detail = f"{rate:.1f} clips/min" if self._tally.finished else ""
            self._bars.update(self._overall, completed=self._tally.finished, detail=detail)


def _rough(seconds: float | None) -> str:
    """A time as people say it."""
    seconds = seconds or 0.0
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
