"""Sounds and files for tests of editing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile


def noise(seconds: float, rate: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Noise of increasing level, float64 [samples, channels], with a peak below 0.9."""
    rng = np.random.default_rng(seed)
    n = round(seconds * rate)
    swell = 0.55 + 0.45 * np.sin(np.arange(n) * 2 * np.pi / rate)
    return np.clip(rng.standard_normal((n, channels)) * 0.25, -0.9, 0.9) * swell[:, None]


def write(path: Path, samples: np.ndarray, rate: int, subtype: str | None = None) -> Path:
    """Write a file; returns its path."""
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def numbers(path: Path, dtype: str) -> np.ndarray:
    """The stored samples of a file, [samples, channels]."""
    return soundfile.read(path, dtype=dtype, always_2d=True)[0]
