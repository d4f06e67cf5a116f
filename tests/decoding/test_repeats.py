"""Repeating bars: codes that occur one or two bars away become more likely."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from magnet_cli.decoding import autoregressive, iterative
from magnet_cli.decoding.contracts import Decoding
from magnet_cli.decoding.sampling import likelier, likelier_next, make_generators
from magnet_cli.models.lm import DelayPattern
from magnet_cli.settings import AUTOREGRESSIVE_DEFAULTS, DECODING_DEFAULTS, DecodingConfig

CARD, BAR = 5, 7.0
REPEATS = {0.5: 0.75, 1.0: 1.5, 2.0: 1.5}
MASKED = dataclasses.replace(
    DECODING_DEFAULTS, decoding_steps=(12, 4), span_len=1, temperature=1.0, max_cfg_coef=1.0
)


def by_hand(codes: Tensor, asked: Tensor, bars: list[float], sections: Tensor) -> Tensor:
    """The increments of the logits of streams 0 and 1, [N, CARD], code by code."""
    rows = []
    for item, stream, frame in asked.nonzero().tolist():
        added = torch.zeros(CARD)
        for many in (-2, -1, -0.5, 0.5, 1, 2):
            place = frame + round(many * bars[item])
            if bars[item] and 0 <= place < codes.shape[-1] and sections[place] == sections[frame]:
                code = int(codes[item, stream, place])
                if code < CARD:
                    added[code] += REPEATS[abs(many)]
        rows.append(added)
    return torch.stack(rows) if rows else torch.zeros(0, CARD)


@settings(deadline=None, max_examples=50)
@given(
    st.integers(0, 2**32),
    st.lists(st.sampled_from([0.0, 2.0, 2.4, 3.0, 7.5, 40.0]), min_size=2, max_size=2),
)
def test_masked_logits_are_raised_where_a_code_is_decided_a_bar_away(
    seed: int, bars: list[float]
) -> None:
    chance = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, CARD + 1, (2, 3, 17), generator=chance)  # CARD: not decided
    asked = torch.rand(2, 2, 17, generator=chance) < 0.5
    plain = torch.randn(int(asked.sum()), CARD, generator=chance)
    for sections in (torch.zeros(17), (torch.arange(17) > 6).long()):
        raised = likelier(plain, codes, [0, 1], asked, bars, REPEATS, sections)
        torch.testing.assert_close(raised, plain + by_hand(codes, asked, bars, sections))
    raised = likelier(plain, codes, [0, 1], asked, bars, REPEATS)
    torch.testing.assert_close(raised, plain + by_hand(codes, asked, bars, torch.zeros(17)))


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32), st.integers(1, 20), st.sampled_from([0.0, 2.0, 2.4, 7.5, 12.0]))
def test_the_next_step_is_raised_by_what_lies_behind_alone(
    seed: int, steps: int, bar: float
) -> None:
    chance = torch.Generator().manual_seed(seed)
    sequence = torch.randint(0, CARD + 1, (1, 2, steps), generator=chance)
    plain = torch.randn(1, 2, CARD, generator=chance)
    wanted = plain.clone()
    for many in (-2, -1, -0.5):
        place = steps + round(many * bar)
        for stream in range(2):
            if bar and place >= 0 and int(sequence[0, stream, place]) < CARD:
                wanted[0, stream, int(sequence[0, stream, place])] += REPEATS[-many]
    torch.testing.assert_close(likelier_next(plain, sequence, [bar], REPEATS), wanted)
    # At a change of section, here with the next step, nothing lies behind.
    sections = torch.arange(steps + 1) // steps
    assert torch.equal(likelier_next(plain, sequence, [bar], REPEATS, sections), plain)


class Even:
    """A causal model with equal probabilities."""

    def reset(self, steps: int, with_null: bool, short_context: int = 0) -> None:
        """There is no state."""

    def step(self, tokens: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        return torch.zeros(*tokens.shape[:2], CARD), None, None


def even(
    codes: Tensor, stage: int, positions: Tensor, with_null: bool, end: int
) -> tuple[Tensor, None]:
    """A masked model with equal probabilities."""
    return torch.zeros(int(positions.sum()), CARD), None


def made(
    config: DecodingConfig,
    bars: tuple[float, ...],
    seeds: tuple[int, ...] = (1, 2),
    frames: int = 64,
) -> Tensor:
    known = torch.zeros(len(seeds), 2, frames, dtype=torch.int64)
    decoding = Decoding(config, CARD, make_generators(seeds), bars=bars)
    if config.cfg_coef == 1.0:
        pattern = DelayPattern((0, 1))
        return autoregressive.decode(Even(), known, known.bool(), decoding, pattern=pattern)
    return iterative.decode(even, known, known.bool(), decoding)


WAYS = {
    "masked": MASKED,
    "spread": dataclasses.replace(MASKED, span_order="spread"),
    "step by step": dataclasses.replace(AUTOREGRESSIVE_DEFAULTS, cfg_coef=1.0),
}


@pytest.mark.parametrize(("setting", "lag"), [("bar_repeat", 6), ("half_bar_repeat", 3)])
@pytest.mark.parametrize("way", WAYS)
def test_bars_are_repeated_where_there_is_a_tempo(way: str, setting: str, lag: int) -> None:
    """With random logits, one code in five equals that of the bar before by chance."""
    config = dataclasses.replace(WAYS[way], **{setting: 4.0})
    held, free = made(config, (6.0, 0.0))
    same = [float((each[:, lag:] == each[:, :-lag]).float().mean()) for each in (held, free)]
    assert same[0] > 0.35
    assert same[1] < 0.25


@pytest.mark.parametrize("way", WAYS)
def test_nothing_changes_without_a_tempo_or_without_nats(way: str) -> None:
    plain = made(WAYS[way], ())
    assert torch.equal(plain, made(dataclasses.replace(WAYS[way], bar_repeat=4.0), ()))
    assert torch.equal(plain, made(dataclasses.replace(WAYS[way], bar_repeat=4.0), (0.0, 0.0)))
    assert torch.equal(plain, made(WAYS[way], (BAR, BAR)))


@pytest.mark.parametrize("way", WAYS)
def test_a_clip_is_the_same_alone_and_beside_one_of_another_tempo(way: str) -> None:
    config = dataclasses.replace(WAYS[way], bar_repeat=3.0)
    both = made(config, (BAR, 5.0))
    assert torch.equal(both[:1], made(config, (BAR,), (1,)))
    assert torch.equal(both[1:], made(config, (5.0,), (2,)))
