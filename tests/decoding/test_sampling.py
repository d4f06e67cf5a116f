"""Samplers: golden tables, distributions, determinism."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from magnet_cli.decoding import sampling
from magnet_cli.decoding.sampling import (
    Sampler,
    disturbed,
    draw,
    keep_top_k,
    keep_top_p,
    make_generators,
    uniform_noise,
)
from magnet_cli.errors import MagnetError
from tests.golden_cases import case_id, cases, tensor


@pytest.mark.parametrize("golden", cases(section=4), ids=case_id)
def test_filters_are_the_references(golden: dict) -> None:
    probs = tensor(golden["inputs"]["probs"])
    before = probs.clone()
    given_ = golden["settings"]
    kept = keep_top_p(probs, given_["p"]) if "p" in given_ else keep_top_k(probs, given_["k"])
    assert torch.equal(probs, before), "the caller's tensor was changed"
    assert torch.equal(kept > 0, tensor(golden["outputs"]["kept"]).bool())
    assert torch.allclose(kept, tensor(golden["outputs"]["probs"]), atol=1e-6)


@pytest.mark.parametrize("sampler", [Sampler(True, 0.9, 0), Sampler(True, 0.0, 5)])
def test_many_rows_are_drawn_in_pieces_as_they_are_at_once(
    sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory of sorting grew with the batch: 2.3 GB for sixteen clips of half a minute."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(25, 32, generator=generator)
    noise = torch.rand(25, generator=generator)
    whole = sampler(logits, 1.0, noise)
    sizes: list[int] = []
    softmax = torch.softmax

    def counted(x: Tensor, dim: int) -> Tensor:
        sizes.append(len(x))
        return softmax(x, dim=dim)

    monkeypatch.setattr(torch, "softmax", counted)
    monkeypatch.setattr(sampling, "ROWS", 8)
    for found, wanted in zip(sampler(logits, 1.0, noise), whole, strict=True):
        assert torch.equal(found, wanted)
    assert sizes == [8, 8, 8, 1]


@settings(max_examples=60, deadline=None)
@given(
    weights=st.lists(st.floats(0, 1, width=32), min_size=2, max_size=12).filter(
        lambda w: sum(w) > 1e-3
    ),
    noise=st.floats(0, 1, exclude_max=True, width=32),
)
def test_nothing_without_probability_is_drawn(weights: list[float], noise: float) -> None:
    token = int(draw(torch.tensor([weights]), torch.tensor([noise])))
    assert weights[token] > 0


def test_the_draw_follows_the_distribution() -> None:
    probs = torch.tensor([0.1, 0.0, 0.6, 0.3])
    noise = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    counts = draw(probs.expand(20_000, -1), noise).bincount(minlength=4) / 20_000
    assert torch.allclose(counts, probs, atol=0.01)


@settings(max_examples=40, deadline=None)
@given(p=st.floats(0.01, 1), seed=st.integers(0, 999))
def test_top_p_keeps_the_smallest_set_that_reaches_p(p: float, seed: int) -> None:
    logits = 3 * torch.randn(1, 10, generator=torch.Generator().manual_seed(seed))
    probs = logits.softmax(-1)
    kept = keep_top_p(probs, p)[0] > 0
    assert bool(kept[probs[0].argmax()])
    likely = probs[0][kept]
    assert likely.sum() >= p - 1e-5
    assert likely.sum() - likely.min() <= p + 1e-5, "without the last of them it reached p already"
    assert bool((probs[0][~kept] <= likely.min()).all())
    assert float(keep_top_p(probs, p).sum()) == pytest.approx(1, abs=1e-5)


def plain_top_p(probs: Tensor, p: float) -> Tensor:
    """Top-p by a stable sort of tokens, which is several times slower."""
    ordered, order = probs.sort(dim=-1, descending=True, stable=True)
    ordered = ordered * (ordered.cumsum(-1) - ordered <= p)
    kept = torch.zeros_like(probs).scatter(-1, order, ordered)
    return kept / kept.sum(-1, keepdim=True)


@settings(max_examples=60, deadline=None)
@given(
    p=st.floats(0, 1),
    rows=st.lists(
        st.lists(st.integers(0, 3), min_size=6, max_size=6).filter(any), min_size=1, max_size=4
    ),
)
def test_of_tokens_that_tie_top_p_keeps_the_first(p: float, rows: list[list[int]]) -> None:
    probs = torch.tensor(rows, dtype=torch.float32)
    probs = probs / probs.sum(-1, keepdim=True)
    assert torch.equal(keep_top_p(probs, p), plain_top_p(probs, p))


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9, 1.0])
def test_top_p_is_what_a_stable_sort_says(p: float) -> None:
    logits = 4 * torch.randn(300, 1024, generator=torch.Generator().manual_seed(1))
    probs = logits.softmax(-1)
    assert torch.equal(keep_top_p(probs, p), plain_top_p(probs, p))


def test_scored_probabilities_are_renormalised_by_top_k_and_not_by_top_p() -> None:
    logits, noise = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([0.0])
    probs = logits.softmax(-1)[0]
    token, scored = Sampler(True, top_p=0.0, top_k=2)(logits, 1.0, noise)
    assert float(scored) == pytest.approx(float(probs[token] / (probs[0] + probs[1])))
    token, scored = Sampler(True, top_p=0.5, top_k=0)(logits, 1.0, noise)
    assert float(scored) == pytest.approx(float(probs[token]))


def test_greedy_takes_the_guided_logits_and_scores_the_tempered_ones() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    token, scored = Sampler(False, 0.9, 5)(logits, 2.0, torch.tensor([0.99]))
    assert int(token) == 1
    assert float(scored) == pytest.approx(float((logits / 2).softmax(-1)[0, 1]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_temperature_floor_is_safe_in_half_precision(dtype: torch.dtype) -> None:
    """The reference's 30-second models gave NaN probabilities in fp16: 60000 / 0.01 overflows."""
    logits = torch.tensor([[60000.0, -60000.0, 50000.0]], dtype=dtype).float()
    token, scored = Sampler(True, 0.9, 0)(logits, 0.0, torch.tensor([0.5]))
    assert int(token) == 0
    assert bool(torch.isfinite(scored).all())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_an_error(bad: float) -> None:
    with pytest.raises(MagnetError, match="NaN or infinite"):
        Sampler(True, 0.9, 0)(torch.tensor([[0.0, bad]]), 1.0, torch.tensor([0.5]))


