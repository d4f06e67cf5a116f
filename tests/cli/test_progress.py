"""The progress display, on a simulated terminal."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from magnet_cli.checkpoints.hub import Progress as Download
from magnet_cli.cli.loading import loading
from magnet_cli.cli.progress import ClipDisplay
from magnet_cli.cli.settings import StepTalkOptions
from magnet_cli.cli.talk import Talk
from magnet_cli.decoding.contracts import StepEvent


def talk(terminal: bool, quiet: bool = False, verbose: bool = False) -> Talk:
    made = Talk(StepTalkOptions(quiet=quiet, verbose=verbose))
    made.console = Console(
        file=io.StringIO(), force_terminal=terminal, width=120, height=40, emoji=False
    )
    return made


def written(made: Talk) -> str:
    assert isinstance(made.console.file, io.StringIO)
    return made.console.file.getvalue()


def event(stage: int, step: int, steps: int = 3) -> StepEvent:
    return StepEvent("masked", stage, 2, step, steps, 1 - step / steps, 10.0 / step, 2.5, 7)


def run_clip(made: Talk, clips: int = 1) -> None:
    with ClipDisplay(made, clips) as display:
        for clip in range(clips):
            on_step = display.begin("lofi [bold]piano\x1b[2J", seed=7 + clip)
            for stage in (0, 1):
                for step in (1, 2, 3):
                    if on_step is not None:
                        on_step(event(stage, step))
            if on_step is not None:
                on_step(StepEvent("codec", 0, 1, 1, 1, 0.0, 1.0, 0.0, 0))
            display.done()


def test_a_bar_for_each_clip_with_what_the_loop_says() -> None:
    made = talk(terminal=True)
    run_clip(made, clips=2)
    text = written(made)
    for words in ("codec", "1/1", "2/2"):
        assert words in text
    assert "lofi [bold]piano" in text  # a prompt is no markup
    assert "\x1b[2J" not in text  # and no command to the terminal


def shown(display: ClipDisplay) -> list[tuple[str, float, float | None, str]]:
    """The rows: label, position, total and text."""
    assert display._bars is not None
    return [(t.description, t.completed, t.total, t.fields["detail"]) for t in display._bars.tasks]


def test_every_step_of_every_stream_moves_the_one_bar() -> None:
    """nano's thirteen bars were too quick to read."""
    made = talk(terminal=True)
    with ClipDisplay(made) as display:
        on_step = display.begin("rain", 1)
        assert on_step is not None
        seen = []
        for number in range(2):
            display.window(number + 1, 2)
            on_step(StepEvent("autoregressive", 0, 1, 4, 4, 0.0, 3.0, 1.0, 7, later=5))
            for stage, steps in ((0, 3), (1, 2)):
                for step in range(1, steps + 1):
                    on_step(replace(event(stage, step, steps), later=2 * (1 - stage)))
                    seen.append(shown(display)[1][1:3])
        assert seen == [(n, 9) for n in (5, 6, 7, 8, 9)] * 2
        windows, clip = shown(display)
        assert windows[:3] == ("windows", 1, 2)
        assert clip[0] == "stream 2 of 2"
        assert clip[3] == "masked   0%  λ 5.0  temperature 2.50"
        on_step(StepEvent("codec", 0, 1, 1, 8, 0.0, 1.0, 0.0, 0))
        assert shown(display)[1][:3] == ("codec", 1, 8)


def test_a_bar_fits_a_narrow_terminal() -> None:
    made = talk(terminal=True)
    made.console.width = 60
    with ClipDisplay(made) as display:
        on_step = display.begin("rain", 1)
        assert on_step is not None
        on_step(StepEvent("masked", 11, 12, 2, 2, 1.0, 10.0, 0.01, 0, later=0))
    rows = [row for row in written(made).replace("\r", "\n").splitlines() if "stream" in row]
    assert rows
    assert all("…" not in row and "T 0.01" in row for row in rows)


def test_plain_lines_elsewhere() -> None:
    made = talk(terminal=False)
    run_clip(made)
    assert written(made) == ""
    made = talk(terminal=False, verbose=True)
    run_clip(made)
    lines = written(made).splitlines()
    assert len(lines) == 4
    assert lines[1].startswith("  stream 1 of 2: 3 steps in")
    assert "\x1b" not in written(made)


def test_quiet_is_quiet() -> None:
    for terminal in (True, False):
        made = talk(terminal, quiet=True)
        run_clip(made)
        with loading(made, "small") as hook:
            hook(Download("o/n", "f.bin", 1, 2))
        assert written(made) == ""


@pytest.mark.parametrize("terminal", [True, False])
def test_downloads_show_that_they_live(terminal: bool) -> None:
    made = talk(terminal, verbose=True)
    with loading(made, "small") as hook:
        for done in range(0, 101, 10):
            hook(Download("facebook/x", "state_dict.bin", done * 10**6, 100 * 10**6))
        hook(Download("facebook/x", "other.bin", 5, None))
    text = written(made)
    assert "Loading small" in text
    assert "state_dict.bin" in text
    if not terminal:
        assert text.count("state_dict.bin") == 2  # its beginning and its end


def test_the_cursor_is_shown_again() -> None:
    made = talk(terminal=True)
    display = ClipDisplay(made)
    with display:
        display.begin("rain", 1)
    assert "\x1b[?25h" in written(made)
