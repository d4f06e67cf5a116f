"""Mask schedule and span masks: golden tables, and the slow, obvious versions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from magnet_cli import masking
from tests.golden_cases import case, case_id, cases, tensor


def test_schedule_is_the_references() -> None:
    for row in case("gen/schedule")["outputs"]["table"]:
        counts = torch.tensor([row["n"]])
        got = [int(masking.masked_counts(r, counts)) for r in masking.mask_rates(row["timesteps"])]
        assert got == row["num_masked"]


@pytest.mark.parametrize("golden", cases(section=6, prefix="train/lut/"), ids=case_id)
def test_span_start_table_is_the_references(golden: dict) -> None:
    want = tensor(golden["outputs"]["u"]).tolist()
    settings_ = golden["settings"]
    assert list(masking.span_start_table(settings_["T"], settings_["span_len"])) == want


@pytest.mark.parametrize("golden", cases(section=6, prefix="train/mask/"), ids=case_id)
def test_training_masks_are_the_references(golden: dict) -> None:
    rates, noise = (tensor(golden["inputs"][name]) for name in ("mask_probs", "rand"))
    got = masking.training_mask(rates, noise, golden["settings"]["span_len"])
    assert torch.equal(got, tensor(golden["outputs"]["mask"]).bool())


def test_masked_counts_never_exceed_what_is_there() -> None:
    counts = masking.masked_counts(torch.tensor(0.5), torch.tensor([0, 1, 2, 7]))
    assert counts.tolist() == [0, 1, 1, 3]


def slow_stride1(scores: list[float], target: int, span_len: int) -> tuple[list[bool], int]:
    """One item in plain Python: bisection over the number of spans, as in README item 7."""
    sums = [sum(scores[i : i + span_len]) for i in range(len(scores) - span_len + 1)]
    order = sorted(range(len(sums)), key=lambda i: -sums[i])

    def mask(spans: int) -> list[bool]:
        covered = [False] * len(scores)
        for start in order[:spans]:
            covered[start : start + span_len] = [True] * span_len
        return covered

    target = max(target, span_len)
    low, high = target // span_len, target - span_len + 1
    middle = round(0.5 * (low + high))
    best = mask(middle)
    while low < middle < high:
        best = mask(middle)
        if sum(best) > target:
            high = middle
        else:
            low = middle
        middle = round(0.5 * (low + high))
    return best, middle


@settings(max_examples=60, deadline=None)
@given(
    frames=st.integers(4, 40),
    span_len=st.integers(1, 4),
    seed=st.integers(0, 2**16),
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=3),
)
def test_stride1_search_equals_the_slow_one_item_by_item(
    frames: int, span_len: int, seed: int, shares: list[float]
) -> None:
    # Integers, so that sums are exact and the order of spans cannot depend on rounding.
    generator = torch.Generator().manual_seed(seed)
    scores = torch.stack(
        [torch.randperm(4096, generator=generator)[:frames].float() for _ in shares]
    )
    targets = torch.tensor([max(1, round(share * frames)) for share in shares])
    got = masking.stride1_mask(scores, targets, span_len)
    for item, target in enumerate(targets.tolist()):
        want, _ = slow_stride1(scores[item].tolist(), target, span_len)
        assert got[item].tolist() == want


@settings(max_examples=50, deadline=None)
@given(frames=st.integers(1, 50), span_len=st.integers(1, 7), seed=st.integers(0, 999))
def test_spans_and_frames_are_inverse(frames: int, span_len: int, seed: int) -> None:
    values = torch.rand(2, frames, generator=torch.Generator().manual_seed(seed)) > 0.5
    spans = masking.frames_to_spans(values, span_len, False)
    assert spans.shape[1:] == (-(-frames // span_len), span_len)
    assert torch.equal(spans.flatten(1)[:, :frames], values)
    back = masking.spans_to_frames(spans.any(-1), span_len, frames)
    assert back.shape == values.shape
    assert bool((values <= back).all())


@settings(max_examples=50, deadline=None)
@given(scores=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20), share=st.floats(0, 1))
def test_top_mask_takes_the_highest(scores: list[float], share: float) -> None:
    count = round(share * len(scores))
    mask = masking.top_mask(torch.tensor([scores]), torch.tensor([count]))[0].tolist()
    assert sum(mask) == count
    inside = [s for s, m in zip(scores, mask, strict=True) if m]
    outside = [s for s, m in zip(scores, mask, strict=True) if not m]
    assert not inside or not outside or min(inside) >= max(outside)


def test_training_masks_reach_their_rate() -> None:
    noise = torch.rand(400, 300, generator=torch.Generator().manual_seed(0))
    for rate in (0.1, 0.5, 0.9):
        mask: Tensor = masking.training_mask(torch.full((400,), rate), noise, 3)
        assert abs(float(mask.float().mean()) - rate) < 0.01
