"""The spread order: every frame once, as many as scheduled, evenly over time."""

from __future__ import annotations

import dataclasses
import itertools
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from magnet_cli.decoding import iterative
from magnet_cli.decoding.contracts import Decoding, OnStep, StepEvent
from magnet_cli.decoding.sampling import make_generators
from magnet_cli.masking import mask_rates, masked_counts, spread_ranks
from magnet_cli.settings import DECODING_DEFAULTS, DecodingConfig

CARD = 8
CONFIG = dataclasses.replace(DECODING_DEFAULTS, span_order="spread", decoding_steps=(7, 4))


def asked_at_each_step(
    config: DecodingConfig,
    known: Tensor,
    seeds: list[int],
    stages: tuple[tuple[int, ...], ...] = (),
    on_step: OnStep | None = None,
    block_len: int = 50,
) -> list[tuple[int, Tensor]]:
    """(stage, positions bool [B, G, T]) of every call, for constant logits."""
    calls: list[tuple[int, Tensor]] = []

    def logits(
        codes: Tensor, stage: int, at: Tensor, with_null: bool, end: int
    ) -> tuple[Tensor, None]:
        calls.append((stage, at.clone()))
        return torch.zeros(int(at.sum()), CARD), None

    codes = torch.zeros_like(known, dtype=torch.int64)
    decoding = Decoding(
        config,
        CARD,
        make_generators(seeds),
        stages=stages,
        block_len=block_len,
        on_step=on_step,
    )
    made = iterative.decode(logits, codes, known, decoding)
    assert bool((made < CARD).all())
    return calls


@given(
    frames=st.integers(1, 90),
    span_len=st.integers(1, 7),
    steps=st.integers(1, 12),
    arrangement=st.sampled_from(["nonoverlap", "stride1"]),
    seed=st.integers(0, 2**32),
    order=st.sampled_from(["spread", "blocks"]),
)
def test_every_open_frame_is_decided_once(
    frames: int, span_len: int, steps: int, arrangement: str, seed: int, order: str
) -> None:
    known = torch.rand(2, 1, frames, generator=torch.Generator().manual_seed(seed)) < 0.3
    config = dataclasses.replace(
        CONFIG,
        span_len=span_len,
        decoding_steps=(steps,),
        span_arrangement=arrangement,
        span_order=order,
    )
    calls = asked_at_each_step(config, known, [seed, seed + 1], block_len=17)
    if not calls:
        assert bool(known.all())
        return
    asked = torch.stack([at for _, at in calls]).sum(0)
    assert torch.equal(asked, (~known).long())  # once each, without known ones
    assert len(calls) <= steps


@pytest.mark.parametrize("frames", [30, 64, 250])
def test_as_many_are_masked_as_the_schedule_says(frames: int) -> None:
    config = dataclasses.replace(CONFIG, span_len=1, decoding_steps=(10,))
    known = torch.zeros(1, 1, frames, dtype=torch.bool)
    decided = [int(at.sum()) for _, at in asked_at_each_step(config, known, [3])]
    rates, whole = mask_rates(10), torch.tensor([frames])
    masked = [frames, *(int(masked_counts(rate, whole)) for rate in rates[1:]), 0]
    assert decided == [before - after for before, after in pairwise(masked)]


def test_steps_that_have_nothing_to_decide_ask_nobody() -> None:
    """One frame is open, and the schedule keeps at least one masked until the last step."""
    known = torch.ones(1, 2, 9, dtype=torch.bool)
    known[:, :, 4] = False
    events: list[StepEvent] = []
    config = dataclasses.replace(CONFIG, span_len=1)
    calls = asked_at_each_step(config, known, [1], on_step=events.append)
    assert [(stage, int(at.sum())) for stage, at in calls] == [(0, 1), (1, 1)]
    assert [event.remaining for event in events] == [1] * 6 + [0] + [1] * 3 + [0]


