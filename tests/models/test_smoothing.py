"""Smoothing of levels: equal to a plain loop; steady sounds are smoothed, onsets stay sharp."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from magnet_cli.models.spectral_codec import REACH, steady

FLOOR = 1e-3


def slow(amplitudes: Tensor, tolerance: float) -> Tensor:
    """As in the docstring: frame by frame, band by band."""
    frames, bands = amplitudes.shape
    levels = torch.log1p(amplitudes / FLOOR)
    out = torch.zeros_like(amplitudes)
    for frame in range(frames):
        for band in range(bands):
            near = range(max(0, band - 2), min(bands, band + 3))
            total = weights = 0.0
            for lag in range(-REACH, REACH + 1):
                other = min(max(frame + lag, 0), frames - 1)
                apart = [float(levels[other, b] - levels[frame, b]) ** 2 for b in near]
                weight = math.exp(-sum(apart) / len(apart) / (2 * tolerance**2))
                weight *= math.exp(-(lag**2) / (2 * 2.5**2))
                total += weight * float(amplitudes[other, band])
                weights += weight
            out[frame, band] = total / weights
    return out


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 12), st.integers(1, 8), st.floats(0.05, 2), st.integers(0, 99))
def test_it_is_the_obvious_loop(frames: int, bands: int, tolerance: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    amplitudes = torch.rand(frames, bands, generator=generator) * 0.01
    expected = slow(amplitudes, tolerance)
    assert torch.allclose(steady(amplitudes, FLOOR, tolerance), expected, rtol=1e-4, atol=1e-8)


def test_flicker_goes_and_an_onset_stays() -> None:
    flicker = 0.05 * torch.tensor([0.95, 1.05]).repeat(15)[:, None].expand(-1, 6)
    onset = torch.cat([flicker, 20 * flicker])
    calm = steady(onset, FLOOR, 0.15)
    inside = calm[REACH : 30 - REACH]
    assert float(inside.std() / inside.mean()) < 0.2 * float(flicker.std() / flicker.mean())
    assert float(calm[29].mean()) < 0.06  # the frame before the onset
    assert float(calm[30].mean()) > 0.9  # and the onset itself


def test_without_tolerance_nothing_changes() -> None:
    amplitudes = torch.rand(5, 3)
    assert steady(amplitudes, FLOOR, 0.0) is amplitudes


def test_loudness_stays_where_noise_is_averaged() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.rand(2000, 8, generator=generator)
    mean = float(steady(noise, FLOOR, 3.0).mean())
    assert mean == pytest.approx(float(noise.mean()), rel=0.02)
