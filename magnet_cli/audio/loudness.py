"""Loudness as heard (ITU-R BS.1770-4, by pyloudnorm), and a limiter that keeps peaks under a ceiling.

Gain alone cannot give drums the loudness of a pad: their peaks meet the ceiling first. So the gain
is raised and the peaks are held by the limiter until the loudness is met, or the limiter would have
to do more than it can do unheard.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from magnet_cli.audio.io import Samples

TOLERANCE = 0.1  # LU: as near to the target as normalisation comes
HARD_WORK = 6.0  # dB of reduction from which the limiter can be heard
MOST_REDUCTION = 24.0  # dB beyond which loudness is given up for the sound's sake
SILENCE = -60.0  # dBFS: a clip whose peak is lower is silence, and raising it would raise noise

_BLOCK = 0.4  # seconds: the meter's block, the shortest sound it measures
_LOOK_AHEAD = 0.005  # seconds over which the gain falls before a peak
_RELEASES = (120.0, 400.0, 1500.0)  # dB per second at which the gain recovers: gentle ones first
_ROUNDS = 15


@dataclass(frozen=True)
class Loudness:
    """What normalising did to a sound.

    Attributes:
        before, after: LUFS; -inf for silence.
        gain: dB by which everything was raised.
        reduction: dB by which the limiter lowered the highest peak at most; 0 where it was not needed.
        peak: the highest sample afterwards, dBFS.
    """

    before: float
    after: float
    gain: float
    reduction: float
    peak: float

    @property
    def worked_hard(self) -> bool:
        """The limiter did so much that it may be heard."""
        return self.reduction > HARD_WORK

    @property
    def silent(self) -> bool:
        """There is nothing to hear, and nothing was made louder."""
        return self.peak < SILENCE


def measure(samples: Samples, sample_rate: int) -> float:
    """Integrated loudness of [C, N] in LUFS; -inf for silence.

    A sound shorter than the meter's block is measured as if it were repeated. Of more than five
    channels, which the standard's weights do not cover, the first five are heard.
    """
    import pyloudnorm

    if samples.shape[1] == 0:
        return -math.inf
    block = math.ceil(_BLOCK * sample_rate) + 1
    heard = samples[:5].T.astype(np.float64)
    if len(heard) < block:
        heard = np.tile(heard, (math.ceil(block / len(heard)), 1))
    return float(pyloudnorm.Meter(sample_rate).integrated_loudness(heard))


def peak_of(samples: Samples) -> float:
    """The highest sample in dBFS; -inf for silence."""
    return _decibels(float(np.abs(samples).max(initial=0.0)))


def normalize(
    samples: Samples, sample_rate: int, lufs: float, peak: float
) -> tuple[Samples, Loudness]:
    """Bring a sound to a loudness with no sample above a ceiling.

    Args:
        samples: [C, N], finite.
        sample_rate: Hz.
        lufs: the loudness to meet, within TOLERANCE.
        peak: the ceiling, dBFS.

    Returns:
        the sound, and what was done. Silence comes back as it is.
    """
    before = measure(samples, sample_rate)
    if peak_of(samples) < SILENCE or not math.isfinite(before):
        return samples, Loudness(before, before, 0.0, 0.0, peak_of(samples))
    most = peak - peak_of(samples) + MOST_REDUCTION
    for release in _RELEASES:
        gain = min(lufs - before, most)
        for _ in range(_ROUNDS):
            louder = samples * np.float32(10 ** (gain / 20))
            limited, reduction = limit(louder, sample_rate, peak, release)
            after = measure(limited, sample_rate)
            more = min(lufs - after, most - gain)
            if abs(more) <= TOLERANCE:
                break
            # While the limiter takes from each decibel, one and a half for each that is missing
            # meets the target sooner; where it takes nothing, this still halves what is missing.
            gain += min(1.5 * more, most - gain)
        if abs(lufs - after) <= TOLERANCE:
            break
    return limited, Loudness(before, after, gain, reduction, peak_of(limited))


def limit(
    samples: Samples, sample_rate: int, peak: float, release: float = _RELEASES[0]
) -> tuple[Samples, float]:
    """Hold a sound under a ceiling by a smooth gain, the same for all channels.

    The reduction each sample needs is released at a fixed rate in dB, then looked up ahead (a
    maximum over the window to come) and smoothed (a mean over the window before). The mean runs
    over values that each saw this sample, so it is never less than the sample needs.

    Args:
        samples: [C, N].
        sample_rate: Hz.
        peak: the ceiling, dBFS.
        release: dB per second at which the gain recovers after a peak.

    Returns:
        the sound, and the greatest reduction in dB.
    """
    from scipy.ndimage import maximum_filter1d, uniform_filter1d

    ceiling = 10 ** (peak / 20)
    level = np.abs(samples).max(axis=0, initial=0.0).astype(np.float64)
    if level.max(initial=0.0) <= ceiling:
        return samples, 0.0
    needed = 20 * np.log10(np.maximum(level / ceiling, 1.0))
    fall = np.arange(len(needed)) * (release / sample_rate)
    released = np.maximum(np.maximum.accumulate(needed + fall) - fall, 0.0)
    width = max(1, round(_LOOK_AHEAD * sample_rate))
    # The origins move the windows: from this sample on, and up to this sample.
    ahead = maximum_filter1d(released, width, mode="nearest", origin=-(width // 2))
    smooth = uniform_filter1d(ahead, width, mode="nearest", origin=(width - 1) // 2)
    held = samples * (10 ** (-smooth / 20)).astype(np.float32)
    # What rounding leaves above the ceiling is some parts in ten million.
    bound = np.nextafter(np.float32(ceiling), np.float32(0))
    return np.clip(held, -bound, bound), float(needed.max())


def fade(samples: Samples, sample_rate: int, seconds: float) -> Samples:
    """Fade [C, N] in and out over `seconds` each, or half of the sound where that is shorter."""
    length = min(round(seconds * sample_rate), samples.shape[1] // 2)
    if length == 0:
        return samples
    # Half a cosine: no corner at either end.
    rise = (0.5 - 0.5 * np.cos(np.pi * (np.arange(length) + 0.5) / length)).astype(np.float32)
    envelope: npt.NDArray[np.float32] = np.ones(samples.shape[1], np.float32)
    envelope[:length] = rise
    envelope[len(envelope) - length :] = rise[::-1]
    return samples * envelope


def _decibels(amplitude: float) -> float:
    return 20 * math.log10(amplitude) if amplitude > 0 else -math.inf
