"""Loudness as heard (ITU-R BS.1770-4, by pyloudnorm), and a limiter that keeps peaks under a ceiling.

Gain alone cannot give drums the loudness of a pad: their peaks meet the ceiling first. So the gain
is raised and the peaks are held by the limiter until the loudness is met, or the limiter would have
to do more than it can do unheard.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from magnet_cli.audio.io import Samples

Decibels = npt.NDArray[np.float64]

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
        silences: (from, to) in seconds where a finished sound is silent for long, see `audio.silence`.
    """

    before: float
    after: float
    gain: float
    reduction: float
    peak: float
    silences: tuple[tuple[float, float], ...] = ()

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
    limited, reduction = samples, 0.0

    def attempt(gain: float, release: float) -> float:
        nonlocal limited, reduction
        louder = samples * np.float32(10 ** (gain / 20))
        limited, reduction = limit(louder, sample_rate, peak, release)
        return measure(limited, sample_rate)

    most = peak - peak_of(samples) + MOST_REDUCTION
    gain, _, after = settle(attempt, before, lufs, most)
    return limited, Loudness(before, after, gain, reduction, peak_of(limited))


def settle(
    attempt: Callable[[float, float], float], before: float, lufs: float, most: float
) -> tuple[float, float, float]:
    """Find the gain that meets a loudness through the limiter.

    Args:
        attempt: applies a gain in dB and limits with a release in dB per second; gives the LUFS.
        before: LUFS without any gain.
        lufs: the loudness to meet, within TOLERANCE.
        most: the highest gain in dB that may be tried.

    Returns:
        gain, release and loudness of the last attempt, which is the one to keep.
    """
    for release in _RELEASES:
        gain = min(lufs - before, most)
        for _ in range(_ROUNDS):
            after = attempt(gain, release)
            more = min(lufs - after, most - gain)
            if abs(more) <= TOLERANCE:
                break
            # While the limiter takes from each decibel, one and a half for each that is missing
            # meets the target sooner; where it takes nothing, this still halves what is missing.
            gain += min(1.5 * more, most - gain)
        if abs(lufs - after) <= TOLERANCE:
            break
    return gain, release, after


def limit(
    samples: Samples, sample_rate: int, peak: float, release: float = _RELEASES[0]
) -> tuple[Samples, float]:
    """Hold a sound under a ceiling by a smooth gain, the same for all channels.

    Args:
        samples: [C, N].
        sample_rate: Hz.
        peak: the ceiling, dBFS.
        release: dB per second at which the gain recovers after a peak.

    Returns:
        the sound, and the greatest reduction in dB.
    """
    needed = reduction_needed(samples, peak)
    most = float(needed.max(initial=0.0))
    if most == 0:
        return samples, 0.0
    smooth, _ = envelope(needed, sample_rate, release)
    return hold(samples, smooth, peak), most


def reduction_needed(samples: Samples, peak: float) -> Decibels:
    """For each sample of [C, N], the dB by which it is above the ceiling `peak`; 0 where it is not."""
    level = np.abs(samples).max(axis=0, initial=0.0).astype(np.float64)
    needed: Decibels = 20 * np.log10(np.maximum(level / 10 ** (peak / 20), 1.0))
    return needed


def look_ahead(sample_rate: int) -> int:
    """Samples over which the gain falls before a peak: what `envelope` sees to either side."""
    return max(1, round(_LOOK_AHEAD * sample_rate))


def envelope(
    needed: Decibels, sample_rate: int, release: float, before: float = 0.0
) -> tuple[Decibels, Decibels]:
    """The reduction in dB that a limiter makes of what is needed.

    What each sample needs is released at a fixed rate in dB, then looked up ahead (a maximum over
    the window to come) and smoothed (a mean over the window before). The mean runs over values that
    each saw this sample, so it is never less than the sample needs.

    Args:
        needed: [N], of `reduction_needed`.
        release: dB per second.
        before: what was still to be released just before the first sample.

    Returns:
        the reduction [N], and what is to be released at each sample [N].
    """
    from scipy.ndimage import maximum_filter1d, uniform_filter1d

    fall = np.arange(1, len(needed) + 1) * (release / sample_rate)
    highest = np.maximum.accumulate(np.maximum(needed + fall, before))
    released = np.maximum(highest - fall, 0.0)
    width = look_ahead(sample_rate)
    # The origins move the windows: from this sample on, and up to this sample.
    ahead = maximum_filter1d(released, width, mode="nearest", origin=-(width // 2))
    smooth = uniform_filter1d(ahead, width, mode="nearest", origin=(width - 1) // 2)
    return smooth, released


def hold(samples: Samples, reduction: Decibels, peak: float) -> Samples:
    """[C, N] lowered by `reduction` [N] dB, no sample above the ceiling `peak`."""
    held = samples * (10 ** (-reduction / 20)).astype(np.float32)
    # What rounding leaves above the ceiling is some parts in ten million.
    bound = np.nextafter(np.float32(10 ** (peak / 20)), np.float32(0))
    return np.clip(held, -bound, bound)


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
