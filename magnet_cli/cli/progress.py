"""Progress on stderr: bars on a terminal, a few lines elsewhere, nothing under --quiet.

with loading(talk, "small") as on_download: model = load_model("small", progress=on_download)
with ClipDisplay(talk) as display:
    on_step = display.begin("lofi piano", seed=7)
    model.generate(..., on_step=on_step)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from magnet_cli.cli.hearing import hear
from magnet_cli.cli.talk import (
    Talk,
    complain,
    held_back,
    printable,
    say_held_back,
    say_saved,
    stdout_is_terminal,
    write_stdout,
)
from magnet_cli.errors import EXIT_INTERRUPTED, MagnetError, NoRoomError, PartialFailureError
from magnet_cli.naming import count_of, some
from magnet_cli.settings import OutputConfig

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from magnet_cli.clips import Clip, Edit, SavedClip
    from magnet_cli.decoding.contracts import StepEvent
    from magnet_cli.targets import Target

_SPEED_SECONDS = 3600.0  # window for estimating the time left: a clip may take a minute


@contextmanager
def counting(talk: Talk, what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a count: as a bar on a terminal, elsewhere as a line for every tenth."""
    if talk.live:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        with Progress(
            what, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=talk.console
        ) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, count: bar.update(task, completed=done, total=count)
        return

    def on_clip(done: int, count: int) -> None:
        if done * 10 // count > (done - 1) * 10 // count:
            talk.note(f"{what} {done}/{count}")

    yield on_clip


class ClipDisplay:
    """Shows the clips being made, with a bar for the current one that moves with each decoding step.

    A context manager; `begin` starts the next clip and returns the callback for `generate`.
    """

    def __init__(self, talk: Talk, clips: int = 1) -> None:
        self._talk = talk
        self._clips = clips
        self._begun = 0
        self._bars: Progress | None = None
        self._overall: TaskID | None = None
        self._clip: TaskID | None = None
        self._windows: TaskID | None = None
        self._parts: dict[tuple[str, int], int] = {}  # steps of the current clip, by part and stage
        self._last = ("", 0), 0  # the latest part and step
        self._rescorer_seconds = 0.0

    def __enter__(self) -> ClipDisplay:
        if self._talk.live:
            self._bars = _step_bars(self._talk)
            self._bars.start()
            if self._clips > 1:
                self._overall = self._bars.add_task("clips", total=self._clips, detail="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def begin(self, label: str, seed: int) -> Callable[[StepEvent], None] | None:
        """Start the next clip; returns `on_step` for `generate`."""
        self._begun += 1
        text = printable(shortened(label))
        which = f" {self._begun} of {self._clips}" if self._clips > 1 else ""
        if self._bars is None:
            if self._talk.quiet or not self._talk.verbose:
                return None
            self._talk.note(f"Generating{which}: {text} (seed {seed})")
            return _plain_steps(self._talk)
        for task in (self._windows, self._clip):
            if task is not None:
                self._bars.remove_task(task)
        self._windows = self._clip = None
        self._parts.clear()
        self._rescorer_seconds = 0.0
        if self._overall is not None:
            self._bars.update(self._overall, completed=self._begun - 1, detail=escaped(text))
        return self._on_step

    def window(self, number: int, windows: int) -> None:
        """Window `number` (from 1) of a longer piece begins."""
        if windows == 1:
            return
        if self._bars is None:
            self._talk.detail(f"  window {number} of {windows}")
            return
        if self._windows is None:
            self._windows = self._bars.add_task("windows", total=windows, detail="")
        self._bars.update(self._windows, completed=number - 1)

    def done(self) -> None:
        """The clip is finished and written."""
        if self._bars is not None and self._overall is not None:
            self._bars.update(self._overall, completed=self._begun)

    def _on_step(self, event: StepEvent) -> None:
        assert self._bars is not None
        part = event.part, event.stage
        goes_on = (part == self._last[0] and event.step > self._last[1]) or part not in self._parts
        if not goes_on:  # the next window, or another try
            self._parts.clear()
        self._parts[part], self._last = event.steps, (part, event.step)
        self._rescorer_seconds += event.rescorer_seconds
        done, total = event.step, event.steps
        if event.part != "codec":
            total = sum(self._parts.values()) + event.later
            done += sum(self._parts.values()) - event.steps
        detail = _detail(event, self._rescorer_seconds, _is_narrow(self._talk))
        if self._clip is None:
            self._clip = self._bars.add_task(_row(event), total=total, detail=detail)
        elif not goes_on:
            self._bars.reset(self._clip)
        self._bars.update(
            self._clip, description=_row(event), completed=done, total=total, detail=detail
        )


def make_each(
    targets: Sequence[Target],
    make: Callable[[Target, dict[str, Any]], Clip | Edit],
    output: OutputConfig,
    talk: Talk,
    *,
    play: bool = False,
    loop: bool = False,
    also: Callable[[Clip | Edit, SavedClip], None] = lambda clip, saved: None,
) -> None:
    """Make, write and report each clip; a failing clip does not stop the others, but a full disk does.

    Args:
        make: makes a target's clip, given `seed`, `on_step` and `on_window` as the model's methods take them.
        output: the output settings.
        play: whether to play the clips at the end, as loops if `loop`.
        also: reports more about a clip.

    Raises:
        PartialFailureError: some clips failed or were not tried.
        MagnetError: no clip was made; the first error.
        typer.Exit: a piece was interrupted, and its finished part written.
    """
    failures: list[MagnetError] = []
    failed: list[str] = []
    quieter: list[float] = []
    clips: list[SavedClip] = []
    with ClipDisplay(talk, len(targets)) as display:
        for target in targets:
            try:
                began = time.monotonic()
                on_step = display.begin(target.prompt, target.seed)
                told = {"seed": target.seed, "on_step": on_step, "on_window": display.window}
                clip = make(target, told)
                saved = clip.write(target, output, write_stdout, on_step)
                display.done()
                say_saved(saved, talk, output, time.monotonic() - began)
                quieter += held_back(saved, output)
                if "partial" in clip.settings:
                    raise typer.Exit(EXIT_INTERRUPTED)
                also(clip, saved)
                clips.append(saved)
            except MagnetError as error:
                failures.append(error)
                failed.append(target.where)
                if len(targets) > 1:
                    if error.message not in {said.message for said in failures[:-1]}:
                        where = f" ({target.path})" if target.path is not None else ""
                        complain(f"{error.message}{where}", error.hint)
                    asked = {"file": target.where, "prompt": target.prompt, "seed": target.seed}
                    talk.data({"status": "failed", **asked, "error": str(error)})
                if isinstance(error, NoRoomError):
                    # The others would not fit either, so do not spend hours on them.
                    if not clips:
                        raise
                    raise PartialFailureError(
                        f"{len(clips)} of {len(targets)} clips were made before the disk was full.",
                        "Free some space, then make the others again, each by its seed.",
                    ) from error
        say_held_back(quieter, len(clips), output, talk)
        if failures and not clips:
            raise failures[0]
        if failures:
            raise PartialFailureError(
                f"{len(failures)} of {len(targets)} clips could not be made: {some(failed)}.",
                "The reasons are above; the other clips were made.",
            )
    if play:
        hear([(saved.target.path, loop) for saved in clips], talk)


def grown(pieces: Iterator[Clip], keep_partial: bool) -> Clip:
    """The complete piece, or on Ctrl-C its finished part if `keep_partial`."""
    finished: Clip | None = None
    try:
        for clip in pieces:
            finished = clip
    except KeyboardInterrupt:
        if finished is None or not keep_partial or "partial" not in finished.settings:
            raise
    assert finished is not None
    return finished


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
        BarColumn(bar_width=6 if _is_narrow(talk) else 24),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        TextColumn("{task.fields[detail]}", style="dim"),
        console=talk.console,
        transient=True,
        speed_estimate_period=_SPEED_SECONDS,
        # Rich can print stdout's text on stderr, above the bars. If stdout is a terminal that avoids a
        # garbled display; otherwise stdout is data and must not be redirected.
        redirect_stdout=stdout_is_terminal(),
    )


