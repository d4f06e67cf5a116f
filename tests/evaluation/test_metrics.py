"""Metrics against known values."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from magnet_cli.evaluation.metrics import frechet_distance


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_frechet_distance_is_that_of_known_gaussians() -> None:
    """Independent axes: squared differences of means and of standard deviations add up."""
    rows = noise(200_000, 3).double()
    other = noise(200_000, 3, seed=1).double() * torch.tensor([1.0, 2.0, 0.5]) + torch.tensor(
        [1.0, 0.0, 0.0]
    )
    assert frechet_distance(rows, other) == pytest.approx(1 + 1 + 0.25, rel=0.02)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), rows=st.integers(3, 40), width=st.integers(1, 8))
def test_frechet_distance_is_symmetric_and_zero_only_with_itself(
    seed: int, rows: int, width: int
) -> None:
    one, two = noise(rows, width, seed=seed), noise(rows + 1, width, seed=seed + 1) + 1
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(one, two) == pytest.approx(frechet_distance(two, one), rel=1e-4)
    assert frechet_distance(one, two) > 0


def test_frechet_distance_refuses_a_single_row() -> None:
    with pytest.raises(ValueError, match="embeddings must be"):
        frechet_distance(noise(1, 3), noise(5, 3))
