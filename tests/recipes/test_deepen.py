"""A deepened model initially has the predictions of the original; all of it can be trained."""

from __future__ import annotations

import dataclasses

import torch

from recipes.nano.deepen import deepened
from tests.models.tiny import tiny_lm


def test_it_says_the_same_and_has_more_to_learn() -> None:
    lm = tiny_lm("hybrid")
    grown = deepened(lm, 5, [2, 2], span_len=1).eval()
    assert grown.config == dataclasses.replace(
        lm.config, num_layers=5, stages=((0, 1), (2, 3)), span_len=1
    )
    codes = torch.randint(0, 16, (2, 4, 12), generator=torch.Generator().manual_seed(0))
    before, after = lm.teacher_forced(codes, None), grown.teacher_forced(codes, None)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    assert grown.requires_grad_(True)
    grown.teacher_forced(codes, None).square().sum().backward()
    written = [
        parameter.grad
        for name, parameter in grown.named_parameters()
        if ".layers." in name and name.endswith("linear2.weight")
    ]
    assert len(written) == 5
    assert all(grad is not None and bool(grad.any()) for grad in written), "a copy can learn"


def test_the_position_in_the_bar_adds_nothing_until_it_is_trained() -> None:
    lm = tiny_lm("hybrid")
    grown = deepened(lm, 2, [2, 2], span_len=1, bar_position=True).eval()
    assert grown.bars is not None
    codes = torch.randint(0, 16, (1, 4, 20), generator=torch.Generator().manual_seed(0))
    said = [
        each.rows_hidden(codes, 0, each.cross_keys([None], [(8.0, 0.0)])) for each in (lm, grown)
    ]
    torch.testing.assert_close(said[1], said[0])
    again = deepened(grown, 2, [2, 2], span_len=1)
    assert again.bars is not None
    assert torch.equal(again.bars.inner.weight, grown.bars.inner.weight)
