"""The output of a running batch, on a simulated terminal."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from magnet_cli.audio.loudness import Loudness
from magnet_cli.batch.jobs import Job
from magnet_cli.batch.report import Outcome, Tally
from magnet_cli.cli.batch_crew import BatchDisplay
from magnet_cli.cli.talk import say_held_back
from magnet_cli.clips import SavedClip
from magnet_cli.data.tasks import LineTask
from magnet_cli.errors import UsageError
from magnet_cli.settings import OutputConfig
from tests.batch.batches import batch, jobs
from tests.cli.test_progress import event, talk, written


def saved(job: Job, reduction: float = 0.0, lufs: float = -14.0) -> Outcome:
    loudness = Loudness(-30.0, lufs, 16.0, reduction, -1.0)
    return Outcome(job, 2.5, SavedClip(job.target, 10.0013, 32_000, 1, loudness, {}))


def test_the_overall_bar_stands_above_those_of_the_clips() -> None:
    made = talk(terminal=True)
    tally = Tally(total=3)
    rain, wind, fire = jobs(batch(Path("clips")), "rain", "wind", "fire")
    with BatchDisplay(made, tally, None) as display:
        on_step = display.begin_jobs([rain, wind])
        assert on_step is not None
        for step in (1, 2, 3):
            on_step(event(1, step))
        display.finished(saved(rain))
        display.finished(Outcome(wind, 1.0, error=UsageError("The wind broke it.")))
        display.begin_jobs([fire])
    text = re.sub("\x1b\\[[0-9;?]*[a-zA-Z]", "", written(made))
    for words in ("stream 2 of 2", "clips", "2/3", "clips/min", "[1/3] clips/0000-rain-100.wav"):
        assert words in text
    assert text.index("clips") < text.index("stream 2 of 2")
    assert (tally.made, tally.failed) == (1, 1)


def test_a_line_for_each_clip_elsewhere(capfd: pytest.CaptureFixture[str]) -> None:
    made = talk(terminal=False)
    rain, wind = jobs(batch(Path("clips")), "rain", "wind")
    with BatchDisplay(made, Tally(total=2), b"\0") as display:
        assert display.begin_jobs([rain]) is None
        display.finished(saved(rain, reduction=9.0))
        display.finished(Outcome(wind, 1.0, error=UsageError("The wind broke it.", "Wait.")))
        display.less(1)
    first, second, *_ = written(made).splitlines()
    assert first.startswith(
        "[1/2] clips/0000-rain-100.wav: 10 s, -14.0 LUFS, peak -1.0 dBFS, in 2.5 s"
    )
    assert " left)" in first
    assert second.startswith("0000-rain-100.wav: The limiter worked hard (9 dB)")
    assert "continuing with 1 clip at once" in written(made)
    captured = capfd.readouterr()
    assert captured.out == "clips/0000-rain-100.wav\0"
    assert "[2/2] 0001-wind-101.wav (line 2): The wind broke it." in captured.err


def test_clips_that_stay_quieter_are_summed_up_once() -> None:
    made, tally = talk(terminal=False), Tally(total=3)
    rain, wind, fire = jobs(batch(Path("clips")), "rain", "wind", "fire")
    with BatchDisplay(made, tally, None) as display:
        display.finished(saved(rain, 4.0, -18.2))
        display.finished(saved(wind, 4.0, -16.0))
        display.finished(saved(fire))
    assert len(written(made).splitlines()) == 3
    assert tally.held_back == [-18.2, -16.0]
    say_held_back(tally.held_back, tally.made, rain.output, made)
    assert written(made).splitlines()[-1] == (
        "2 of 3 clips are at -18.2 to -16.0 LUFS: their peaks allow no more; "
        "--max-limiting 12 allows more."
    )
    say_held_back([-18.2], 3, rain.output, made)
    assert " 1 of 3 clips is at -18.2 LUFS: its peaks " in f" {written(made).splitlines()[-1]}"
    say_held_back([-18.2], 1, OutputConfig(max_limiting=12), made)
    assert (
        written(made)
        .splitlines()[-1]
        .startswith("-18.2 LUFS: its peaks allow no more; set a lower")
    )


def test_where_lines_arrive_no_total_is_said() -> None:
    made = talk(terminal=False)
    with BatchDisplay(made, Tally(), None) as display:
        display.finished(saved(jobs(batch(Path("clips")), "rain")[0]))
    assert written(made).startswith("[1] clips/0000-rain-100.wav")
    assert "left" not in written(made)


def test_quiet_says_errors_alone(capfd: pytest.CaptureFixture[str]) -> None:
    made = talk(terminal=False, quiet=True)
    rain, wind = jobs(batch(Path("clips")), "rain", "wind")
    with BatchDisplay(made, Tally(), None) as display:
        display.finished(saved(rain, reduction=9.0))
        display.finished(Outcome(wind, 1.0, error=UsageError("The wind broke it.")))
    assert written(made) == ""
    assert "The wind broke it." in capfd.readouterr().err


def test_a_tempo_that_was_not_reached_is_said() -> None:
    made = talk(terminal=False)
    reached, missed = jobs(batch(Path("clips")), "techno", "rain")
    with BatchDisplay(made, Tally(total=2), None) as display:
        display.finished(
            saved(replace(reached, task=LineTask(bpm=120, bars=5)))
        )  # 10 s, as `saved`
        display.finished(saved(replace(missed, task=LineTask(bpm=125, bars=5))))
    (line,) = (line for line in written(made).splitlines() if "beat" in line)
    assert line.startswith("0001-rain-101.wav: its beat is too far from 125 bpm to be stretched")
