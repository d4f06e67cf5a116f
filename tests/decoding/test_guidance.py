"""Guidance and its annealing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from magnet_cli.decoding.sampling import annealed_coef, guidance_matters, guide
from magnet_cli.masking import mask_rates


@given(rate=st.floats(0, 1), low=st.floats(0, 10), span=st.floats(0, 10))
def test_the_coefficient_stays_between_its_ends(rate: float, low: float, span: float) -> None:
    coef = annealed_coef(rate, low + span, low)
    assert low - 1e-9 <= coef <= low + span + 1e-9


def test_annealing_ends_where_guidance_stops_to_matter() -> None:
    rates = mask_rates(20)
    assert annealed_coef(float(rates[0]), 10.0, 1.0) == 10.0
    last = annealed_coef(float(rates[-1]), 10.0, 1.0)
    assert last != 1.0
    assert not guidance_matters(last)
    assert guidance_matters(annealed_coef(float(rates[-2]), 10.0, 1.0))


def test_guide_is_a_line_through_both() -> None:
    cond, null = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 4.0])
    assert guide(cond, null, 0.0).tolist() == null.tolist()
    assert guide(cond, null, 1.0).tolist() == cond.tolist()
    assert guide(cond, null, 3.0).tolist() == pytest.approx([3.0, -2.0])
    assert guide(cond, None, 3.0) is cond
