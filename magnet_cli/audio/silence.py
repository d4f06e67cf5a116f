"""Where a sound is silent for so long that one would think it over."""

from __future__ import annotations

import numpy as np

from magnet_cli.audio.io import Samples
from magnet_cli.audio.loudness import SILENCE

LONG = 2.0  # seconds from which silence inside a clip is worth a remark

_CELL = 0.1  # seconds that are silent or not as a whole


class Silences:
    """The long silences of a sound that comes in pieces."""

    def __init__(self, sample_rate: int) -> None:
        self._rate, self._cell = sample_rate, max(1, round(_CELL * sample_rate))
        self._peaks: list[float] = []  # of each cell
        self._length = 0

    def add(self, samples: Samples) -> None:
        """Hear the next [C, n]."""
        peaks = np.abs(samples).max(axis=0, initial=0.0)
        open_ = self._length % self._cell
        if open_ and len(peaks):
            rest = self._cell - open_
            self._peaks[-1] = max(self._peaks[-1], float(peaks[:rest].max()))
            peaks = peaks[rest:]
        if len(peaks):
            starts = np.arange(0, len(peaks), self._cell)
            self._peaks += np.maximum.reduceat(peaks, starts).tolist()
        self._length += samples.shape[1]

    def found(self) -> tuple[tuple[float, float], ...]:
        """(from, to) in seconds of each stretch longer than LONG whose peak is below SILENCE."""
        quiet = np.array([False, *(np.array(self._peaks) < 10 ** (SILENCE / 20)), False])
        edges = np.flatnonzero(quiet[1:] != quiet[:-1]).reshape(-1, 2)
        spans = np.minimum(edges * self._cell, self._length) / self._rate
        return tuple((float(a), float(b)) for a, b in spans if b - a > LONG)


def silences(samples: Samples, sample_rate: int) -> tuple[tuple[float, float], ...]:
    """`Silences` of a whole sound [C, N]."""
    heard = Silences(sample_rate)
    heard.add(samples)
    return heard.found()
