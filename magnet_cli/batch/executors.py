"""Makes the clips of a batch in this process: generates group by group, and writes in a thread.

A failing clip does not stop the others. Clips are written while the next ones are generated.
"""

from __future__ import annotations

import gc
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from magnet_cli.batch.fitting import Fitter, grouped, mates_matter, timed
from magnet_cli.batch.jobs import Job
from magnet_cli.batch.manifest import Manifest
from magnet_cli.batch.report import OnOutcome, Outcome
from magnet_cli.batch.resume import Standing
from magnet_cli.clips import Clip, Edit, SavedClip
from magnet_cli.decoding.contracts import OnStep, StepEvent
from magnet_cli.errors import MagnetError, NoRoomError, is_out_of_memory
from magnet_cli.files import marked
from magnet_cli.settings import required
from magnet_cli.targets import check_inside

Save = Callable[[], SavedClip]  # finishes a clip and writes it

# Called when jobs begin; returns a callback for their steps.
OnBegin = Callable[[Sequence[Job]], OnStep | None]


class Stopped(BaseException):
    """The writer has stopped; no Exception, so that it is not handled as one clip's failure."""


class Writer:
    """Writes clips in order, records each in the manifest, then reports it.

    A context manager: leaving it writes the waiting clips, also after an error or Ctrl-C, since they are
    already generated.
    """

    def __init__(
        self,
        manifest: Manifest,
        folder: Path,
        on_outcome: OnOutcome,
        depth: int = 8,
        force: bool = False,
        on_error: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        """Set up the writer.

        Args:
            manifest: where clips are recorded.
            folder: the clips' folder.
            on_outcome: called in the thread with each outcome.
            depth: maximum waiting clips, beyond which `submit` blocks.
            force: replace files that this batch did not make.
            on_error: called in the thread with the error that stops it.
        """
        self._manifest, self._folder, self._on_outcome = manifest, folder, on_outcome
        self._on_error = on_error
        self._standing = Standing(manifest, force)
        self._tasks: queue.Queue[Callable[[], Outcome] | None] = queue.Queue(max(1, depth))
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="clip writer", daemon=True)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._tasks.put(None)
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    @property
    def error(self) -> BaseException | None:
        """The error that stopped it, such as a full disk or a closed pipe."""
        return self._error

    def check(self) -> None:
        """Raise Stopped if the thread has stopped, so that nothing more is generated.
        Raises Stopped: the thread met an error that affects every clip."""
        if self._error is not None:
            raise Stopped

    def submit(self, job: Job, save: Save, seconds: float) -> None:
        """Hand over a generated clip; `seconds`: of generating it."""
        self._tasks.put(lambda: self._write(job, save, seconds))
        self.check()

    def fail(self, job: Job, error: MagnetError, seconds: float) -> None:
        """Hand over a clip that could not be generated."""
        self._tasks.put(lambda: Outcome(job, seconds, error=error))
        self.check()

    def _work(self) -> None:
        with marked(self._manifest.mark):
            while (task := self._tasks.get()) is not None:
                if self._error is not None:
                    continue  # empty the queue, so that `submit` does not block
                try:
                    outcome = task()
                    self._manifest.add(outcome.record())
                    self._on_outcome(outcome)
                except BaseException as error:
                    self._error = error
                    self._on_error(error)

    def _write(self, job: Job, save: Save, seconds: float) -> Outcome:
        began = time.monotonic()
        path = job.target.path
        assert path is not None
        saved: SavedClip | None = None
        failure: MagnetError | None = None
        size: int | None = None
        try:
            self._prepare(job, path)
            saved = save()
            size = path.stat().st_size
        except NoRoomError:
            raise
        except Exception as error:
            failure = as_magnet_error(error)
        seconds += time.monotonic() - began
        return Outcome(job, seconds, saved, failure, size)

    def _prepare(self, job: Job, path: Path) -> None:
        self._standing.refuse(job)  # it may be hours since the batch was planned
        try:
            check_inside(self._folder, path.parent)
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MagnetError(
                f"The folder {path.parent} cannot be created: {error.strerror or error}.",
                "Choose another name for the file.",
            ) from error


