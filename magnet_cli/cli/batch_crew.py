"""`magnet batch --workers`: what its workers do, on a terminal and in lines."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from magnet_cli.cli.loading import choose, loading, say_licence
from magnet_cli.cli.progress import BatchDisplay, escaped, shortened
from magnet_cli.cli.settings import ModelOptions
from magnet_cli.cli.talk import Talk, printable

if TYPE_CHECKING:
    from rich.progress import TaskID

    from magnet_cli.batch.fitting import Facts
    from magnet_cli.batch.hands import Hire
    from magnet_cli.batch.report import Tally


class CrewTalk:
    """Says what workers do (`hands.OnCrew`); lines of a display, while there is one."""

    def __init__(self, talk: Talk, count: int) -> None:
        """`count`: of the workers that are to be at work."""
        self._talk, self._count = talk, count
        self.on_download: Callable[[Any], None] = lambda progress: None
        self.display: CrewDisplay | None = None
        self._ready = 0

    def started(self, worker: int, where: str) -> None:
        """A worker is ready."""
        self._ready += 1
        self._say(worker, f"ready, on {where}")
        if not self._talk.live:
            self._talk.note(f"Worker {worker} is ready, on {where}.")

    def begun(self, worker: int, prompt: str) -> None:
        """It generates a clip."""
        self._say(worker, prompt)

    def ended(self, worker: int, why: str, groups: int) -> None:
        """It ended; another takes its place."""
        self._say(worker, None)
        if why == "refused":
            self._talk.warn(
                f"Worker {worker} has other weights or another device, and is left out."
            )
            return
        again = " What it was making is made again." if groups else ""
        self._talk.warn(f"Worker {worker} {why}.{again}")

    def less(self, size: int) -> None:
        """A memory holds only so many clips at once."""
        clips = "one clip" if size == 1 else f"{size} clips"
        self._talk.warn(f"A worker's memory is not enough: it goes on with {clips} at once.")

    def download(self, progress: Any) -> None:
        """A model is fetched."""
        self.on_download(progress)

    def _say(self, worker: int, text: str | None) -> None:
        if self.display is not None:
            self.display.say(worker, text)


class CrewDisplay(BatchDisplay):
    """The bar of the whole batch, and a line for each worker."""

    def __init__(self, talk: Talk, tally: Tally, path_end: bytes | None, crew: CrewTalk) -> None:
        super().__init__(talk, tally, path_end)
        self._crew = crew
        self._lines: dict[int, TaskID] = {}

    def __enter__(self) -> CrewDisplay:
        super().__enter__()
        self._crew.display = self
        return self

    def __exit__(self, *error: Any) -> None:
        self._crew.display = None
        super().__exit__(*error)

    def say(self, worker: int, text: str | None) -> None:
        """What a worker does; None: it is no more."""
        if self._bars is None:
            return
        if text is None:
            if worker in self._lines:
                self._bars.remove_task(self._lines.pop(worker))
            return
        if worker not in self._lines:
            self._lines[worker] = self._bars.add_task(f"worker {worker}", total=None, detail="")
        self._bars.update(self._lines[worker], detail=escaped(printable(shortened(text))))


@contextlib.contextmanager
def loaded_crew(hire: Hire, count: int, model: ModelOptions, is_here: bool, talk: Talk) -> Any:
    """A crew whose first worker has loaded the model: yields it, what is known, and its voice.

    Args:
        hire: starts workers.
        count: of them.
        model: as asked for.
        is_here: nothing needs to be downloaded, so all may begin at once.

    Raises:
        MagnetError: the model cannot be loaded.
    """
    from magnet_cli.batch.crew import Crew

    name = choose(model, talk)
    voice = CrewTalk(talk, count)
    with Crew(hire, count, voice, is_here) as crew:
        with loading(talk, name) as voice.on_download:
            facts: Facts = crew.facts()
        voice.on_download = lambda progress: None
        if facts.repo is not None:
            say_licence(facts.repo, facts.licence, talk)
        yield crew, facts, voice