def test_noise_is_each_items_own() -> None:
    cpu = torch.device("cpu")
    alone = uniform_noise(make_generators([7]), [True], 5, cpu)
    state = torch.random.get_rng_state()
    batch = uniform_noise(make_generators([3, 7, 4]), [True, True, False], 5, cpu)
    assert torch.equal(batch[1], alone[0])
    assert not torch.equal(batch[0], batch[1])
    assert float(batch[2].sum()) == 0
    assert torch.equal(torch.random.get_rng_state(), state), "the global random state was touched"


def test_an_item_that_does_not_draw_keeps_its_generator_where_it_was() -> None:
    idle, fresh = make_generators([5])[0], make_generators([5])[0]
    uniform_noise([idle], [False], 9, torch.device("cpu"))
    assert torch.equal(torch.rand(3, generator=idle), torch.rand(3, generator=fresh))


@given(st.integers(0, 2**16))
@settings(max_examples=20, deadline=None)
def test_disturbed_probabilities_keep_their_order_without_noise_and_lose_it_in_much(
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    probs = torch.rand(500, generator=generator)
    noise = torch.rand(500, generator=generator)

    def ranks(values: Tensor) -> Tensor:
        return values.argsort().argsort().float()

    def likeness(scale: float) -> float:
        pair = torch.stack([ranks(probs), ranks(disturbed(probs, scale, noise))])
        return float(torch.corrcoef(pair)[0, 1])

    # Neighbours a rounding apart may tie.
    assert float(disturbed(probs, 0.0, noise)[probs.argsort()].diff().min()) > -1e-6
    assert likeness(0.05) > 0.95
    assert abs(likeness(30.0)) < 0.3
    hard = disturbed(torch.tensor([0.0, 1.0]), 4.0, torch.tensor([0.0, 1.0]))
    assert bool(((hard >= 0) & (hard <= 1)).all())
