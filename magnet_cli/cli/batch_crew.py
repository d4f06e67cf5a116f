"""`magnet batch --workers`: who its workers are, and what they do, on a terminal and in lines."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from magnet_cli.cli.loading import choose, loading, say_licence
from magnet_cli.cli.progress import BatchDisplay, escaped, shortened
from magnet_cli.cli.settings import ModelOptions
from magnet_cli.cli.talk import Talk, printable
from magnet_cli.errors import UsageError

if TYPE_CHECKING:
    from rich.progress import TaskID

    from magnet_cli.batch.fitting import Facts
    from magnet_cli.batch.hands import Hire
    from magnet_cli.batch.report import Tally
    from magnet_cli.batch.worker import Setup


@dataclass(frozen=True)
class CrewOptions:
    """Who makes the clips of a batch, if not this process.

    Attributes:
        workers: how many.
        ray: they are actors of a Ray cluster.
        address: of that; None: what RAY_ADDRESS says, or a local one.
        collect: no disk is shared with it.
    """

    workers: int | Literal["auto"]
    ray: bool = False
    address: str | None = None
    collect: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be. Raises UsageError."""
        if not self.ray:
            if self.address is not None or self.collect:
                raise UsageError("--address and --collect are Ray's.", "Say --engine ray, too.")
            return
        if self.address is not None and "://" in self.address:
            raise UsageError(
                f"--address cannot be {printable(self.address)}: a batch runs on a node of the cluster.",
                "Say HOST:PORT or auto, on such a node.",
            )
        if importlib.util.find_spec("ray") is None:
            raise UsageError("Ray is not installed.", "Install it: pip install 'magnet-cli[ray]'")

    @contextlib.contextmanager
    def hire(
        self, setup: Setup, clips: int | None
    ) -> Iterator[tuple[Hire, int | Callable[[], int]]]:
        """What starts workers, and how many there are to be.

        Args:
            setup: what they are to do.
            clips: that are missing; None: not known.

        Raises:
            MagnetError: there is no such cluster.
        """
        if not self.ray:
            from magnet_cli.batch.processes import hire_processes, places

            where = places(self.workers, setup.device, setup.threads)
            yield hire_processes(setup, where), min(where.count, clips or where.count)
            return
        from magnet_cli.batch import ray_executor

        cpus = ray_executor.local_cpus(self.workers, setup.threads)
        with ray_executor.cluster(self.address, cpus) as ray:
            share = ray_executor.share_of(ray, setup.device, setup.threads)
            count = ray_executor.counted(ray, share, self.workers, clips)
            with ray_executor.hire_actors(ray, setup, share, self.collect) as hire:
                yield hire, count


class CrewTalk:
    """Says what workers do (`hands.OnCrew`); lines of a display, while there is one."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self.on_download: Callable[[Any], None] = lambda progress: None
        self.display: CrewDisplay | None = None

    def started(self, worker: int, where: str) -> None:
        """A worker is ready."""
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
                f"Worker {worker} has other weights, another device or another version of magnet, "
                "and is left out."
            )
            return
        again = " What it was making is made again." if groups else ""
        self._talk.warn(f"Worker {worker} {why}.{again}")

    def waits(self, worker: int, needs: str) -> None:
        """It cannot begin yet."""
        self._talk.note(f"Worker {worker} waits for the cluster: it needs {needs}.")

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
def loaded_crew(
    hire: Hire, count: int | Callable[[], int], model: ModelOptions, is_here: bool, talk: Talk
) -> Any:
    """A crew whose first worker has loaded the model: yields it, what is known, and its voice.

    Args:
        hire: starts workers.
        count: of them, or what says it.
        model: as asked for.
        is_here: nothing needs to be downloaded, so all may begin at once.

    Raises:
        MagnetError: the model cannot be loaded.
    """
    from magnet_cli.batch.crew import Crew

    name = choose(model, talk)
    voice = CrewTalk(talk)
    with Crew(hire, count, voice, is_here) as crew:
        with loading(talk, name) as voice.on_download:
            facts: Facts = crew.facts()
        voice.on_download = lambda progress: None
        if facts.repo is not None:
            say_licence(facts.repo, facts.licence, talk)
        yield crew, facts, voice