class Engine:
    """Makes jobs with one loaded model.

    Attributes:
        limit: maximum clips decoded together; halved when memory runs out.
    """

    def __init__(
        self,
        fitter: Fitter,
        writer: Writer,
        size: int,
        on_begin: OnBegin,
        on_less: Callable[[int], None],
    ) -> None:
        """`on_less` is called with the new limit when memory runs out."""
        self.limit = size
        self._size = size
        self._fitter, self._writer = fitter, writer
        self._on_begin, self._on_less = on_begin, on_less

    def run(self, jobs: Iterable[Job], wanted: Callable[[Job], bool]) -> None:
        """Make every wanted job.

        If clips depend on the others in their batch, by rounding, a whole group is computed even if only some
        of it is wanted, so that a resumed run makes the same clips as an unbroken one.

        Args:
            jobs: all jobs, including finished ones.
            wanted: whether to make a job; called once for each.

        Raises:
            Exception: the error that stopped the writer.
        """
        mates = mates_matter(self._fitter.model)
        try:
            for group in grouped(jobs, self._fitter, self._size):
                missing = [job for job in group if wanted(job)]
                if missing:
                    self.make(group if mates else missing, frozenset(j.index for j in missing))
        except Stopped:
            assert self._writer.error is not None
            raise self._writer.error from None

    def make(self, jobs: Sequence[Job], missing: frozenset[int]) -> None:
        """Make the jobs of one group, in as many parts as memory requires.

        Args:
            jobs: the jobs to decode together.
            missing: indices of the jobs whose clips are wanted.

        Raises:
            Stopped: the writer has stopped.
        """
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
                        self._writer.submit(job, save, seconds)
                start += len(part)
            elif error is not None and len(part) == 1:
                self._writer.fail(part[0], as_magnet_error(error), seconds)
                start += 1
            elif error is not None and is_out_of_memory(error):
                self.limit = max(1, len(part) // 2)
                self._on_less(self.limit)
            else:  # make them singly, so that only the faulty one fails
                for job in part:
                    self.make([job], missing)
                start += len(part)

    def _tried(self, jobs: Sequence[Job]) -> tuple[list[Save] | None, Exception | None]:
        """Generate jobs of one group: functions that save their clips, or the error."""
        failure: Exception
        try:
            if self._fitter.fit(jobs[0]).is_piece:
                return [self._piece(jobs[0])], None
            return self._clips(jobs), None
        except Exception as error:
            failure = error
        # Outside the handler, so that dropping the traceback frees the frames and their tensors.
        failure.__traceback__ = failure.__context__ = failure.__cause__ = None
        if is_out_of_memory(failure):
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        return None, failure

    def _clips(self, jobs: Sequence[Job]) -> list[Save]:
        """Generate clips as one batch."""
        fitter = self._fitter
        fit = fitter.fit(jobs[0])
        result = fitter.model.generate(
            [job.target.prompt for job in jobs],
            fit.config,
            [job.target.seed for job in jobs],
            [job.negative for job in jobs],
            fit.frames,
            on_step=self._watched(self._on_begin(jobs)),
            **fitter.partners,
        )
        result = replace(result, making=replace(result.making, duration=None))
        clips = [result.clip(item, job.duration) for item, job in enumerate(jobs)]
        return [
            partial(one.write, job.target, job.output) for one, job in zip(clips, jobs, strict=True)
        ]

    def _piece(self, job: Job) -> Save:
        """Generate a long piece, or an edit, as the command of its task does."""
        model, task, prompt = self._fitter.model, job.task, timed(job)
        how: dict[str, Any] = {
            "seed": job.target.seed,
            "negative_prompt": job.negative,
            "config": self._fitter.fit(job).config,
            "overlap": task.overlap,
            "on_step": self._watched(self._on_begin([job])),
        }
        clip: Clip | Edit
        if task.bpm is not None:
            clip = model.bars(prompt, task, task.task == "loop", **how)
        elif task.task == "loop":
            how |= {"exact": task.exact, "tries": task.tries}
            clip = model.loop(prompt, job.duration, **how)
        elif task.task == "edit":
            how["through_codec"] = task.through_codec
            clip = model.inpaint(required(task.input), job.target.prompt, task.region, **how)
        elif task.task == "vary":
            how["keep_streams"] = task.keep_streams
            strength = required(task.strength)
            clip = model.vary(required(task.input), job.target.prompt, strength, **how)
        else:  # gen has no input
            seconds = job.duration or model.segment_duration
            clip = model.extend(task.input, prompt, seconds, **how)
        return partial(clip.write, job.target, job.output)

    def _watched(self, on_step: OnStep | None) -> OnStep:
        """Wrap `on_step` to stop between steps if the writer has stopped."""

        def watch(event: StepEvent) -> None:
            self._writer.check()
            if on_step is not None:
                on_step(event)

        return watch


def as_magnet_error(error: Exception) -> MagnetError:
    """Turn an error into a MagnetError without traceback, which would keep memory alive."""
    if isinstance(error, MagnetError):
        return error.with_traceback(None)
    if is_out_of_memory(error):
        hint = "Use a shorter --duration, a smaller model, or --device cpu."
        return MagnetError("There is not enough memory for this clip.", hint)
    message = " ".join(str(error).split())[:500] or "no message"
    return MagnetError(
        f"Unexpected {type(error).__name__}: {message}",
        "Make this clip alone with `magnet gen --debug` for a traceback, and please report it.",
    )