@pytest.mark.parametrize("order", ["spread", "blocks"])
def test_a_clip_alone_is_the_clip_in_a_batch(order: str) -> None:
    config = dataclasses.replace(CONFIG, span_len=3, span_order=order)
    known = torch.zeros(3, 2, 40, dtype=torch.bool)
    known[1, 0, :17] = True
    together = asked_at_each_step(config, known, [5, 6, 7], block_len=12)
    for item, seed in enumerate([5, 6, 7]):
        alone = asked_at_each_step(config, known[item : item + 1], [seed], block_len=12)
        # Where one has nothing to decide, nobody is asked for it alone.
        due = [(stage, at[item]) for stage, at in together if bool(at[item].any())]
        assert len(alone) == len(due)
        for (stage, one), (its_stage, its) in zip(alone, due, strict=True):
            assert stage == its_stage
            assert torch.equal(one[0], its)


@given(places=st.integers(1, 400), turn=st.floats(0, 1, exclude_max=True))
def test_ranks_are_an_order_of_the_open_places(places: int, turn: float) -> None:
    open_ = torch.rand(1, places, generator=torch.Generator().manual_seed(places)) < 0.7
    ranks = spread_ranks(open_, torch.tensor([turn]))
    assert ranks[open_].sort().values.tolist() == list(range(int(open_.sum())))
    assert bool((ranks[~open_] == -1).all())


def test_blocks_are_of_the_first_stage_and_have_a_schedule_each() -> None:
    """Each block has the schedule of a clip; later stages are spread over the whole clip."""
    known = torch.zeros(1, 2, 60, dtype=torch.bool)
    known[:, :, :27] = True
    known[0, :, 43] = True
    events: list[StepEvent] = []
    config = dataclasses.replace(
        CONFIG, span_len=1, span_order="blocks", decoding_steps=(14, 20), anneal_temperature=True
    )
    calls = asked_at_each_step(config, known, [4], on_step=events.append, block_len=20)
    first = [at[0, 0].nonzero()[:, 0].tolist() for stage, at in calls if stage == 0]
    assert len(first) == 9  # the first block has nothing to decide
    whole = dataclasses.replace(config, span_order="spread")
    for steps, frames, asked in [(5, range(27, 40), first[:5]), (4, range(40, 60), first[5:])]:
        assert sorted(itertools.chain(*asked)) == [frame for frame in frames if frame != 43]
        clip = known[:, :1, list(frames)]
        alone = asked_at_each_step(dataclasses.replace(whole, decoding_steps=(steps,)), clip, [4])
        assert [len(frames) for frames in asked] == [int(at.sum()) for _, at in alone]
    for of in ("mask_rate", "cfg_coef", "temperature"):
        seen = [getattr(event, of) for event in events[:14]]
        assert seen[:5] == seen[5:10] == sorted(seen[:5], reverse=True)
        assert seen[10:] == sorted(seen[10:], reverse=True)
    assert max(calls[-20][1][0, 0].nonzero()[:, 0].tolist()) > 40


@pytest.mark.parametrize(("steps", "blocks"), [(3, 3), (4, 4), (5, 5), (20, 5)])
def test_with_fewer_steps_than_blocks_the_blocks_are_longer(steps: int, blocks: int) -> None:
    known = torch.zeros(1, 1, 50, dtype=torch.bool)
    config = dataclasses.replace(CONFIG, span_len=1, span_order="blocks", decoding_steps=(steps,))
    events: list[StepEvent] = []
    asked_at_each_step(config, known, [4], on_step=events.append, block_len=10)
    assert len(events) == steps
    assert sum(event.mask_rate == 1 for event in events) == blocks


