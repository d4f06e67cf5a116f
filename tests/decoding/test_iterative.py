"""The masked loop with fixed logits: its calls, what it keeps, what it masks again."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from magnet_cli.decoding import iterative
from magnet_cli.decoding.contracts import Decoding, StepEvent
from magnet_cli.decoding.sampling import make_generators
from magnet_cli.settings import DECODING_DEFAULTS, DecodingConfig

CARD = 8
STEPS = (4, 3, 2)
CONFIG = dataclasses.replace(DECODING_DEFAULTS, decoding_steps=STEPS, span_len=3)


class FixedLogits:
    """A model with fixed logits that records its calls."""

    def __init__(self, batch: int, frames: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.cond = 2 * torch.randn(batch, len(STEPS), frames, CARD, generator=generator)
        self.null = 2 * torch.randn(batch, len(STEPS), frames, CARD, generator=generator)
        self.calls: list[tuple[int, Tensor, Tensor, bool]] = []

    def __call__(
        self, codes: Tensor, stage: int, positions: Tensor, with_null: bool, end: int
    ) -> tuple[Tensor, Tensor | None]:
        here = positions[:, 0]
        self.calls.append((stage, codes.clone(), here.clone(), with_null))
        null = self.null[:, stage][here] if with_null else None
        return self.cond[:, stage][here], null


def nothing_known(batch: int, frames: int) -> tuple[Tensor, Tensor]:
    shape = (batch, len(STEPS), frames)
    return torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.bool)


def run(
    model: FixedLogits, codes: Tensor, mask: Tensor, config: DecodingConfig, **more: object
) -> Tensor:
    decoding = Decoding(config, CARD, make_generators(range(len(codes))), **more)  # type: ignore[arg-type]
    return iterative.decode(model, codes, mask, decoding)


@settings(max_examples=60, deadline=None)
@given(
    frames=st.integers(1, 25),
    batch=st.integers(1, 3),
    arrangement=st.sampled_from(["nonoverlap", "stride1"]),
    scoring=st.sampled_from(["max", "prod"]),
    span_len=st.integers(1, 5),
    density=st.floats(0, 1),
    score_noise=st.sampled_from([0.0, 3.0]),
    seed=st.integers(0, 2**16),
)
def test_known_codes_stay_and_everything_is_decided(
    frames: int,
    batch: int,
    arrangement: str,
    scoring: str,
    span_len: int,
    density: float,
    score_noise: float,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, len(STEPS), frames)
    codes = torch.randint(0, CARD, shape, generator=generator)
    mask = torch.rand(shape, generator=generator) < density
    config = dataclasses.replace(
        CONFIG,
        span_arrangement=arrangement,
        span_scoring=scoring,
        span_len=span_len,
        score_noise=score_noise,
    )
    model = FixedLogits(batch, frames, seed)
    done = run(model, codes, mask, config)
    assert torch.equal(done[mask], codes[mask])
    assert int(done.min()) >= 0
    assert int(done.max()) < CARD
    for stage, seen, _, _ in model.calls:
        # Known codes are visible from the first step on, in every stream; later streams are masked.
        assert torch.equal(seen[mask], codes[mask])
        later = ~mask[:, stage + 1 :]
        assert bool((seen[:, stage + 1 :][later] == CARD).all())


def test_decided_spans_are_never_masked_again_under_nonoverlap() -> None:
    model = FixedLogits(2, 20)
    run(model, *nothing_known(2, 20), CONFIG)
    for before, after in zip(model.calls, model.calls[1:], strict=False):
        if before[0] == after[0]:
            assert bool((after[2] <= before[2]).all())
            kept = ~after[2] & before[2]
            assert bool((after[1][:, after[0]][kept] < CARD).all())


def test_the_least_certain_spans_are_masked_again() -> None:
    model = FixedLogits(1, 12)
    config = dataclasses.replace(CONFIG, use_sampling=False, max_cfg_coef=1.0, temperature=1.0)
    config = dataclasses.replace(config, anneal_temperature=False)
    run(model, *nothing_known(1, 12), config)
    first, second = model.calls[0], model.calls[1]
    assert bool(first[2].all())
    best = model.cond[0, 0].softmax(-1).amax(-1).view(4, 3).amax(-1)  # per span
    remasked = second[2][0].view(4, 3).any(-1)
    assert 0 < int(remasked.sum()) < 4
    assert float(best[remasked].max()) < float(best[~remasked].min())


@pytest.mark.parametrize("score_noise", [0.0, 2.0])
@pytest.mark.parametrize("arrangement", ["nonoverlap", "stride1"])
def test_an_item_does_not_depend_on_its_batch_mates(arrangement: str, score_noise: float) -> None:
    """One stream of another item is entirely known, which must not shift anyone's noise."""
    config = dataclasses.replace(CONFIG, span_arrangement=arrangement, score_noise=score_noise)
    model = FixedLogits(3, 17)
    codes, mask = nothing_known(3, 17)
    mask[1, 1] = True
    mask[2, :, :5] = True
    together = run(model, codes, mask, config)
    for item in range(3):
        alone = FixedLogits(1, 17)
        alone.cond, alone.null = model.cond[item : item + 1], model.null[item : item + 1]
        done = iterative.decode(
            alone,
            codes[item : item + 1],
            mask[item : item + 1],
            Decoding(config, CARD, make_generators([item])),
        )
        assert torch.equal(done[0], together[item])


