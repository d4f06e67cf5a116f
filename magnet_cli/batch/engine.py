"""Generating the clips of a batch, group by group; one that fails does not stop the others."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch

from magnet_cli.batch.fitting import Fitter, grouped, mates_matter
from magnet_cli.batch.jobs import Job
from magnet_cli.batch.writer import (
    Generated,
    Stopped,
    Writer,
    as_magnet_error,
    is_out_of_memory,
)
from magnet_cli.clips import SavedClip, save_item
from magnet_cli.config import required
from magnet_cli.decoding.events import OnStep, StepEvent
from magnet_cli.editing.extension import extend
from magnet_cli.editing.filling import Direction
from magnet_cli.editing.saving import save_piece

Save = Callable[[], SavedClip]

# The command that makes a piece again, as its file keeps it: batches make what `gen` makes.
_AS_GEN = {"command": "gen", "flags": {"loop": False, "overlap": None}}

# Called when jobs are begun; what it returns is told of their steps.
OnBegin = Callable[[Sequence[Job]], OnStep | None]


class Engine:
    """Makes jobs with one loaded model.

    Attributes:
        limit: clips that are decoded at once at most; halved when the memory is not enough.
    """

    def __init__(
        self,
        fitter: Fitter,
        writer: Writer,
        size: int,
        on_begin: OnBegin,
        on_less: Callable[[int], None],
    ) -> None:
        """`on_less` is told when only so many clips fit into memory at once."""
        self.limit = size
        self._size = size
        self._fitter, self._writer = fitter, writer
        self._on_begin, self._on_less = on_begin, on_less

    def run(self, jobs: Iterable[Job], wanted: Callable[[Job], bool]) -> None:
        """Make every job that is wanted.

        Where a clip depends on its batch-mates, if only by rounding, the others of its group are
        computed with it and thrown away, so that a resumed run makes what an unbroken one makes.

        Args:
            jobs: all of them, done ones too.
            wanted: whether one is to be made; asked once for each.

        Raises:
            Exception: what stopped the writer.
        """
        mates = mates_matter(self._fitter.model)
        try:
            for group in grouped(jobs, self._fitter, self._size):
                missing = [job for job in group if wanted(job)]
                if missing:
                    self._make(group if mates else missing, frozenset(j.index for j in missing))
        except Stopped:
            assert self._writer.error is not None
            raise self._writer.error from None

    def _make(self, jobs: Sequence[Job], missing: frozenset[int]) -> None:
        """Make jobs of one group, in as many parts as the memory needs."""
        start = 0
        while start < len(jobs):
            part = jobs[start : start + self.limit]
            if not any(job.index in missing for job in part):
                start += len(part)
                continue
            began = time.monotonic()
            made, error = self._tried(part)
            seconds = (time.monotonic() - began) / len(part)
            if made is not None:
                for job, save in zip(part, made, strict=True):
                    if job.index in missing:
                        self._writer.submit(Generated(job, save, seconds))
                start += len(part)
            elif error is not None and len(part) == 1:
                self._writer.fail(part[0], as_magnet_error(error), seconds)
                start += 1
            elif error is not None and is_out_of_memory(error):
                self.limit = max(1, len(part) // 2)
                self._on_less(self.limit)
            else:  # one of them: singly, so that only that one fails
                for job in part:
                    self._make([job], missing)
                start += len(part)

    def _tried(self, jobs: Sequence[Job]) -> tuple[list[Save] | None, Exception | None]:
        """How to save the clips of jobs that fit together, or what went wrong."""
        failure: Exception
        try:
            if self._fitter.fit(jobs[0]).is_piece:
                return [self._piece(jobs[0])], None
            return self._clips(jobs), None
        except Exception as error:
            failure = error
        # Outside of the handler: the frames that hold the tensors are gone with the traceback.
        failure.__traceback__ = failure.__context__ = failure.__cause__ = None
        if is_out_of_memory(failure):
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        return None, failure

    def _clips(self, jobs: Sequence[Job]) -> list[Save]:
        """Generate clips as one batch."""
        fitter = self._fitter
        fit, helpers = fitter.fit(jobs[0]), fitter.helpers
        result = fitter.model.generate(
            [job.target.prompt for job in jobs],
            config=fit.config,
            seeds=[job.target.seed for job in jobs],
            negative_prompts=[job.negative for job in jobs],
            frames=fit.frames,
            on_step=self._watched(self._on_begin(jobs)),
            rescorer=helpers.rescorer,
            hybrid_model=helpers.hybrid_model,
        )
        return [
            partial(save_item, result, item, job.target, fitter.making(job))
            for item, job in enumerate(jobs)
        ]

    def _piece(self, job: Job) -> Save:
        """Generate what is longer than the segment, window by window."""
        fit, seconds = self._fitter.fit(job), required(job.duration)
        direction = Direction.of(
            job.target.prompt, job.target.seed, negative_prompt=job.negative, config=fit.config
        )
        model, on_step = self._fitter.model, self._watched(self._on_begin([job]))
        piece = extend(model, direction, required(fit.frames), on_step=on_step)
        making = self._fitter.making(job)
        return partial(save_piece, model, piece, job.target, making, _AS_GEN, seconds)

    def _watched(self, on_step: OnStep | None) -> OnStep:
        """`on_step`, noticing between steps that the writer has stopped."""

        def watch(event: StepEvent) -> None:
            self._writer.check()
            if on_step is not None:
                on_step(event)

        return watch
