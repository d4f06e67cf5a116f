"""The judge of loops (recipes/nano/loops.py), on synthetic onsets instead of librosa's."""

from __future__ import annotations

import numpy as np
import pytest

from recipes.nano import loops

RATE = loops._RATE / loops._HOP  # onset values a second


def onsets(beats: float, bpm: float) -> np.ndarray:
    """The onsets of a loop of this many beats, played three times."""
    length = round(beats * 60 / bpm * RATE)
    one = np.zeros(length)
    for place in np.arange(0.1, beats * 60 / bpm - 0.02, 60 / bpm):
        one[round(place * RATE)] = 1.0
    return np.tile(np.convolve(one, np.hanning(9), "same"), 3)


def test_the_pulse_of_a_loop_is_found() -> None:
    strength = onsets(16, 120)
    once = len(strength) // 3
    assert 60 * loops.pulse_of(strength[once : 2 * once]) == pytest.approx(120, abs=0.3)


@pytest.mark.parametrize("off", [0.0, 0.1, 0.25, 0.5])
def test_what_a_seam_misses_is_measured(off: float) -> None:
    """A loop that is a fraction of a beat too long misses the beat by that at the seam, and by nothing in the
    middle."""
    strength = onsets(16 + off, 120)
    length = len(strength) / 3 / RATE
    assert loops.missed(strength, length, 2.0, 4.0) == pytest.approx(off, abs=0.02)
    assert loops.missed(strength, 1.5 * length, 2.0, 2.0) == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize(
    ("pulse", "bpm", "pulses"),
    [(2.0, 120, 1), (2.0, 60, 2), (3.0, 60, 3), (2.0, 80, 1), (2.0, None, 1), (1.0, 120, 1)],
)
def test_a_beat_has_a_whole_number_of_pulses(pulse: float, bpm: float | None, pulses: int) -> None:
    assert loops._pulses_of_a_beat(pulse, bpm) == pulses