def test_guidance_is_skipped_only_where_it_changes_nothing() -> None:
    model = FixedLogits(1, 9)
    run(model, *nothing_known(1, 9), CONFIG)
    asked = [with_null for stage, _, _, with_null in model.calls if stage == 0]
    assert asked == [True, True, True, False]  # λ ends at 1


def test_events_tell_every_step() -> None:
    events: list[StepEvent] = []
    run(FixedLogits(2, 10), *nothing_known(2, 10), CONFIG, on_step=events.append)
    assert [(e.stage, e.step) for e in events] == [
        (k, s + 1) for k, steps in enumerate(STEPS) for s in range(steps)
    ]
    first, last = events[0], events[STEPS[0] - 1]
    assert (first.mask_rate, first.cfg_coef) == (1.0, 10.0)
    assert first.temperature == pytest.approx(3.0 * 3 / 4)
    assert last.temperature == pytest.approx(0.01)
    assert last.remaining == 0
    assert 0 < first.remaining <= 20


def test_rescoring_replaces_the_probabilities_that_spans_are_scored_by() -> None:
    def prefer_the_end(codes: Tensor, stage: int, probs: Tensor) -> Tensor:
        assert bool((codes[:, stage] < CARD).all())
        return torch.linspace(0.1, 0.9, probs.shape[-1]).expand_as(probs)

    model = FixedLogits(1, 12)
    run(model, *nothing_known(1, 12), CONFIG, rescore=prefer_the_end)
    masked = model.calls[1][2][0]
    count = int(masked.sum())
    assert 0 < count < 12
    assert bool(masked[:count].all()), "the least probable spans are now those at the start"


def masked_again(score_noise: float, seed: int = 0) -> Tensor:
    """bool [frames]: what the second step of the first stream predicts."""
    model = FixedLogits(1, 60)
    config = dataclasses.replace(CONFIG, use_sampling=False, score_noise=score_noise)
    codes, mask = nothing_known(1, 60)
    iterative.decode(model, codes, mask, Decoding(config, CARD, make_generators([seed])))
    return model.calls[1][2][0]


def test_score_noise_leaves_the_choice_of_spans_to_chance_and_their_number_as_it_was() -> None:
    sure = masked_again(0.0)
    assert torch.equal(masked_again(0.0, seed=1), sure)  # greedy: nothing is random
    chosen = [masked_again(4.0, seed) for seed in range(4)]
    assert len({tuple(mask.tolist()) for mask in [sure, *chosen]}) == 5
    assert {int(mask.sum()) for mask in chosen} == {int(sure.sum())}
    assert torch.equal(masked_again(4.0, seed=2), chosen[2])


def test_inputs_are_not_changed() -> None:
    codes, mask = nothing_known(1, 9)
    before = codes.clone(), mask.clone()
    run(FixedLogits(1, 9), codes, mask, CONFIG)
    assert torch.equal(codes, before[0])
    assert torch.equal(mask, before[1])
