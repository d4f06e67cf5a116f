"""Finishing and writing clips in a thread, while the next ones are generated."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from magnet_cli.batch.jobs import Job
from magnet_cli.batch.manifest import Manifest
from magnet_cli.batch.names import check_inside
from magnet_cli.batch.report import OnOutcome, Outcome
from magnet_cli.batch.resume import Standing
from magnet_cli.clips import SavedClip
from magnet_cli.errors import MagnetError, NoRoomError


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
    ) -> None:
        """Make the thread.

        Args:
            manifest: where clips are noted.
            folder: what they are below.
            on_outcome: called in the thread.
            depth: clips that may wait; `submit` blocks beyond.
            force: files that others have made are replaced.
        """
        self._manifest, self._folder, self._on_outcome = manifest, folder, on_outcome
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
        while (task := self._tasks.get()) is not None:
            if self._error is not None:
                continue  # emptied, so that no one waits for room
            try:
                outcome = task()
                self._manifest.add(outcome.record())
                self._on_outcome(outcome)
            except BaseException as error:
                self._error = error

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


def as_magnet_error(error: Exception) -> MagnetError:
    """An error with what a user can do; its traceback, which holds on to memory, is left behind."""
    if isinstance(error, MagnetError):
        return error.with_traceback(None)
    if is_out_of_memory(error):
        hint = "Take a shorter --duration, a smaller model, or --device cpu."
        return MagnetError("The memory is not enough for this clip.", hint)
    message = " ".join(str(error).split())[:500] or "no message"
    return MagnetError(f"Unexpected {type(error).__name__}: {message}")


def is_out_of_memory(error: Exception) -> bool:
    """Whether less at once could have worked: torch says so in several ways."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        words in said for words in ("can't allocate memory", "not enough memory", "out of memory")
    )
