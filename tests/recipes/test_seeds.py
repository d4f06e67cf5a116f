"""Detection of clips that are stuck."""

from __future__ import annotations

import pytest
import torch

from recipes.nano.seeds import longest_without_a_hit, quiet, row, still

RATE = 24_000


def hits(*at: float, seconds: int = 10) -> torch.Tensor:
    """A low tone with bursts of noise of 30 ms."""
    time = torch.arange(seconds * RATE) / RATE
    sound = 0.1 * torch.sin(2 * torch.pi * 220 * time)
    noise = torch.randn(int(0.03 * RATE), generator=torch.Generator().manual_seed(0))
    for start in at:
        sound[int(start * RATE) : int(start * RATE) + len(noise)] += 0.3 * noise
    return sound


def test_the_longest_time_without_a_hit() -> None:
    assert longest_without_a_hit(hits(1, 2, 3, 4, 5, 6, 7, 8, 9), RATE) == pytest.approx(1, abs=0.1)
    assert longest_without_a_hit(hits(1, 2, 6.5, 8, 9), RATE) == pytest.approx(4.5, abs=0.1)
    assert longest_without_a_hit(hits(1, 2, 3), RATE) == pytest.approx(7, abs=0.1)


def test_still_half_seconds_are_those_of_the_coarse_streams() -> None:
    codes = torch.randint(1024, (12, 250), generator=torch.Generator().manual_seed(0))
    assert still(codes) == 0
    codes[:4, 100:150] = 7
    assert still(codes) in (3, 4)  # two seconds, on a grid of half seconds
    codes[4:] = 7
    assert still(codes) in (3, 4)


def test_quiet_seconds_and_a_row() -> None:
    sound = hits(1, 2, 3, 4, 5, 6, 7, 8, 9)
    hung = sound.clone()
    hung[5 * RATE :] *= 1e-4
    assert (quiet(sound, RATE), quiet(hung, RATE)) == (0, 5)
    codes = torch.zeros(12, 250, dtype=torch.int64)
    said = row("rain", [4, 9], [codes, codes], [sound, hung], RATE)
    assert said == "| rain | 40 (2) | 5 (1) | 1 (9) | 6.0 |"
