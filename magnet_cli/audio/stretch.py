"""A sound made a little longer or shorter at the same pitch: Signalsmith Stretch (MIT), by python-stretch.

It is an extra of the package, `tempo`: nothing else needs it.
"""

from __future__ import annotations

import importlib.util

import numpy as np
import numpy.typing as npt

from magnet_cli.errors import UsageError

Samples = npt.NDArray[np.float32]

_AROUND = 1.0  # seconds of a loop's other end that are stretched with it on either side
_BLEND = 0.1  # seconds in which a loop's end becomes what goes before its beginning


def check_stretch() -> None:
    """Refuse what needs to stretch, before anything is made for it.

    Raises:
        UsageError: the library is not here.
    """
    if importlib.util.find_spec("python_stretch") is None:
        raise UsageError(
            "--bpm needs python-stretch, which is not installed.",
            "Install it (it is the extra `tempo`): pip install python-stretch",
        )


def stretched(samples: Samples, sample_rate: int, length: int, loop: bool = False) -> Samples:
    """A sound float32 [C, N] as [C, length], its pitch kept.

    A loop is stretched with its other end around it. What goes round does not come back in the same
    phase, whatever is stretched, so its last tenth of a second gives way to those that would go
    before its beginning.

    Raises:
        UsageError: as `check_stretch`; never where the length is right already.
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
    # The library cuts fractions of a sample off; half of one more comes to the length that is wanted.
    stretch.timeFactor = samples.shape[-1] / (length + 0.5)
    made = np.asarray(stretch.process(np.ascontiguousarray(samples, np.float32)))
    return np.pad(made, ((0, 0), (0, max(0, length - made.shape[-1]))))[:, :length]
