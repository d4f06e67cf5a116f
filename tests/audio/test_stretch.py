"""Time stretching: exact lengths, constant pitch, loops without a seam."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from magnet_cli.audio.stretch import stretched
from magnet_cli.editing.looping import seam_flux
from magnet_cli.errors import UsageError

RATE = 8000


def tone(hertz: float, count: int) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(count) / RATE).astype(np.float32)


@pytest.mark.parametrize("length", [15_400, 15_999, 16_001, 16_640])
def test_it_is_as_long_as_was_asked_for_and_sounds_as_high(length: int) -> None:
    both = np.stack([tone(440, 16_000), tone(880, 16_000)])
    made = stretched(both, RATE, length)
    assert made.shape == (2, length)
    assert made.dtype == np.float32
    for channel, hertz in zip(made, (440, 880), strict=True):
        middle = channel[4000:12_000] * np.hanning(8000)
        assert int(np.abs(np.fft.rfft(middle)).argmax()) == pytest.approx(hertz, abs=1)
    assert np.array_equal(made, stretched(both, RATE, length))  # and always the same


def test_what_is_right_already_stays_as_it_is() -> None:
    sound = tone(440, 5000)[None]
    assert stretched(sound, RATE, 5000) is sound


@pytest.mark.parametrize("ratio", [0.96, 1.03])
def test_a_loop_that_is_stretched_has_no_seam(ratio: float) -> None:
    """Its partials end in another phase than they started with, which would click if it were only cut."""
    turns = [tone(hertz, 4 * RATE) for hertz in (220, 331, 447.5, 600.25)]  # whole turns in 4 s
    loop = sum(turns)[None]  # type: ignore[index]
    length = round(loop.shape[1] * ratio)
    made = stretched(loop, RATE, length, loop=True)
    assert made.shape == (1, length)
    whole = stretched(np.tile(loop, 3), RATE, 3 * length)[:, length : 2 * length]
    assert seam_flux(made[0])[0] < seam_flux(whole[0])[0] / 3


def test_without_the_library_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError) as caught:
        stretched(tone(440, 5000)[None], RATE, 5100)
    assert "the extra `tempo`" in str(caught.value.hint)
