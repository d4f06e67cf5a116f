"""Levels that waver from frame to frame, steadied where nothing happens.

Codes are chosen frame by frame, so that steady sound flickers between neighbouring codes: a buzz at
the frame rate. A bilateral filter in time (Tomasi and Manduchi, 1998) averages frames that are alike
and leaves frames that differ, onsets above all, as they are.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

REACH = 4  # spectral frames on either side
_SPREAD = 2.5  # spectral frames, of the Gaussian over time
_NEIGHBOURS = 5  # bands whose difference decides together


def steady(amplitudes: Tensor, floor: float, tolerance: float) -> Tensor:
    """Amplitudes [N, bands] averaged over up to `REACH` frames on either side that are alike.

    Amplitudes are averaged, not levels: the mean of a logarithm would make noise softer.

    Args:
        floor: amplitude that hardly counts; frames are compared by log(1 + amplitude / floor).
        tolerance: difference, in nepers, at which a frame counts 1 / sqrt(e). 0: nothing changes.
    """
    if tolerance <= 0:
        return amplitudes
    frames = len(amplitudes)
    levels = torch.log1p(amplitudes / floor)
    total, weights = torch.zeros_like(levels), torch.zeros_like(levels)
    # Beyond the ends the outermost frames go on.
    around_levels, around = (_repeat_ends(x) for x in (levels, amplitudes))
    for lag in range(2 * REACH + 1):
        other = around_levels[lag : lag + frames]
        difference = F.avg_pool1d(
            (other - levels).square()[:, None],
            _NEIGHBOURS,
            stride=1,
            padding=_NEIGHBOURS // 2,
            count_include_pad=False,
        )[:, 0]
        nearness = math.exp(-((lag - REACH) ** 2) / (2 * _SPREAD**2))
        weight = torch.exp(-difference / (2 * tolerance**2)) * nearness
        total += weight * around[lag : lag + frames]
        weights += weight
    return total / weights


def _repeat_ends(x: Tensor) -> Tensor:
    """[N, bands] -> [REACH + N + REACH, bands]."""
    return torch.cat([x[:1].expand(REACH, -1), x, x[-1:].expand(REACH, -1)])