def _row(event: StepEvent) -> str:
    """The label of an event's row."""
    if event.part == "codec":
        return "codec"
    if event.part == "autoregressive":
        return "all streams"
    if len(event.streams) > 1:
        return f"streams {event.streams[0] + 1} to {event.streams[-1] + 1}"
    return f"stream {event.stage + 1} of {event.stages}"


def _is_narrow(talk: Talk) -> bool:
    """Whether the terminal is too narrow for a full row."""
    return talk.console.width < 100


def _detail(event: StepEvent, rescorer_seconds: float, short: bool) -> str:
    """The decoding values of a step, and the rescorer's seconds for the clip so far."""
    if event.part == "codec":
        return ""
    if short:
        masked = f"{abs(event.mask_rate):4.0%} " if event.part == "masked" else ""
        return f"{masked}λ {event.cfg_coef:.1f} T {event.temperature:.2f}"
    guidance = f"λ {event.cfg_coef:.1f}  temperature {event.temperature:.2f}"
    if event.part == "autoregressive":
        return guidance
    cost = f"  rescorer {rescorer_seconds:.1f} s" if rescorer_seconds else ""
    return f"masked {abs(event.mask_rate):4.0%}  {guidance}{cost}"


def _plain_steps(talk: Talk) -> Callable[[StepEvent], None]:
    """Print a line for each completed row."""
    began, rescorer = time.monotonic(), 0.0

    def on_step(event: StepEvent) -> None:
        nonlocal began, rescorer
        rescorer += event.rescorer_seconds
        if event.step < event.steps:
            return
        seconds, began = time.monotonic() - began, time.monotonic()
        steps = "" if event.part == "codec" else f"{count_of(event.steps, 'step')} in "
        cost = f" (rescorer {rescorer:.1f} s)" if rescorer else ""
        rescorer = 0.0
        talk.note(f"  {_row(event)}: {steps}{seconds:.1f} s{cost}")

    return on_step


def shortened(text: str, longest: int = 60) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
