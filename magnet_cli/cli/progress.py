"""How far it is, on stderr: bars on a terminal, a few plain lines elsewhere, nothing under --quiet.

with loading(talk, "small") as on_download: model = load_model("small", progress=on_download)
with ClipDisplay(talk) as display:
    on_step = display.begin("lofi piano", seed=7)
    model.generate(..., on_step=on_step)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from magnet_cli.cli.output import Talk, printable, stdout_is_terminal

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from magnet_cli.checkpoints.hub import Progress as Download
    from magnet_cli.decoding.contracts import StepEvent

_PLAIN_SECONDS = 15.0  # between two plain lines of one download
_SPEED_SECONDS = 3600.0  # over which the time left is estimated: a clip may take a minute


@contextmanager
def loading(talk: Talk, name: str) -> Iterator[Callable[[Download], None]]:
    """Show that a model is being loaded, and each download that it takes: yields the hook for them."""
    name = _shortened(name)
    if not talk.live:
        talk.note(f"Loading {name}")
        yield _plain_downloads(talk)
        return
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    spinner = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), console=talk.console, transient=True
    )
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True),
        console=talk.console,
        transient=True,
    )
    tasks: dict[tuple[str, str], TaskID] = {}

    def on_download(progress: Download) -> None:
        key = (progress.repo, progress.file)
        if key not in tasks:
            tasks[key] = bars.add_task(escape(printable(f"{progress.repo}: {progress.file}")))
        bars.update(tasks[key], completed=progress.done, total=progress.total)

    from rich.console import Group
    from rich.live import Live

    spinner.add_task(f"Loading {escape(printable(name))}")
    with Live(
        Group(spinner, bars),
        console=talk.console,
        transient=True,
        refresh_per_second=10,
        redirect_stdout=stdout_is_terminal(),
    ):
        yield on_download


class ClipDisplay:
    """The clips that are being made: a bar for each stream of the current one, then the codec.

    A context manager; `begin` starts the next clip and gives the callback for `generate`.
    """

    def __init__(self, talk: Talk, clips: int = 1) -> None:
        self._talk = talk
        self._clips = clips
        self._begun = 0
        self._bars: Progress | None = None
        self._overall: TaskID | None = None
        self._tasks: dict[tuple[str, int], TaskID] = {}
        self._rescorer_seconds = 0.0

    def __enter__(self) -> ClipDisplay:
        if self._talk.live:
            self._bars = _step_bars(self._talk)
            self._bars.start()
            if self._clips > 1:
                self._overall = self._bars.add_task("clips", total=self._clips, detail="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def begin(self, label: str, seed: int) -> Callable[[StepEvent], None] | None:
        """Start the next clip: what `generate` takes as `on_step`."""
        self._begun += 1
        text = printable(_shortened(label))
        which = f" {self._begun} of {self._clips}" if self._clips > 1 else ""
        if self._bars is None:
            if self._talk.quiet:
                return None
            self._talk.note(f"Generating{which}: {text} (seed {seed})")
            return _plain_steps(self._talk)
        for task in self._tasks.values():
            self._bars.remove_task(task)
        self._tasks.clear()
        self._rescorer_seconds = 0.0
        if self._overall is not None:
            self._bars.update(self._overall, completed=self._begun - 1, detail=_escaped(text))
        return self._on_step

    def window(self, number: int, windows: int) -> None:
        """The next window of a longer piece begins: `number` from 1."""
        if windows == 1:
            return
        if self._bars is None:
            self._talk.note(f"  window {number} of {windows}")
            return
        key = ("window", 0)
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task("windows", total=windows, detail="")
        for other, task in self._tasks.items():
            if other != key:
                self._bars.reset(task, detail="")
        self._bars.update(self._tasks[key], completed=number - 1)

    def done(self) -> None:
        """The clip is finished and written."""
        if self._bars is not None and self._overall is not None:
            self._bars.update(self._overall, completed=self._begun)

    def _on_step(self, event: StepEvent) -> None:
        assert self._bars is not None
        key = (event.part, event.stage)
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task(_row(event), total=event.steps, detail="")
        self._rescorer_seconds += event.rescorer_seconds
        detail = _detail(event, self._rescorer_seconds)
        self._bars.update(self._tasks[key], completed=event.step, detail=detail)


def _step_bars(talk: Talk) -> Progress:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        TextColumn("{task.fields[detail]}", style="dim"),
        console=talk.console,
        transient=True,
        speed_estimate_period=_SPEED_SECONDS,
        # Rich would send what is written to stdout to stderr, above the bars. Where stdout is a
        # terminal, too, that keeps the picture whole; anywhere else stdout is data and stays so.
        redirect_stdout=stdout_is_terminal(),
    )


def _row(event: StepEvent) -> str:
    """The name of the row that an event belongs to."""
    if event.part == "codec":
        return "codec"
    if event.part == "autoregressive":
        return "all streams"
    if len(event.streams) > 1:
        return f"streams {event.streams[0] + 1} to {event.streams[-1] + 1}"
    return f"stream {event.stage + 1} of {event.stages}"


def _detail(event: StepEvent, rescorer_seconds: float) -> str:
    """What the loop says of itself at this step, and what the rescorer has cost the clip so far."""
    if event.part == "codec":
        return ""
    guidance = f"λ {event.cfg_coef:.1f}  temperature {event.temperature:.2f}"
    if event.part == "autoregressive":
        return guidance
    cost = f"  rescorer {rescorer_seconds:.1f} s" if rescorer_seconds else ""
    return f"masked {abs(event.mask_rate):4.0%}  {guidance}{cost}"


def _plain_steps(talk: Talk) -> Callable[[StepEvent], None]:
    """One line for each row that is complete."""
    began, rescorer = time.monotonic(), 0.0

    def on_step(event: StepEvent) -> None:
        nonlocal began, rescorer
        rescorer += event.rescorer_seconds
        if event.step < event.steps:
            return
        seconds, began = time.monotonic() - began, time.monotonic()
        plural = "" if event.steps == 1 else "s"
        steps = "" if event.part == "codec" else f"{event.steps} step{plural} in "
        cost = f" (rescorer {rescorer:.1f} s)" if rescorer else ""
        rescorer = 0.0
        talk.note(f"  {_row(event)}: {steps}{seconds:.1f} s{cost}")

    return on_step


def _plain_downloads(talk: Talk) -> Callable[[Download], None]:
    """A line when a download begins, now and then while it runs, and at its end."""
    said: dict[tuple[str, str], float] = {}

    def on_download(progress: Download) -> None:
        key, now = (progress.repo, progress.file), time.monotonic()
        complete = progress.total is not None and progress.done >= progress.total
        if key in said and not complete and now - said[key] < _PLAIN_SECONDS:
            return
        if said.get(key) == float("inf"):
            return
        said[key] = float("inf") if complete else now
        total = f" of {progress.total / 1e6:.0f}" if progress.total else ""
        talk.note(f"  {progress.repo}: {progress.file}: {progress.done / 1e6:.0f}{total} MB")

    return on_download


def _shortened(text: str, longest: int = 60) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
