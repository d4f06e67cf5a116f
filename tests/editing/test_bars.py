"""Bars at a tempo: the closest of a few seeds, stretched to the exact length if close enough."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from magnet_cli.audio.tempo import Cut
from magnet_cli.editing import bars, pieces
from magnet_cli.editing.bars import Bars, make_bars, with_tempo
from magnet_cli.editing.pieces import Direction
from magnet_cli.editing.windows import derived_seed
from magnet_cli.errors import UsageError
from magnet_cli.settings import BarsConfig
from tests.editing.tiny import FAST, HOP, SAMPLE_RATE, tiny_model

DRUMS = Direction.of("drums", seed=4, config=FAST)
WANTED = BarsConfig(bpm=130, bars=1)  # 1.846 s: 92.3 frames of 50 a second
SAMPLES = round(4 * 60 / 130 * SAMPLE_RATE)


def cut(frames: int, beats: int = 4) -> Cut:
    return Cut(frames, beats, 60 * beats * 50 / frames, 0.01)


def made_of(monkeypatch: pytest.MonkeyPatch, *cuts: Cut | None, **how: Any) -> Bars:
    """The bars of tries with the given beats, in turn."""
    found = iter(cuts)
    monkeypatch.setattr(bars, "cut_on_beat", lambda *asked: next(found))
    wanted = BarsConfig(bpm=130, bars=1, tries=how.pop("tries", len(cuts)))
    return make_bars(tiny_model(), DRUMS, wanted, **how)


@pytest.mark.parametrize("loop", [False, True])
def test_the_nearest_is_stretched_to_the_sample(
    monkeypatch: pytest.MonkeyPatch, loop: bool
) -> None:
    made = made_of(monkeypatch, cut(99), None, cut(95), cut(88), loop=loop)
    assert made.audio.shape == (1, SAMPLES)
    assert made.codes.shape == (1, 4, 95)
    assert (made.loop is not None) == loop
    assert made.beat is not None
    assert made.beat.bpm == 130
    assert made.beat.stretch == pytest.approx(SAMPLES / (95 * HOP))
    seed = derived_seed(4, "try 2")
    assert made.settings["seeds"] == [seed]
    assert made.tried == 4
    # Its own seed makes it directly.
    monkeypatch.setattr(bars, "cut_on_beat", lambda *asked: cut(95))
    once = BarsConfig(bpm=130, bars=1, tries=1)
    again = make_bars(tiny_model(), Direction.of("drums", seed, config=FAST), once, loop)
    assert torch.equal(made.audio, again.audio)


def test_repeated_bars_are_as_many_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever can be heard of their beat: at the model's own tempo, and stretched from there."""
    asked = []

    def cut_on_bars(*given: object) -> Cut:
        asked.append(given[1:])
        return cut(96)

    def extend(*given: Any, **more: Any) -> pieces.Piece:
        return dataclasses.replace(whole(*given, **more), bar=96.0)

    whole = pieces.extend
    monkeypatch.setattr(bars.pieces, "extend", extend)
    monkeypatch.setattr(bars, "cut_on_bars", cut_on_bars)
    made = make_bars(tiny_model(), DRUMS, BarsConfig(bpm=130, bars=1, tries=4))
    assert made.tried == 1  # no seed has another tempo
    assert asked == [(96 / 50, 50.0, 96.0)]
    assert made.beat is not None
    assert (made.beat.bpm, made.audio.shape[-1]) == (130, SAMPLES)


def test_a_beat_that_is_near_enough_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    made = made_of(monkeypatch, cut(99), cut(92), tries=4)
    assert made.tried == 2


@pytest.mark.parametrize("loop", [False, True])
def test_what_is_further_off_stays_as_it_was_made(
    monkeypatch: pytest.MonkeyPatch, loop: bool
) -> None:
    made = made_of(monkeypatch, cut(99), None, cut(110), loop=loop)
    assert made.settings["seeds"] == [4]
    assert made.audio.shape == (1, 99 * HOP)
    assert made.beat is not None
    assert (made.beat.beats, made.beat.stretch) == (4, 1)
    assert made.beat.bpm == pytest.approx(121.2, abs=0.1)


def test_four_hundredths_of_the_tempo_are_not_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """125 bpm is stretched to 120: 16 beats of 7.68 s in 8 s."""
    monkeypatch.setattr(bars, "cut_on_beat", lambda *asked: cut(96))
    made = make_bars(tiny_model(), DRUMS, BarsConfig(bpm=120, bars=1, tries=1))
    assert made.audio.shape == (1, 2 * SAMPLE_RATE)


@pytest.mark.parametrize("loop", [False, True])
def test_without_a_beat_the_length_is_right(monkeypatch: pytest.MonkeyPatch, loop: bool) -> None:
    monkeypatch.setattr(bars, "missed_at", lambda *asked: 0.2)
    made = made_of(monkeypatch, None, None, loop=loop)
    assert made.audio.shape == (1, SAMPLES)
    assert made.beat is None
    assert made.settings["seeds"] == [4]


def test_of_loops_the_seam_counts_as_well_as_the_tempo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Among clips that can be stretched, a little more stretching is better than a bad seam."""
    off, on = Cut(93, 4, 129.0, 0.04), Cut(94, 4, 127.7, 0.0)
    for loop, tried in ((True, 2), (False, 1)):
        assert made_of(monkeypatch, off, on, loop=loop).tried == tried
        assert (
            made_of(monkeypatch, off, on, tries=2, loop=loop).codes.shape[-1] == (94, 93)[tried % 2]
        )
    # Without a beat, the one whose pulse is closest.
    missed = iter([0.3, 0.1, 0.2])
    monkeypatch.setattr(bars, "missed_at", lambda *asked: next(missed))
    made = made_of(monkeypatch, None, None, None, loop=True)
    assert made.settings["seeds"] == [derived_seed(4, "try 1")]


def test_it_is_heard_for_as_many_beats_as_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(bars, "cut_on_beat", lambda *told: asked.append(told))
    heard: list[str | None] = []
    extend = pieces.extend

    def noted(model: Any, direction: Direction, frames: int, **more: Any) -> pieces.Piece:
        heard.append(direction.cues[0].prompt)
        return extend(model, direction, frames, **more)

    monkeypatch.setattr(pieces, "extend", noted)
    make_bars(tiny_model(), DRUMS, BarsConfig(bpm=40, bars=2, tries=1))
    ((sound, seconds, frame_rate, beats, loop),) = asked
    assert (seconds, frame_rate, beats, loop) == (12.0, 50.0, 8, False)
    assert sound.seconds >= 12 * 1.04
    assert heard == ["drums, 40 bpm"]


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("funk drums", "funk drums, 120 bpm"),
        ("techno, 98.5 BPM, dark", "techno, 120 bpm, dark"),
        ("techno at 98bpm", "techno at 120 bpm"),
        (None, None),
    ],
)
def test_the_prompt_says_the_tempo(prompt: str | None, said: str | None) -> None:
    assert with_tempo(prompt, 120.0) == said
    assert with_tempo(said, 120.0) == said


@pytest.mark.parametrize(
    "given",
    [{"bpm": 120}, {"bars": 4}, {"tries": 0}, {"bpm": 20, "bars": 4}, {"bpm": 120, "bars": 0}],
)
def test_what_cannot_be_bars_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        BarsConfig(**given)
    assert caught.value.hint