@pytest.mark.parametrize("span_len", [1, 4])
def test_what_comes_after_a_block_is_left_out(span_len: int) -> None:
    known = torch.zeros(3, 2, 50, dtype=torch.bool)
    config = dataclasses.replace(
        CONFIG, span_len=span_len, span_arrangement="stride1", decoding_steps=(15, 2)
    )
    ends: list[tuple[int, int]] = []

    def logits(
        codes: Tensor, stage: int, at: Tensor, with_null: bool, end: int
    ) -> tuple[Tensor, None]:
        ends.append((stage, end))
        assert not bool(at[..., end:].any())
        return torch.zeros(int(at.sum()), CARD), None

    blocks = [(0, 12), (0, 24), (0, 36), (0, 48), (0, 50), (1, 50)]
    for order, wanted in (("blocks", blocks), ("spread", [(0, 50), (1, 50)])):
        decoding = Decoding(
            dataclasses.replace(config, span_order=order),
            CARD,
            make_generators([1, 2, 3]),
            block_len=12,
        )
        iterative.decode(logits, torch.zeros_like(known, dtype=torch.int64), known, decoding)
        assert [*dict.fromkeys(ends)] == wanted
        ends.clear()


@pytest.mark.parametrize("places", [32, 100, 250, 333])
@pytest.mark.parametrize("turn", [0.0, 0.37])
def test_every_beginning_of_the_order_lies_evenly(places: int, turn: float) -> None:
    """The largest gap between decided places is a small multiple of the mean gap, at any time.

    Van der Corput's sequence keeps it below twice the mean, a random order at several times it.
    """
    ranks = spread_ranks(torch.ones(1, places, dtype=torch.bool), torch.tensor([turn]))[0]
    for decided in range(2, places):
        at = (ranks < decided).nonzero()[:, 0]
        round_ = torch.cat([at, at[:1] + places])  # the order is circular: its ends meet
        assert int(round_.diff().max()) <= 3 * places / decided + 1


def test_spans_of_stride1_begin_at_a_frame_drawn_by_chance() -> None:
    known = torch.zeros(1, 1, 30, dtype=torch.bool)
    config = dataclasses.replace(CONFIG, span_len=5, decoding_steps=(6,))
    stride1 = dataclasses.replace(config, span_arrangement="stride1")
    edges = set()
    for seed in range(12):
        last = asked_at_each_step(stride1, known, [seed])[-1][1][0, 0]
        edges.add(int(last.nonzero()[0]) % 5)
        grid = asked_at_each_step(config, known, [seed])[-1][1][0, 0]
        assert int(grid.nonzero()[0]) % 5 == 0
    assert len(edges) > 1


@pytest.mark.parametrize("order", ["spread", "certainty"])
def test_each_stream_of_a_group_has_an_order_of_its_own_and_known_codes_stay(order: str) -> None:
    known = torch.zeros(1, 4, 24, dtype=torch.bool)
    known[0, 1, 3:9] = True
    codes = torch.full((1, 4, 24), 5)
    asked: list[tuple[int, Tensor, Tensor]] = []
    events: list[StepEvent] = []
    chance = torch.Generator().manual_seed(0)

    def logits(
        given: Tensor, stage: int, at: Tensor, with_null: bool, end: int
    ) -> tuple[Tensor, None]:
        asked.append((stage, at.clone(), given.clone()))
        return torch.randn(int(at.sum()), CARD, generator=chance), None

    decoding = Decoding(
        dataclasses.replace(CONFIG, span_len=1, decoding_steps=(5, 3), span_order=order),
        CARD,
        make_generators([1]),
        on_step=events.append,
        stages=((0, 1), (2, 3)),
    )
    made = iterative.decode(logits, codes, known, decoding)
    assert bool((made[known] == 5).all())
    assert [stage for stage, *_ in asked] == [0] * 5 + [1] * 3
    assert any(not torch.equal(*at[0] | known[0, :2]) for stage, at, _ in asked if stage == 0)
    for number, (stage, at, given_codes) in enumerate(asked):
        own = slice(2 * stage, 2 * stage + 2)
        yet = torch.stack([at for other, at, _ in asked[number:] if other == stage]).any(0)
        assert not bool((yet & known[:, own]).any())
        assert torch.equal(given_codes[:, own] == CARD, at if order == "certainty" else yet)
        assert bool((given_codes[:, 2 * stage + 2 :] == CARD).all())  # what comes later is hidden
    assert [event.streams for event in events] == [(0, 1)] * 5 + [(2, 3)] * 3
    yet = torch.stack([at for _, at, _ in asked[1:5]]).any(0)
    assert events[0].remaining == int(yet.sum())
