"""How the clips of a batch are made on this machine: generated group by group, written in a thread.

One that fails does not stop the others. What is generated is finished and written while the next
clips are being generated.
"""

from __future__ import annotations

import gc
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
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
from magnet_cli.errors import MagnetError, NoRoomError
from magnet_cli.files import marked
from magnet_cli.settings import required
from magnet_cli.targets import check_inside

Save = Callable[[], SavedClip]

# Called when jobs are begun; what it returns is told of their steps.
OnBegin = Callable[[Sequence[Job]], OnStep | None]


@dataclass(frozen=True)
class Generated:
    """A clip that waits to be written."""

    job: Job
    save: Callable[[], SavedClip]  # finishes and writes it
    seconds: float  # that generating it took


class Stopped(BaseException):
    """The writer cannot go on; no Exception, so that no handler takes it for a clip's failure."""


class Writer:
    """Writes clips in their order, notes each in the manifest, then tells of it.

    A context manager: leaving it writes what waits, also after an error or Ctrl-C, since those clips
    are generated already.
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
        """Make the thread.

        Args:
            manifest: where clips are noted.
            folder: what they are below.
            on_outcome: called in the thread.
            depth: clips that may wait; `submit` blocks beyond.
            force: files that others have made are replaced.
            on_error: called in the thread, with what stops it.
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
        """What stopped it: a full disk, a closed pipe."""
        return self._error

    def check(self) -> None:
        """Notice that there is no use in generating more.

        Raises:
            Stopped: the thread has met an error that is not one clip's own.
        """
        if self._error is not None:
            raise Stopped

    def submit(self, clip: Generated) -> None:
        """Hand over a generated clip."""
        self._tasks.put(lambda: self._write(clip))
        self.check()

    def fail(self, job: Job, error: MagnetError, seconds: float) -> None:
        """Hand over a clip that could not be generated."""
        self._tasks.put(lambda: Outcome(job, seconds, error=error))
        self.check()

    def _work(self) -> None:
        with marked(self._manifest.mark):
            self._work_marked()

    def _work_marked(self) -> None:
        while (task := self._tasks.get()) is not None:
            if self._error is not None:
                continue  # emptied, so that no one waits for room
            try:
                outcome = task()
                self._manifest.add(outcome.record())
                self._on_outcome(outcome)
            except BaseException as error:
                self._error = error
                self._on_error(error)

    def _write(self, clip: Generated) -> Outcome:
        began = time.monotonic()
        path = clip.job.target.path
        assert path is not None
        saved: SavedClip | None = None
        failure: MagnetError | None = None
        size: int | None = None
        try:
            saved = self._saved(clip, path)
            size = path.stat().st_size
        except NoRoomError:
            raise
        except Exception as error:
            failure = as_magnet_error(error)
        seconds = clip.seconds + time.monotonic() - began
        return Outcome(clip.job, seconds, saved, failure, size)

    def _saved(self, clip: Generated, path: Path) -> SavedClip:
        self._standing.refuse(clip.job)  # hours may have passed since the batch was planned
        try:
            check_inside(self._folder, path.parent)
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MagnetError(
                f"The folder {path.parent} cannot be made: {error.strerror or error}.",
                "Choose another name for the file.",
            ) from error
        return clip.save()


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
                    self.make(group if mates else missing, frozenset(j.index for j in missing))
        except Stopped:
            assert self._writer.error is not None
            raise self._writer.error from None

    def make(self, jobs: Sequence[Job], missing: frozenset[int]) -> None:
        """Make jobs of one group, in as many parts as the memory needs.

        Args:
            jobs: what is decoded together.
            missing: indices of those whose clips are wanted.

        Raises:
            Stopped: the writer cannot go on.
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
                    self.make([job], missing)
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
        """Generate what is made window by window, as the command of its task does."""
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
        """`on_step`, noticing between steps that the writer has stopped."""

        def watch(event: StepEvent) -> None:
            self._writer.check()
            if on_step is not None:
                on_step(event)

        return watch


def as_magnet_error(error: Exception) -> MagnetError:
    """An error with what a user can do; its traceback, which holds on to memory, is left behind."""
    if isinstance(error, MagnetError):
        return error.with_traceback(None)
    if is_out_of_memory(error):
        hint = "Take a shorter --duration, a smaller model, or --device cpu."
        return MagnetError("The memory is not enough for this clip.", hint)
    message = " ".join(str(error).split())[:500] or "no message"
    return MagnetError(
        f"Unexpected {type(error).__name__}: {message}",
        "Make this clip alone with `magnet gen --debug` to see where; it is worth a bug report.",
    )


def is_out_of_memory(error: Exception) -> bool:
    """Whether less at once could have worked: torch says so in several ways."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        words in said for words in ("can't allocate memory", "not enough memory", "out of memory")
    )
