"""Every fast path of the transformer against dense masks and whole sequences."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from magnet_cli.models.transformer import (
    BAND_BLOCK,
    Attention,
    Transformer,
    attend_bfloat16,
    banded_attention,
    sinusoids,
)
from tests.golden_cases import case, tensor


def tiny(seed: int = 0, layers: int = 2) -> Transformer:
    torch.manual_seed(seed)
    model = Transformer(dim=32, num_heads=4, num_layers=layers, hidden_scale=4).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@settings(max_examples=25, deadline=None)
@given(length=st.integers(1, 3 * BAND_BLOCK + 9), context=st.integers(0, 9))
def test_banded_attention_equals_a_dense_mask(length: int, context: int) -> None:
    generator = torch.Generator().manual_seed(length)
    q, k, v = (torch.randn(2, 3, length, 8, generator=generator) for _ in range(3))
    mask = Attention.band(context).mask(length)
    want = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    assert torch.allclose(banded_attention(q, k, v, context), want, atol=1e-6)


@pytest.mark.parametrize(
    "attention",
    [Attention.full(), Attention.causal(), Attention.prefix(9, None), Attention.prefix(9, 3)],
)
def test_attention_in_bfloat16_and_its_gradients_are_near_torchs_in_float32(
    attention: Attention,
) -> None:
    generator = torch.Generator().manual_seed(0)
    exact = torch.randn(3, 2, 2, 40, 8, generator=generator).requires_grad_()
    half = exact.detach().bfloat16().requires_grad_()
    mask = attention.mask(40)
    ours = attend_bfloat16(*half.unbind(0), attention)
    theirs = F.scaled_dot_product_attention(*exact.unbind(0), attn_mask=mask)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.float(), theirs, atol=0.03, rtol=0.03)
    weights = torch.randn(ours.shape, generator=generator)
    (ours * weights.bfloat16()).sum().backward()
    (theirs * weights).sum().backward()
    assert half.grad is not None
    assert exact.grad is not None
    assert (half.grad.float() - exact.grad).norm() < 0.02 * exact.grad.norm()


def test_band_is_the_references() -> None:
    row = tensor(case("lm/attn_mask")["outputs"]["row20_allowed_stage1"]).bool()
    assert torch.equal(Attention.band(5).mask(504)[20, :50], row)


def test_prefix_rows_are_causal_and_the_rest_is_not() -> None:
    mask = Attention.prefix(3, None).mask(6)
    assert torch.equal(mask[:3], Attention.causal().mask(6)[:3])
    assert bool(mask[3:].all())
    banded = Attention.prefix(3, 1).mask(6)
    assert torch.equal(banded[:3], Attention.causal().mask(6)[:3])
    assert torch.equal(banded[3:], Attention.band(1).mask(6)[3:])


@pytest.mark.parametrize("chunks", [(1, 1, 1, 1, 1, 1, 1), (4, 1, 2), (7,)])
@torch.inference_mode()
def test_cached_steps_equal_one_causal_pass(chunks: tuple[int, ...]) -> None:
    model = tiny()
    x = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(1))
    cross = model.cross_keys([torch.ones(3, 32), None])
    want = model(x, Attention.causal(), cross)
    cache = model.new_cache(2, 7, like=x)
    parts = [model(part, Attention.causal(), cross, cache) for part in x.split(chunks, dim=1)]
    assert torch.allclose(torch.cat(parts, 1), want, atol=1e-5)


def test_a_short_context_is_the_last_positions() -> None:
    mask = Attention.causal(3).mask(7)
    for row in range(7):
        assert mask[row].nonzero()[:, 0].tolist() == list(range(max(0, row - 2), row + 1))


@settings(max_examples=25, deadline=None)
@given(
    chunks=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    context=st.integers(1, 12),
    short=st.integers(1, 2),
)
@torch.inference_mode()
def test_items_of_a_short_context_step_beside_the_others(
    chunks: list[int], context: int, short: int
) -> None:
    """One batch with two rules: each item equals a whole pass by its own rule."""
    model, length = tiny(), sum(chunks)
    x = torch.randn(3, length, 32, generator=torch.Generator().manual_seed(length))
    cache = model.new_cache(3, length, like=x)
    both = Attention.causal(context, short_items=short)
    found = torch.cat([model(part, both, None, cache) for part in x.split(chunks, dim=1)], 1)
    want = torch.cat(
        [
            model(x[:-short], Attention.causal(), None),
            model(x[-short:], Attention.causal(context), None),
        ]
    )
    assert torch.allclose(found, want, atol=1e-5)
    if context < length:
        everything = model(x[-short:], Attention.causal(), None)
        assert not torch.allclose(found[-short:], everything, atol=1e-3)


@torch.inference_mode()
def test_cross_attention_sees_each_items_own_keys() -> None:
    model = tiny()
    generator = torch.Generator().manual_seed(2)
    texts = [torch.randn(n, 32, generator=generator) for n in (2, 5, 3)]
    x = torch.randn(3, 9, 32, generator=generator)
    together = model(x, Attention.full(), model.cross_keys(texts))
    for item, text in enumerate(texts):
        alone = model(x[item : item + 1], Attention.full(), model.cross_keys([text]))
        assert torch.allclose(together[item], alone[0], atol=1e-5)


@torch.inference_mode()
def test_skipping_the_null_condition_equals_attending_zeros() -> None:
    """The reference attends to a text of zeros, which without biases adds exactly zero."""
    model = tiny()
    x = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(3))
    text = torch.randn(4, 32, generator=torch.Generator().manual_seed(4))
    skipped = model(x, Attention.full(), model.cross_keys([text, None]))
    zeros = model(x, Attention.full(), model.cross_keys([text, torch.zeros(4, 32)]))
    assert torch.allclose(skipped, zeros, atol=1e-6)
    assert torch.equal(
        model(x, Attention.full(), model.cross_keys([None, None])), model(x, Attention.full(), None)
    )


def test_positions_have_cosines_first() -> None:
    table = sinusoids(0, 4, 6, torch.device("cpu"))
    for position in range(4):
        phases = [position / 10000 ** (i / 2) for i in range(3)]
        want = [math.cos(p) for p in phases] + [math.sin(p) for p in phases]
        assert table[position].tolist() == pytest.approx(want, abs=1e-6)
    assert torch.equal(
        sinusoids(700, 2, 6, torch.device("cpu"))[1], sinusoids(701, 1, 6, torch.device("cpu"))[0]
    )


def test_a_mask_made_while_decoding_serves_training() -> None:
    """Masks are cached; one made under inference_mode must not break a later backward pass."""
    model = tiny(layers=1)
    x = torch.randn(1, 11, 32)
    for attention in (Attention.band(2), Attention.prefix(4, 3)):
        with torch.inference_mode():
            model(x, attention, None)
        model(x, attention, None).sum().backward()
        assert model.layers[0].linear1.weight.grad is not None
