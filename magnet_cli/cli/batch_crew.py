"""Progress of `magnet batch`, as bars on a terminal or as lines: clips, and workers."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from magnet_cli.cli.loading import choose, loading, say_licence
from magnet_cli.cli.progress import ClipDisplay, escaped, shortened
from magnet_cli.cli.settings import ModelOptions
from magnet_cli.cli.talk import Talk, complain, held_back, in_words, printable, warn, write_stdout
from magnet_cli.errors import UsageError
from magnet_cli.naming import count_of

if TYPE_CHECKING:
    from rich.progress import TaskID

    from magnet_cli.batch.fitting import Facts
    from magnet_cli.batch.hands import Hire
    from magnet_cli.batch.jobs import Job
    from magnet_cli.batch.report import Outcome, Tally
    from magnet_cli.batch.worker import Setup
    from magnet_cli.decoding.contracts import OnStep


@dataclass(frozen=True)
class CrewOptions:
    """The workers that make the clips of a batch.

    Attributes:
        workers: how many.
        ray: whether they are actors of a Ray cluster.
        address: the cluster's; None: RAY_ADDRESS, or a local one.
        collect: whether files must be sent here, for lack of a shared disk.
    """

    workers: int | Literal["auto"]
    ray: bool = False
    address: str | None = None
    collect: bool = False

    def __post_init__(self) -> None:
        """Raise UsageError for options that do not fit together."""
        if not self.ray:
            if self.address is not None or self.collect:
                raise UsageError("--address and --collect need --engine ray.", "Add --engine ray.")
            return
        if self.address is not None and "://" in self.address:
            raise UsageError(
                f"--address cannot be {printable(self.address)}: a batch must run on a node of the cluster.",
                "Use HOST:PORT or auto, on such a node.",
            )
        if importlib.util.find_spec("ray") is None:
            raise UsageError("Ray is not installed.", "Install it: pip install 'magnet-cli[ray]'")

    @contextlib.contextmanager
    def hire(
        self, setup: Setup, clips: int | None
    ) -> Iterator[tuple[Hire, int | Callable[[], int]]]:
        """Yield what starts workers, and how many to start.

        Args:
            setup: what the workers load and do.
            clips: number of missing clips; None: unknown.

        Raises:
            MagnetError: the cluster cannot be reached.
        """
        if not self.ray:
            from magnet_cli.batch.processes import hire_processes, places

            where = places(self.workers, setup.device, setup.threads)
            yield hire_processes(setup, where), min(where.count, clips or where.count)
            return
        from magnet_cli.batch import ray_cluster
        from magnet_cli.batch.ray_executor import hire_actors

        cpus = ray_cluster.local_cpus(self.workers, setup.threads)
        with ray_cluster.cluster(self.address, cpus) as ray:
            share = ray_cluster.share_of(ray, setup.device, setup.threads)
            count = ray_cluster.counted(ray, share, self.workers, clips)
            with hire_actors(ray, setup, share, self.collect) as hire:
                yield hire, count


class CrewTalk:
    """Reports what workers do (`hands.OnCrew`), in a display while there is one."""

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
        """A worker began a clip."""
        self._say(worker, prompt)

    def ended(self, worker: int, why: str, groups: int) -> None:
        """A worker ended and will be replaced, unless it was refused."""
        self._say(worker, None)
        if why == "refused":
            self._talk.warn(
                f"Worker {worker} has other weights, another device or another version of magnet, "
                "and is not used."
            )
            return
        again = " Its unfinished clips are made again." if groups else ""
        self._talk.warn(f"Worker {worker} {why}.{again}")

    def waits(self, worker: int, needs: str) -> None:
        """A worker cannot begin yet."""
        self._talk.note(f"Worker {worker} is waiting for the cluster: it needs {needs}.")

    def less(self, size: int) -> None:
        """A worker's memory is too small for the batch size; continue with a smaller one."""
        self._talk.warn(
            f"A worker ran out of memory: it continues with {count_of(size, 'clip')} at once."
        )

    def download(self, progress: Any) -> None:
        """A download made progress."""
        self.on_download(progress)

    def _say(self, worker: int, text: str | None) -> None:
        if self.display is not None:
            self.display.say(worker, text)


class BatchDisplay(ClipDisplay):
    """Shows bars on a terminal, otherwise a line per finished clip; writes data to stdout.

    `finished` is called from the thread that writes the clips, everything else from the main one.
    """

    def __init__(self, talk: Talk, tally: Tally, path_end: bytes | None) -> None:
        """`path_end`: written after each finished file's path on stdout; None: write no paths."""
        super().__init__(talk)
        self._tally, self._path_end = tally, path_end

    def __enter__(self) -> BatchDisplay:
        super().__enter__()
        if self._bars is not None:
            self._overall = self._bars.add_task("clips", total=self._tally.total, detail="")
        return self

    def begin_jobs(self, jobs: Sequence[Job]) -> OnStep | None:
        """Begin jobs that are decoded together; returns the callback for their steps."""
        if self._bars is None:
            return None
        on_step = self.begin(jobs[0].target.prompt, jobs[0].target.seed)
        self._show_overall()
        return on_step

    def less(self, size: int) -> None:
        """The memory is too small for the batch size; continue with a smaller one."""
        self._talk.warn(f"Out of memory: continuing with {count_of(size, 'clip')} at once.")

    def finished(self, outcome: Outcome) -> None:
        """A clip was written or failed."""
        tally = self._tally
        tally.count(outcome)
        count = f"[{tally.finished}{f'/{tally.total}' if tally.total is not None else ''}]"
        if outcome.saved is not None:
            path = outcome.saved.target.path
            left = f", {rough(tally.seconds_left)} left" if tally.seconds_left else ""
            self._talk.note(
                f"{count} {in_words(outcome.saved)}, in {outcome.seconds:.1f} s "
                f"({tally.clips_per_minute:.1f} clips/min{left})"
            )
            warn(outcome.saved, self._talk, outcome.job.output, f"{outcome.job.file}: ")
            tally.held_back += held_back(outcome.saved, outcome.job.output)
            if outcome.saved.more.get("seamless") is False:
                self._talk.warn(f"{outcome.job.file}: the seam is audible; try another seed.")
            bars = outcome.job.task
            if bars.seconds and abs(outcome.saved.duration - bars.seconds) > 0.01:
                self._talk.warn(
                    f"{outcome.job.file}: its beat is too far from {bars.bpm:g} bpm to be stretched; try "
                    "another seed or more tries."
                )
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


class CrewDisplay(BatchDisplay):
    """A bar for the whole batch, and a line for each worker."""

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
        """Show what a worker does; None removes its line."""
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
    """Yield a crew whose first worker has loaded the model, the model's facts, and the crew's voice.

    Args:
        hire: starts workers.
        count: number of workers, or a function that returns it.
        model: the model's options.
        is_here: nothing needs to be downloaded, so all workers may start at once.

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


def rough(seconds: float | None) -> str:
    """Format a duration roughly, such as 5 min."""
    seconds = seconds or 0.0
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
