"""Regularity of the beat, which the shares of clips heard right do not measure."""

from __future__ import annotations

import torch
from torch import Tensor

WINDOW, HOPS_PER_SECOND = 0.043, 100  # seconds; so lags are whole hops at any sample rate
SHORTEST, LONGEST = 0.25, 1.5  # seconds between beats
_FLOOR = 1e-4  # of a clip's loudest bin: below it, levels are noise


def onset_strength(sound: Tensor, rate: int) -> Tensor:
    """Audio [samples] -> [hops], 100 a second: the increase in level, summed over frequency."""
    size = 2 ** round(torch.tensor(WINDOW * rate).log2().item())
    hop = rate // HOPS_PER_SECOND
    window = torch.hann_window(size)
    level = torch.stft(sound, size, hop, window=window, return_complex=True).abs()
    level = (level / level.max().clamp(min=1e-9)).clamp(min=_FLOOR).log()
    return (level[:, 1:] - level[:, :-1]).clamp(min=0).mean(0)


def regularity(sound: Tensor, rate: int) -> float:
    """The highest autocorrelation of the onset strength at lags from 0.25 to 1.5 s: 1 for a click track.

    0 without onsets. All lags have equal weight, however few hops overlap.
    """
    onsets = onset_strength(sound, rate)
    onsets = onsets - onsets.mean()
    count = len(onsets)
    padded = torch.fft.rfft(onsets, n=2 * count)
    correlation = torch.fft.irfft(padded.abs().square())[:count]
    if float(correlation[0]) < 1e-9:
        return 0.0
    overlap = torch.arange(count, 0, -1) / count
    first, last = (round(seconds * HOPS_PER_SECOND) for seconds in (SHORTEST, LONGEST))
    return float((correlation / correlation[0] / overlap)[first : last + 1].max())
