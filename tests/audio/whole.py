"""A slow reference for the streaming writer: finishing the whole sound in memory."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from magnet_cli.audio.formats import rate_for
from magnet_cli.audio.loudness import (
    Loudness,
    envelope,
    hold,
    levels,
    measure,
    peak_of,
    reduction_needed,
    releases_for,
    settle,
)
from magnet_cli.audio.sound import SILENCE, Samples, resample, with_channels
from magnet_cli.settings import AudioFormat, OutputConfig


def finish(
    samples: Samples, sample_rate: int, name: AudioFormat, output: OutputConfig
) -> tuple[Samples, int, Loudness]:
    """Prepare decoded audio for writing."""
    rate = rate_for(name, output, sample_rate)
    samples = resample(samples, sample_rate, rate)
    if output.channels is not None:
        samples = with_channels(samples, output.channels)
    samples = fade(samples, rate, output.fades[0])
    if output.normalize:
        samples, loudness = normalize(samples, rate, output)
    else:
        lufs = measure(samples, rate)
        loudness = Loudness(lufs, lufs, 0.0, 0.0, peak_of(samples))
    return samples, rate, loudness


def finish_loop(
    samples: Samples, sample_rate: int, name: AudioFormat, output: OutputConfig
) -> tuple[Samples, int, Loudness]:
    """As `finish`, for a sound whose end continues at its start, before and after."""
    rounds, rate, loudness = finish(np.tile(samples, (1, 3)), sample_rate, name, output)
    start, stop = (round(samples.shape[1] * i * rate / sample_rate) for i in (1, 2))
    return rounds[:, start:stop], rate, loudness


def normalize(samples: Samples, sample_rate: int, output: OutputConfig) -> tuple[Samples, Loudness]:
    """Normalize a sound to a loudness, with no sample above a ceiling."""
    peak = output.peak
    before = measure(samples, sample_rate)
    if peak_of(samples) < SILENCE or not math.isfinite(before):
        return samples, Loudness(before, before, 0.0, 0.0, peak_of(samples))
    limited, reduction = samples, 0.0

    def attempt(gain: float, release: float) -> float:
        nonlocal limited, reduction
        louder = samples * np.float32(10 ** (gain / 20))
        limited, reduction = limit(louder, sample_rate, peak, release)
        return measure(limited, sample_rate)

    most = peak - peak_of(samples) + output.max_limiting
    releases = releases_for(output.max_limiting)
    gain, _, after = settle(attempt, before, output.lufs, most, releases)
    return limited, Loudness(before, after, gain, reduction, peak_of(limited))


def limit(samples: Samples, sample_rate: int, peak: float, release: float) -> tuple[Samples, float]:
    """Keep a sound below a ceiling by a smooth gain, the same for all channels."""
    needed = reduction_needed(levels(samples), peak)
    most = float(needed.max(initial=0.0))
    if most == 0:
        return samples, 0.0
    smooth, _ = envelope(needed, sample_rate, release)
    return hold(samples, smooth, peak), most


def fade(samples: Samples, sample_rate: int, seconds: float) -> Samples:
    """Fade [C, N] in and out over `seconds` each, or half of the sound if that is shorter."""
    length = min(round(seconds * sample_rate), samples.shape[1] // 2)
    if length == 0:
        return samples
    # Half a cosine: no corner at either end.
    rise = (0.5 - 0.5 * np.cos(np.pi * (np.arange(length) + 0.5) / length)).astype(np.float32)
    envelope: npt.NDArray[np.float32] = np.ones(samples.shape[1], np.float32)
    envelope[:length] = rise
    envelope[len(envelope) - length :] = rise[::-1]
    return samples * envelope
