"""The basic signals of sound effects; all return float64 arrays of mono samples."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from recipes.nano.compose.score import CLIP_SAMPLES, SAMPLE_RATE

Array = NDArray[np.float64]


def seconds(duration: float) -> Array:
    """Sample times of a duration."""
    return np.arange(round(duration * SAMPLE_RATE)) / SAMPLE_RATE


def band_noise(
    rng: np.random.Generator, low: float, high: float, samples: int = CLIP_SAMPLES
) -> Array:
    """White noise between two frequencies in Hz (second-order slopes), unit variance."""
    sos = signal.butter(2, (low, high), "bandpass", fs=SAMPLE_RATE, output="sos")
    filtered = signal.sosfilt(sos, rng.standard_normal(samples + SAMPLE_RATE // 4))[-samples:]
    return filtered / (filtered.std() + 1e-12)


def lowpass(x: Array, cutoff: float) -> Array:
    """Second-order Butterworth low-pass."""
    return signal.sosfilt(signal.butter(2, cutoff, "lowpass", fs=SAMPLE_RATE, output="sos"), x)


def slow_curve(rng: np.random.Generator, period: float, low: float, high: float) -> Array:
    """A smooth random curve over the clip, between two values, changing about once a `period` seconds."""
    knots = int(CLIP_SAMPLES / SAMPLE_RATE / period) + 4
    points = rng.uniform(low, high, knots)
    position = np.linspace(0, knots - 2, CLIP_SAMPLES)
    index = position.astype(int)
    blend = (1 - np.cos(np.pi * (position - index))) / 2
    return points[index] * (1 - blend) + points[index + 1] * blend


def decay(duration: float, half_life: float, attack: float = 0.002) -> Array:
    """An envelope with a linear attack and an exponential decay."""
    t = seconds(duration)
    return np.minimum(1.0, t / attack) * 0.5 ** (t / half_life)


def place(sound: Array, starts: Iterable[float], gains: Iterable[float] | None = None) -> Array:
    """A clip with the sound mixed in at each start (seconds); what passes the end is cut."""
    out = np.zeros(CLIP_SAMPLES)
    times = list(starts)
    for start, gain in zip(times, gains if gains is not None else [1.0] * len(times), strict=True):
        first = round(start * SAMPLE_RATE)
        length = min(len(sound), CLIP_SAMPLES - first)
        if length > 0:
            out[first : first + length] += gain * sound[:length]
    return out


def tone(frequency: Array | float, duration: float) -> Array:
    """A sine of a fixed or a time-varying frequency in Hz."""
    samples = round(duration * SAMPLE_RATE)
    curve = np.broadcast_to(np.asarray(frequency, dtype=np.float64), (samples,))
    return np.sin(2 * np.pi * np.cumsum(curve) / SAMPLE_RATE)


def every(period: float, start: float = 0.0) -> list[float]:
    """Regular times within the clip."""
    count = int((CLIP_SAMPLES / SAMPLE_RATE - start) / period - 1e-9) + 1
    return [start + period * i for i in range(count)]
