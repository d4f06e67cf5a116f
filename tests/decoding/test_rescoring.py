"""Mixing in the rescorer's probabilities, and its effect on which spans are masked again."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from magnet_cli.decoding import iterative
from magnet_cli.decoding.contracts import Decoding, Rescore
from magnet_cli.decoding.iterative import rescoring
from magnet_cli.decoding.sampling import make_generators
from magnet_cli.errors import MagnetError
from magnet_cli.settings import DECODING_DEFAULTS, DecodingConfig

CARD, FRAMES, STEPS = 8, 12, (3, 2)
CONFIG = dataclasses.replace(DECODING_DEFAULTS, decoding_steps=STEPS, span_len=3)


class Opinion:
    """A rescorer with the same probabilities for each stream, which records its calls."""

    def __init__(self, probs: Tensor) -> None:
        self.probs = probs
        self.shown: list[tuple[int, Tensor]] = []

    def __call__(self, codes: Tensor, streams: Sequence[int]) -> Tensor:
        (stream,) = streams
        self.shown.append((stream, codes.clone()))
        return self.probs[:, None]


def masks(rescore: Rescore | None, config: DecodingConfig = CONFIG) -> list[Tensor]:
    """The masks [1, T] of each step, for logits that are more certain of later frames."""
    asked: list[Tensor] = []
    scale = torch.linspace(0.5, 4, FRAMES)[:, None]
    fixed = scale * torch.randn(FRAMES, CARD, generator=torch.Generator().manual_seed(0))

    def logits(
        codes: Tensor, stage: int, positions: Tensor, with_null: bool, end: int
    ) -> tuple[Tensor, None]:
        asked.append(positions[:, 0].clone())
        return fixed[positions[0, 0]], None

    nothing = torch.zeros(1, len(STEPS), FRAMES, dtype=torch.int64)
    iterative.decode(
        logits,
        nothing,
        nothing.bool(),
        Decoding(config, CARD, make_generators([5]), rescore),
    )
    return asked


def test_mix_is_the_weighted_sum_on_the_chosen_streams() -> None:
    own, other = torch.tensor([[[0.5, 0.1, 0.9]]]), torch.tensor([[0.1, 0.7, 0.0]])
    hook = rescoring(Opinion(other), 0.3, (0, 2))
    assert hook is not None
    codes = torch.zeros(1, 3, 3, dtype=torch.int64)
    want = torch.tensor([[[0.22, 0.52, 0.27]]])
    assert torch.allclose(hook(codes, [0], own), want)
    assert torch.allclose(hook(codes, [2], own), want)
    assert hook(codes, [1], own) is own


def test_of_a_group_only_the_chosen_streams_are_mixed() -> None:
    def opinion(codes: Tensor, streams: Sequence[int]) -> Tensor:
        assert list(streams) == [0, 1]
        return torch.tensor([[[0.1], [0.3]]])

    hook = rescoring(opinion, 0.5, (1,))
    assert hook is not None
    mixed = hook(torch.zeros(1, 2, 1, dtype=torch.int64), [0, 1], torch.tensor([[[0.5], [0.5]]]))
    assert torch.allclose(mixed, torch.tensor([[[0.5], [0.4]]]))


def test_weight_1_is_no_rescorer() -> None:
    assert rescoring(Opinion(torch.zeros(1, 1)), 1, (0,)) is None


@pytest.mark.parametrize("arrangement", ["nonoverlap", "stride1"])
@pytest.mark.parametrize("scoring", ["max", "prod"])
def test_spans_that_the_rescorer_doubts_are_masked_again(arrangement: str, scoring: str) -> None:
    config = dataclasses.replace(CONFIG, span_arrangement=arrangement, span_scoring=scoring)
    doubted = torch.arange(FRAMES)[None] >= FRAMES - 3  # the frames that the model is surest of
    opinion = torch.where(doubted, 1e-6, 0.9)
    plain = masks(None, config)[1]
    rescored = masks(rescoring(Opinion(opinion), 0.0, (0, 1)), config)[1]
    assert not bool(plain[doubted].all())
    assert bool(rescored[doubted].all())


def test_rescorer_sees_complete_streams_and_is_not_asked_at_their_last_step() -> None:
    opinion = Opinion(torch.full((1, FRAMES), 0.5))
    masks(rescoring(opinion, 0.5, (0, 1)))
    assert [stage for stage, _ in opinion.shown] == [0, 0, 1]
    for stage, codes in opinion.shown:
        assert bool((codes[:, : stage + 1] < CARD).all())
        assert bool((codes[:, stage + 1 :] == CARD).all())


def test_codes_that_the_rescorer_holds_impossible_keep_finite_scores() -> None:
    """An infinite score would outweigh the penalty that keeps decided frames out of stride1's spans."""
    hook = rescoring(Opinion(torch.zeros(1, FRAMES)), 0.0, (0,))
    assert hook is not None
    mixed = hook(torch.zeros(1, 2, FRAMES, dtype=torch.int64), [0], torch.ones(1, 1, FRAMES))
    scores = -mixed.log()
    assert bool(torch.isfinite(scores).all())
    assert float(scores.max()) * 30 < -iterative.DECIDED


def test_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(MagnetError, match="NaN or infinite"):
        masks(rescoring(Opinion(torch.full((1, FRAMES), torch.nan)), 0.5, (0,)))
