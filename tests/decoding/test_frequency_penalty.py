"""Autoregressive decoding: the penalty on frequent codes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from magnet_cli.decoding import autoregressive
from magnet_cli.decoding.autoregressive import PENALTY_FREE, PENALTY_WINDOW, too_often
from magnet_cli.decoding.contracts import Decoding
from magnet_cli.decoding.sampling import make_generators
from magnet_cli.models.lm import DelayPattern
from magnet_cli.settings import AUTOREGRESSIVE_DEFAULTS, DecodingConfig

CARD = 4
GREEDY = dataclasses.replace(AUTOREGRESSIVE_DEFAULTS, use_sampling=False, cfg_coef=1.0)


class Stubborn:
    """A model for which code 0 is always the likeliest, and each further code one nat less."""

    def reset(self, steps: int, with_null: bool, short_context: int = 0) -> None:
        """There is no state."""

    def step(self, tokens: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        return -torch.arange(CARD).float().expand(*tokens.shape[:2], CARD), None, None


def written(
    config: DecodingConfig, frames: int = 100, known: int = 0, seeds: tuple[int, ...] = (0,)
) -> Tensor:
    """Codes [B, 2, frames]; the first `known` frames are code 0."""
    mask = torch.zeros(len(seeds), 2, frames, dtype=torch.bool)
    mask[..., :known] = True
    return autoregressive.decode(
        Stubborn(),
        torch.zeros(len(seeds), 2, frames, dtype=torch.int64),
        mask,
        Decoding(config, CARD, make_generators(seeds)),
        pattern=DelayPattern((0, 1)),
    )


@settings(deadline=None)
@given(
    st.lists(st.integers(0, CARD + 1), min_size=0, max_size=60),
    st.lists(st.integers(0, CARD + 1), min_size=60, max_size=60),
)
def test_it_counts_codes_beyond_what_is_free(one: list[int], other: list[int]) -> None:
    before = torch.tensor([one, other[: len(one)]], dtype=torch.int64)[None]
    for stream, ids in enumerate((one, other[: len(one)])):
        counted = [max(0, ids.count(code) - PENALTY_FREE) for code in range(CARD)]
        assert too_often(before, CARD)[0, stream].tolist() == counted


def test_without_it_a_held_code_is_held_for_ever() -> None:
    assert not written(GREEDY).any()


@pytest.mark.parametrize("known", [0, 10])
def test_a_held_code_gives_way_and_may_come_back(known: int) -> None:
    """Known codes count, too: a continuation does not start counting at zero."""
    config = dataclasses.replace(GREEDY, frequency_penalty=0.3)
    codes = written(config, known=known)
    # 0.3 for each occurrence above 30: the 35th is the first to cost more than the nat between 0 and 1.
    first = PENALTY_FREE + 4
    for stream in codes[0]:
        assert not stream[:first].any()
        assert stream[first] == 1
        for end in range(PENALTY_WINDOW, len(stream)):
            counts = stream[end - PENALTY_WINDOW : end].bincount(minlength=CARD)
            assert counts[:2].sum() == PENALTY_WINDOW  # the next best, never a third code
            assert first - 1 <= counts[0] <= first  # no more than allowed, and soon again


def test_a_clip_is_the_same_alone_and_in_a_batch() -> None:
    config = dataclasses.replace(AUTOREGRESSIVE_DEFAULTS, cfg_coef=1.0, frequency_penalty=0.5)
    batch = written(config, seeds=(1, 2, 3))
    for item, seed in enumerate((1, 2, 3)):
        assert torch.equal(batch[item : item + 1], written(config, seeds=(seed,)))
    assert not torch.equal(batch[0], batch[1])
    assert not torch.equal(
        batch, written(dataclasses.replace(config, frequency_penalty=0.0), seeds=(1, 2, 3))
    )
