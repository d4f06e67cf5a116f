"""Stretches sounds in time at constant pitch, with Signalsmith Stretch (MIT, python-stretch).

The library is the package's extra `tempo`, which nothing else needs.
"""

from __future__ import annotations

import importlib.util

import numpy as np
import numpy.typing as npt

from magnet_cli.errors import UsageError

Samples = npt.NDArray[np.float32]

_AROUND = 1.0  # seconds of a loop's other end to stretch with it on either side
_BLEND = 0.1  # seconds of the cross-fade at a loop's end


def check_stretch() -> None:
    """Raise UsageError if the library for stretching is not installed."""
    if importlib.util.find_spec("python_stretch") is None:
        raise UsageError(
            "--bpm needs python-stretch, which is not installed.",
            "Install it (the extra `tempo`): pip install python-stretch",
        )


def stretched(samples: Samples, sample_rate: int, length: int, loop: bool = False) -> Samples:
    """Stretch a sound float32 [C, N] to [C, length] at constant pitch.

    A loop is stretched with its other end as context. As stretching does not keep the phase around a
    loop, its last tenth of a second is cross-faded into the sound before its beginning.

    Raises:
        UsageError: as `check_stretch`, unless the length is already right.
    """
    count = samples.shape[-1]
    if length == count:
        return samples
    check_stretch()
    if not loop:
        return _exactly(samples, sample_rate, length)
    ratio = length / count
    around = min(count, round(_AROUND * sample_rate))
    before = round(around * ratio)
    turned = np.concatenate([samples[:, -around:], samples, samples[:, :around]], axis=1)
    whole = _exactly(turned, sample_rate, length + 2 * before)
    made = whole[:, before : before + length].copy()
    size = min(before, length // 2, round(_BLEND * sample_rate))
    rising = np.linspace(0, 1, size, endpoint=False, dtype=np.float32)
    made[:, length - size :] *= 1 - rising
    made[:, length - size :] += whole[:, before - size : before] * rising
    return made


def _exactly(samples: Samples, sample_rate: int, length: int) -> Samples:
    import python_stretch

    stretch = python_stretch.Signalsmith.Stretch()
    stretch.preset(len(samples), sample_rate)
    # The library truncates the length; half a sample more gives the wanted one.
    stretch.timeFactor = samples.shape[-1] / (length + 0.5)
    made = np.asarray(stretch.process(np.ascontiguousarray(samples, np.float32)))
    return np.pad(made, ((0, 0), (0, max(0, length - made.shape[-1]))))[:, :length]
