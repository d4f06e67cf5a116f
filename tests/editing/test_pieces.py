"""The engine: known codes never change, windows join, prompts by time are mixed."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from magnet_cli.editing.pieces import Direction, Filler, extend, growing, inpaint
from magnet_cli.editing.variation import kept_codes, vary
from magnet_cli.editing.windows import Cue, Region
from magnet_cli.errors import UsageError
from magnet_cli.settings import DecodingConfig
from tests.editing.tiny import FAST, SEGMENT, codes_of, tiny_model

PIANO = Direction.of("piano", seed=4, config=FAST)
AR = DecodingConfig(top_k=5)


def test_a_piece_of_one_window_is_what_generate_makes() -> None:
    model = tiny_model()
    piece = extend(model, PIANO, SEGMENT)
    plain = model.generate(["piano"], FAST, seeds=[4])
    assert torch.equal(piece.codes, plain.codes)


def test_windows_join_and_the_beginning_stays() -> None:
    model, beginning = tiny_model(), codes_of(70)
    piece = extend(model, PIANO, 173, beginning)
    assert piece.codes.shape == (1, 4, 173)
    assert torch.equal(piece.codes[..., :70], beginning)
    # Each window is the model's output for the codes before it, with the window's own seed.
    first = model.generate(["piano"], FAST, seeds=[4], prompt_codes=piece.codes[..., 55:70])
    assert torch.equal(piece.codes[..., 55:105], first.codes)
    assert piece.settings["frames"] == 173
    assert piece.settings["known_codes"] == 4 * 70
    assert piece.settings["edit"]["kind"] == "extend"


def test_what_is_finished_is_yielded_and_never_changes() -> None:
    pieces = list(growing(tiny_model(), PIANO, 150))
    lengths = [piece.frames for piece in pieces]
    assert lengths == [50, 85, 120, 150]
    for piece in pieces:
        assert torch.equal(piece.codes, pieces[-1].codes[..., : piece.frames])
        assert piece.settings["frames"] == piece.frames


def test_the_same_seed_makes_the_same_piece_and_another_does_not() -> None:
    model = tiny_model()
    piece = extend(model, PIANO, 120)
    assert torch.equal(piece.codes, extend(model, PIANO, 120).codes)
    other = dataclasses.replace(PIANO, seed=5)
    assert not torch.equal(piece.codes, extend(model, other, 120).codes)
    # Windows do not share their noise.
    silent = dataclasses.replace(PIANO, overlap=0.02)
    codes = extend(model, silent, 148).codes
    assert not torch.equal(codes[..., 1:50], codes[..., 50:99])


def test_an_autoregressive_model_extends_too_and_keeps_its_beginning() -> None:
    model, beginning = tiny_model("autoregressive"), codes_of(20)
    direction = Direction.of("piano", seed=4, config=AR)
    piece = extend(model, direction, 80, beginning)
    assert torch.equal(piece.codes[..., :20], beginning)
    assert int(piece.codes.max()) < 16


def test_an_autoregressive_model_fills_no_masks() -> None:
    model, direction = tiny_model("autoregressive"), Direction.of("piano", seed=4, config=AR)
    with pytest.raises(UsageError, match="is autoregressive"):
        inpaint(model, direction, codes_of(20), [Region(3, 6)])
    with pytest.raises(UsageError, match="is autoregressive"):
        vary(model, direction, codes_of(20), 0.5)


def test_trimming_to_spans_is_not_for_pieces() -> None:
    trimmed = dataclasses.replace(FAST, full_length=False)
    piece = extend(tiny_model(), dataclasses.replace(PIANO, config=trimmed), 71)
    assert piece.codes.shape[-1] == 71


def test_a_piece_must_be_longer_than_its_beginning() -> None:
    with pytest.raises(UsageError, match="Use a longer duration"):
        extend(tiny_model(), PIANO, 70, codes_of(70))
    with pytest.raises(UsageError, match="must be"):
        extend(tiny_model(), PIANO, 70, codes_of(70)[0])


def test_progress_is_told() -> None:
    seen: list[tuple[int, int]] = []
    steps: list[str] = []
    extend(
        tiny_model(),
        PIANO,
        100,
        on_step=lambda event: steps.append(event.part),
        on_window=lambda i, n: seen.append((i, n)),
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert steps == ["masked"] * 9 * 3


@given(
    st.lists(st.tuples(st.integers(0, 129), st.integers(1, 60)), min_size=1, max_size=4),
    st.sampled_from(["masked", "hybrid"]),
)
@settings(deadline=None, max_examples=12)
def test_only_the_regions_change(spans, modeling) -> None:
    model, codes = tiny_model(modeling), codes_of(130)
    regions = [Region(a, min(a + n, 130)) for a, n in spans]
    piece = inpaint(model, PIANO, codes, regions)
    inside = torch.zeros(130, dtype=torch.bool)
    for start, stop in regions:
        inside[start:stop] = True
    assert torch.equal(piece.codes[..., ~inside], codes[..., ~inside])
    assert int(piece.codes.max()) < 16  # no mask is left over
    assert torch.equal(codes, codes_of(130))  # the caller's codes are not changed


def test_a_region_is_filled_with_both_sides_known() -> None:
    model, codes = tiny_model(), codes_of(50)
    piece = inpaint(model, PIANO, codes, [Region(20, 30)])
    mask = torch.ones(1, 4, 50, dtype=torch.bool)
    mask[..., 20:30] = False
    plain = model.generate(["piano"], FAST, seeds=[4], known_codes=codes, known_mask=mask)
    assert torch.equal(piece.codes, plain.codes)
    assert not torch.equal(piece.codes, codes)


@pytest.mark.parametrize("regions", [[], [Region(-1, 3)], [Region(45, 51)]])
def test_regions_outside_the_piece_are_refused(regions) -> None:
    with pytest.raises(UsageError, match="not inside"):
        inpaint(tiny_model(), PIANO, codes_of(50), regions)


@pytest.mark.parametrize(
    "region", [Region(5, 5), Region(8, 5), (8, 5), (5,), (5, 8, 9), (5.0, 8.0), 5]
)
def test_what_is_no_region_is_refused(region) -> None:
    """An empty one was filled with nothing, and its piece was reported as inpainted."""
    with pytest.raises(UsageError, match="is not a region of frames"):
        inpaint(tiny_model(), PIANO, codes_of(50), [Region(20, 30), region])


def test_a_pair_of_numbers_is_a_region() -> None:
    model, codes = tiny_model(), codes_of(50)
    pair = inpaint(model, PIANO, codes, [(20, 30)])
    region = inpaint(model, PIANO, codes, [Region(20, 30)])
    assert torch.equal(pair.codes, region.codes)
    assert pair.settings == region.settings


def test_strength_0_keeps_all_and_1_ignores_the_sound() -> None:
    model, codes = tiny_model(), codes_of(120)
    assert torch.equal(vary(model, PIANO, codes, 0.0).codes, codes)
    varied = vary(model, PIANO, codes, 1.0).codes
    assert torch.equal(varied, extend(model, PIANO, 120).codes)
    assert torch.equal(varied, vary(model, PIANO, codes_of(120, seed=1), 1.0).codes)


def test_kept_streams_stay_and_the_others_are_decoded_anew() -> None:
    codes = codes_of(120)
    varied = vary(tiny_model(), PIANO, codes, 1.0, keep_streams=2).codes
    assert torch.equal(varied[:, :2], codes[:, :2])
    assert not torch.equal(varied[:, 2:], codes[:, 2:])


@given(
    st.integers(1, 200), st.integers(1, 7), st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**40)
)
@settings(deadline=None, max_examples=60)
def test_kept_codes_are_nested(frames, span_len, one, other, seed) -> None:
    low, high = sorted((one, other))
    less = kept_codes(4, frames, span_len, high, torch.Generator().manual_seed(seed))
    more = kept_codes(4, frames, span_len, low, torch.Generator().manual_seed(seed))
    assert less.shape == (4, frames)
    assert bool((less <= more).all())  # a higher strength keeps a subset of what a lower one keeps
    assert bool((more[1:] <= more[:-1]).all())  # and a finer stream a subset of a coarser one's
    spans = more[0][::span_len]
    assert abs(int(spans.sum()) - (1 - low) * len(spans)) <= 1
    grid = more[:, ::span_len].repeat_interleave(span_len, -1)[:, :frames]
    assert torch.equal(grid, more)


def test_half_a_variation_keeps_what_it_says() -> None:
    model, codes = tiny_model(), codes_of(60)
    piece = vary(model, PIANO, codes, 0.5)
    share = (piece.codes == codes)[0].float().mean(-1)
    assert 0.5 <= float(share[0]) < 0.8
    assert float(share[3]) < 0.4
    assert piece.settings["edit"]["strength"] == 0.5


@pytest.mark.parametrize(("strength", "keep"), [(-0.1, 0), (1.1, 0), (float("nan"), 0), (0.5, 4)])
def test_a_variation_that_means_nothing_is_refused(strength, keep) -> None:
    with pytest.raises(UsageError):
        vary(tiny_model(), PIANO, codes_of(50), strength, keep)


def test_direction_is_checked_before_anything_is_decoded() -> None:
    model = tiny_model()
    with pytest.raises(UsageError, match="overlap"):
        Filler(model, dataclasses.replace(PIANO, overlap=1.0), 100)
    with pytest.raises(UsageError, match="begins at 2 s"):
        Filler(model, Direction((Cue(0, "a"), Cue(2.0, "b")), 1), 100)
    with pytest.raises(UsageError, match="There are 2 numbers of steps"):
        Filler(model, Direction.of("a", 1, config=DecodingConfig(decoding_steps=(1, 2))), 100)
