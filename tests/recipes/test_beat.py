"""Regularity of a beat, on synthetic clicks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recipes.nano.judges.beat import regularity

RATE = 24_000


def clicks(at: list[float]) -> Tensor:
    """Ten seconds of decaying noise bursts at these times."""
    generator = torch.Generator().manual_seed(0)
    sound = 1e-4 * torch.randn(10 * RATE, generator=generator)
    length = RATE // 20
    burst = torch.randn(length, generator=generator) * torch.linspace(1, 0, length)
    for second in at:
        first = round(second * RATE)
        sound[first : first + length] += burst[: len(sound) - first]
    return sound


@pytest.mark.parametrize("gap", [0.4, 0.5, 0.72])
def test_a_click_track_is_regular_at_any_tempo(gap: float) -> None:
    assert regularity(clicks([gap * n for n in range(int(9.9 / gap))]), RATE) > 0.9


def test_hits_here_and_there_are_not() -> None:
    places = torch.rand(20, generator=torch.Generator().manual_seed(1)).mul(9.8).tolist()
    assert regularity(clicks(places), RATE) < 0.5


def test_loudness_does_not_matter_and_silence_has_no_beat() -> None:
    track = clicks([0.5 * n for n in range(19)])
    assert regularity(0.01 * track, RATE) == pytest.approx(regularity(track, RATE), abs=1e-3)
    assert regularity(torch.zeros(10 * RATE), RATE) == 0
