"""Loops: the seam is made in codes, the rest is unchanged, and the end continues at the start."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from magnet_cli.audio.tempo import Cut
from magnet_cli.editing import looping
from magnet_cli.editing.looping import (
    SHORTEST,
    Loop,
    close_loop,
    decode_around,
    loops,
    seam_flux,
)
from magnet_cli.editing.pieces import Direction, Piece
from magnet_cli.editing.windows import Cue
from magnet_cli.errors import UsageError
from magnet_cli.settings import DecodingConfig, steady
from tests.editing.tiny import FAST, HOP, SAMPLE_RATE, codes_of, tiny_model

PIANO = Direction.of("piano", seed=4, config=FAST)


@pytest.mark.parametrize("frames", [SHORTEST, 45, 50, 133])
def test_only_the_seam_is_decoded_anew(frames) -> None:
    codes = codes_of(frames)
    loop = close_loop(tiny_model(), PIANO, codes)
    assert loop.codes.shape == codes.shape
    assert loop.audio.shape == (1, 1, frames * HOP)
    changed = torch.nonzero((loop.codes != codes).any(1)[0])[:, 0]
    assert len(changed) > 0
    reach = max(2, frames // 4)  # a seam is never wider than a quarter of the piece
    from_seam = torch.minimum(changed, frames - 1 - changed)
    assert int(from_seam.max()) < reach


def test_the_end_goes_on_into_the_beginning() -> None:
    """Rotated by half, the loop decodes to the same sound, so its cut cannot be detected."""
    model, codes = tiny_model(), codes_of(100)
    audio = decode_around(model, codes)
    turned = decode_around(model, codes.roll(50, -1))
    assert torch.allclose(turned.roll(-50 * HOP, -1), audio, atol=1e-4)


def test_decoding_without_the_other_end_would_be_heard() -> None:
    model, codes = tiny_model(), codes_of(100)
    plain = model.codec.decode(codes)
    around = decode_around(model, codes)
    edge = (plain - around)[..., :HOP].abs().max()
    middle = (plain - around)[..., 50 * HOP : 51 * HOP].abs().max()
    assert float(middle) < 1e-3 < float(edge)


@pytest.mark.parametrize("seed", range(3))
def test_the_seam_is_no_worse_than_the_body(seed) -> None:
    model = tiny_model()
    codes = model.generate(["piano"], FAST, seeds=[seed]).codes
    loop = close_loop(model, Direction.of("piano", seed, config=FAST), codes)
    assert loop.seamless
    assert (loop.seam_flux, loop.body_flux) == seam_flux(loop.audio[0, 0].numpy())


def test_flux_tells_a_click_from_a_loop() -> None:
    rng = np.random.default_rng(0)
    beat = rng.standard_normal(4 * SAMPLE_RATE).astype(np.float32) * 0.01
    tone = np.sin(np.arange(4 * SAMPLE_RATE) * 2 * np.pi * 100.0 / SAMPLE_RATE).astype(np.float32)
    at_seam, in_body = seam_flux(tone + beat)
    assert at_seam <= in_body * 1.1
    cut = (tone + beat)[: -SAMPLE_RATE // 160]  # a quarter of a wave is missing
    at_seam, in_body = seam_flux(cut)
    assert at_seam > 1.5 * in_body


def test_more_passes_are_made_with_wider_seams_and_other_seeds() -> None:
    model, codes = tiny_model(), codes_of(60)
    passes = list(loops(model, PIANO, codes))
    assert len(passes) == 4
    assert len({tuple(p.codes.flatten().tolist()) for p in passes}) == 4
    assert [p.settings["edit"]["passes"] for p in passes] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("passes", "kept"),
    [
        ([(3.0, 1.0), (2.0, 1.5), (1.9, 1.0), (9.0, 1.0)], 1),  # by how far the seam stands out
        ([(3.0, 1.0), (9.0, 1.0), (8.0, 1.0), (2.5, 1.0)], 3),
        ([(2.0, 1.0), (1.0, 1.0), (0.5, 1.0)], 1),  # nothing stands out, so no more are made
    ],
)
def test_the_best_pass_is_kept(
    monkeypatch: pytest.MonkeyPatch, passes: list[tuple[float, float]], kept: int
) -> None:
    """Of passes with the above flux at the seam and in the body."""
    made = [Loop(codes_of(60, n), torch.zeros(1), *flux, {}) for n, flux in enumerate(passes)]
    monkeypatch.setattr(looping, "loops", lambda *arguments, **more: iter(made))
    assert close_loop(tiny_model(), PIANO, codes_of(60)) is made[kept]


def test_a_seam_lies_between_the_last_prompt_and_the_first() -> None:
    model, codes = tiny_model(), codes_of(120)
    two = Direction((Cue(0, "piano"), Cue(1.2, "drums")), 4, config=FAST)
    loop = close_loop(model, two, codes)
    assert loop.settings["edit"]["cues"] == [[0, "piano"], [1.2, "drums"]]
    assert not torch.equal(loop.codes, close_loop(model, PIANO, codes).codes)


def test_a_prompt_after_the_cut_is_recorded_and_not_used() -> None:
    """It was an error after all takes had been made."""
    model, codes = tiny_model(), codes_of(120)
    late = Direction((Cue(0, "piano"), Cue(1.2, "drums"), Cue(2.4, "hum")), 4, config=FAST)
    loop = close_loop(model, late, codes)
    assert loop.settings["edit"]["cues"] == [[0, "piano"], [1.2, "drums"], [2.4, "hum"]]
    before = Direction(late.cues[:2], 4, config=FAST)
    assert torch.equal(loop.codes, close_loop(model, before, codes).codes)


def test_what_cannot_be_a_loop_is_refused() -> None:
    with pytest.raises(UsageError, match="too short"):
        close_loop(tiny_model(), PIANO, codes_of(SHORTEST - 1))
    causal = Direction.of("piano", 4, config=DecodingConfig(top_k=5))
    with pytest.raises(UsageError, match="is autoregressive"):
        close_loop(tiny_model("autoregressive"), causal, codes_of(50))


def test_repeated_bars_are_cut_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece without a beat that can be told still has the bars that it was made of."""
    model, asked = tiny_model(), []

    def extend(model: object, direction: Direction, frames: int) -> Piece:
        return Piece(codes_of(frames), {}, bar=24.0)

    def cut_on_bars(*given: object) -> Cut | None:
        asked.append(given[1:])
        return Cut(96, 16, 125.0, 0.01) if len(asked) == 1 else None

    monkeypatch.setattr(looping, "extend", extend)
    monkeypatch.setattr(looping, "cut_on_bars", cut_on_bars)
    take = looping.best_take(model, PIANO, 100)
    assert take.codes.shape[-1] == 96
    assert take.beat is not None
    assert take.beat.beats == 16
    assert take.settles
    assert asked == [(2.0, 50.0, 24.0)]
    assert looping.best_take(model, PIANO, 100, tries=1).beat is None  # they break: as without


