"""Beat detection on click tracks of known tempo, and on sounds without a beat."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from magnet_cli.audio.tempo import (
    cut_on_bars,
    cut_on_beat,
    cut_on_pulse,
    hear,
    missed_at,
    onsets,
    tempo_of,
)

RATE = 24_000


def clicks(
    bpm: float, seconds: float = 8.0, late: float = 0.0, between: float = 0.0
) -> npt.NDArray[np.float32]:
    """A burst of noise on every beat, from `late` seconds on; `between`: the level of one between two
    beats."""
    draw = np.random.default_rng(0)
    made = 0.001 * draw.standard_normal(round(seconds * RATE))
    hit = draw.standard_normal(1200) * np.exp(-np.arange(1200) / 250)
    for number, at in enumerate(np.arange(late, seconds - 0.06, 30 / bpm)):
        made[round(at * RATE) :][:1200] += hit * (between if number % 2 else 1.0)
    return made.astype(np.float32)


@pytest.mark.parametrize("bpm", [60, 75.5, 90, 112.5, 120, 127.3, 140])
@pytest.mark.parametrize("late", [0.0, 0.23])
def test_the_tempo_of_clicks_is_found(bpm: float, late: float) -> None:
    found = tempo_of(onsets(clicks(bpm, late=late), RATE))
    assert found is not None
    assert found.bpm == pytest.approx(bpm, rel=0.003)


def test_a_fast_beat_is_taken_at_half_its_tempo_or_as_it_is() -> None:
    found = tempo_of(onsets(clicks(174), RATE))
    assert found is not None
    assert min(abs(found.bpm / 174 - 1), abs(found.bpm / 87 - 1)) < 0.003


def test_what_has_no_beat_has_no_tempo() -> None:
    times = np.arange(8 * RATE) / RATE
    noise = np.random.default_rng(1).standard_normal(8 * RATE)
    pad = np.sin(2 * np.pi * 220 * times) * np.hanning(len(times))
    for sound in (noise, pad, 0 * times, noise[:500]):
        assert tempo_of(onsets(sound.astype(np.float32), RATE)) is None


@pytest.mark.parametrize("bpm", [75.5, 100, 120, 127.3])
def test_a_loop_of_clicks_is_cut_on_the_beat(bpm: float) -> None:
    """Within half a frame of 40 ms, and never half a beat off."""
    cut = cut_on_beat(hear(clicks(bpm, 10.0, late=0.1), RATE), 8.0, 25.0)
    assert cut is not None
    assert abs(cut.frames / 25 - cut.beats * 60 / bpm) <= 0.021
    assert abs(cut.frames / 25 - 8) < 1.15 * 60 / bpm
    assert cut.off <= 0.05


def test_an_end_that_has_lost_the_beat_is_not_on_it() -> None:
    """Half of it continues at another tempo: no length is a whole number of beats."""
    both = np.concatenate([clicks(120, 5.0), clicks(97, 5.0)])
    assert cut_on_beat(hear(both, RATE), 8.0, 25.0) is None
    assert cut_on_beat(hear(0 * both, RATE), 8.0, 25.0) is None
    assert cut_on_beat(hear(clicks(120, 1.0), RATE), 0.8, 25.0) is None


@pytest.mark.parametrize(("bpm", "asked"), [(118, 120), (59, 120), (174, 170), (101, 98)])
def test_as_many_beats_as_are_asked_for(bpm: float, asked: float) -> None:
    """Half the tempo counts as the tempo."""
    cut = cut_on_beat(hear(clicks(bpm, 10.0, late=0.1), RATE), 16 * 60 / asked, 25.0, 16)
    assert cut is not None
    assert cut.beats == 16
    played = bpm if bpm > 60 else 2 * bpm
    assert cut.frames / 25 == pytest.approx(16 * 60 / played, abs=0.021)


@pytest.mark.parametrize("bpm", [140, 145, 150, 175])
def test_two_thirds_of_a_tempo_are_not_taken_for_it(bpm: float) -> None:
    """Three intervals of the weaker clicks between beats are as long as two beats: half a beat off."""
    cut = cut_on_beat(hear(clicks(bpm, 10.0, late=0.2, between=0.4), RATE), 8.0, 25.0)
    assert cut is not None
    beats = cut.frames / 25 * bpm / 60
    assert abs(beats - round(beats)) <= 0.05


@pytest.mark.parametrize("bpm", [65, 100])
def test_beats_that_take_turns_are_an_even_number(bpm: float) -> None:
    """At 65 bpm weak clicks between the beats were counted as beats, and the loop was half a beat off."""
    cut = cut_on_beat(hear(clicks(bpm, 10.0, late=0.2, between=0.4), RATE), 8.0, 25.0)
    assert cut is not None
    beats = cut.frames / 25 * bpm / 60
    assert abs(beats - round(beats)) <= 0.05


@pytest.mark.parametrize(
    ("seconds", "frames", "beats"),
    [(8.0, 192, 16), (7.0, 192, 16), (6.5, 144, 12), (3.0, 72, 6), (1.0, 24, 2), (99.0, 240, 20)],
)
def test_repeated_bars_are_cut_at_their_lines(seconds: float, frames: int, beats: int) -> None:
    """125 bpm, 48 frames per bar; below two bars at half bars, and never beyond the sound."""
    cut = cut_on_bars(hear(clicks(125, 10.0, late=0.1), RATE), seconds, 25.0, 48.0)
    assert cut is not None
    assert (cut.frames, cut.beats) == (frames, beats)
    assert cut.bpm == pytest.approx(125)
    assert cut.off <= 0.05


def test_bars_that_break_the_pulse_are_no_place_to_cut() -> None:
    heard = hear(clicks(125, 10.0, late=0.1), RATE)
    assert cut_on_bars(heard, 8.0, 25.0, 56.0) is None
    assert cut_on_bars(heard, 0.3, 25.0, 48.0) is None  # nearer to nothing than to half a bar


def test_what_has_no_steady_beat_is_cut_where_its_pulse_meets_itself() -> None:
    made = clicks(120, 10.0)
    made[3 * RATE : 5 * RATE] = 0
    assert cut_on_pulse(hear(made, RATE), 7.8, 25.0) == 200
    assert missed_at(hear(made, RATE), 8.0) <= 0.01
    assert missed_at(hear(made, RATE), 7.8) == pytest.approx(0.4, abs=0.01)


def test_what_does_not_pulse_is_left_as_long_as_it_was_asked_for() -> None:
    times = np.arange(10 * RATE) / RATE
    noise = np.random.default_rng(1).standard_normal(10 * RATE)
    for sound in (noise, np.sin(2 * np.pi * 220 * times), 0 * times, noise[:500]):
        assert cut_on_pulse(hear(sound.astype(np.float32), RATE), 8.0, 25.0) is None