@pytest.mark.parametrize("own", [0.0, 4.0])
def test_bars_of_loops_are_repeated_strictly_unless_it_is_said_how(own: float) -> None:
    defaults = DecodingConfig(bar_repeat=own)
    for config in (None, DecodingConfig(top_p=0.5)):
        got = steady(config, defaults)
        assert (got.bar_repeat, got.half_bar_repeat) == ((8.0, 4.0) if own else (None, None))
        assert got.top_p == (config and config.top_p)
    for said in (DecodingConfig(bar_repeat=0.0), DecodingConfig(half_bar_repeat=1.0)):
        assert steady(said, defaults) == said


def takes_of(monkeypatch: pytest.MonkeyPatch, *heard: Cut | float | None) -> list[Direction]:
    """Give takes a beat, a pulse of this strength, or no hits, in turn; returns the directions tried."""
    asked: list[Direction] = []

    def extend(model: object, direction: Direction, frames: int) -> Piece:
        asked.append(direction)
        return Piece(codes_of(frames, seed=len(asked)), {})

    def now() -> Cut | float | None:
        return heard[len(asked) - 1]

    monkeypatch.setattr(looping, "extend", extend)
    monkeypatch.setattr(
        looping, "cut_on_beat", lambda *a: one if isinstance(one := now(), Cut) else None
    )
    monkeypatch.setattr(
        looping, "pulsing", lambda *a: None if isinstance(one := now(), Cut) else one
    )
    monkeypatch.setattr(looping, "cut_on_pulse", lambda *a: None)
    return asked


def test_a_loop_is_a_whole_number_of_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seam was smooth but in the wrong place: it missed the beat by up to 41 % of one."""
    model = tiny_model()
    takes_of(monkeypatch, Cut(101, 9, 133.66, 0.018))
    take = looping.best_take(model, PIANO, 100)
    assert torch.equal(take.codes, codes_of(looping.frames_to_hear(model, 100), seed=1)[..., :101])
    loop = close_loop(model, PIANO, take.codes, take.beat)
    assert loop.settings["edit"]["beat"] == {"bpm": 133.66, "beats": 9, "off": 0.018}
    takes_of(monkeypatch, *[None] * 3)
    for pulse, length in ((None, 100), (104, 104), (3, looping.SHORTEST)):
        monkeypatch.setattr(looping, "cut_on_pulse", lambda *asked, found=pulse: found)
        take = looping.best_take(model, PIANO, 100, tries=1)
        assert (take.codes.shape[-1], take.beat) == (length, None)
        takes_of(monkeypatch, None)


@pytest.mark.parametrize(
    ("heard", "tries", "tried", "taken"),
    [
        ([0.1, Cut(101, 9, 133.66, 0.018)], None, 2, 1),  # a clear beat ends the search
        ([0.1, 0.3], None, 2, 1),  # so does a clear pulse
        ([0.1, 0.2, 0.15], None, 3, 1),  # otherwise the clearest of three
        ([0.1, None, 0.05], None, 3, 0),  # one without hits is no better
        ([None], None, 1, 0),  # rain is not tried again
        ([0.1], 1, 1, 0),
        ([0.1, 0.2, 0.1, 0.24, 0.1], 5, 5, 3),
    ],
)
def test_another_seed_is_tried_where_there_are_hits_and_no_sure_beat(
    monkeypatch: pytest.MonkeyPatch,
    heard: list[Cut | float | None],
    tries: int | None,
    tried: int,
    taken: int,
) -> None:
    asked = takes_of(monkeypatch, *heard)
    take = looping.best_take(tiny_model(), PIANO, 100, tries)
    assert (take.tried, len(asked)) == (tried, tried)
    assert take.direction is asked[taken]
    assert len({one.seed for one in asked}) == tried
    assert asked[0].seed == PIANO.seed
    # The chosen seed makes it directly.
    takes_of(monkeypatch, heard[taken])
    alone = looping.best_take(tiny_model(), take.direction, 100, tries=1)
    assert (alone.direction, alone.tried) == (take.direction, 1)
