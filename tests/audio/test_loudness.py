"""The target loudness is reached, and no peak exceeds the ceiling."""

from __future__ import annotations

import dataclasses
import io
import math
from typing import Any

import numpy as np
import pyloudnorm
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magnet_cli.audio.finish import Store, write_sound
from magnet_cli.audio.loudness import (
    TOLERANCE,
    Loudness,
    Meter,
    decibels,
    envelope,
    is_held_back,
    level_of,
    levels,
    look_ahead,
    measure,
    peak_of,
    reduction_needed,
    remark,
    true_levels,
)
from magnet_cli.audio.sound import Samples
from magnet_cli.settings import OutputConfig
from tests import sounds

RATE = 32_000


def stored(samples: Samples, rate: int, fade: float = 0.0, fade_out: float | None = None) -> Store:
    fades = fade, fade if fade_out is None else fade_out
    store = Store(io.BytesIO(), samples.shape[0], rate, fades)
    store.append(samples)
    return store


def normalize(
    samples: Samples, rate: int, lufs: float, peak: float, most: float = 24.0, **more: Any
) -> tuple[Samples, Loudness]:
    parts: list[bytes] = []
    output = OutputConfig(bit_depth="float", lufs=lufs, peak=peak, max_limiting=most, **more)
    said = write_sound(parts.append, [samples], rate, "wav", output).loudness
    return sounds.read(io.BytesIO(b"".join(parts))).samples, said


def limit(
    samples: Samples, rate: int, peak: float, release: float = 120.0
) -> tuple[Samples, float]:
    (held,) = stored(samples, rate).limited(0.0, release, peak)
    return held, float(reduction_needed(levels(samples), peak).max())


def fade(samples: Samples, rate: int, seconds: float) -> Samples:
    return stored(samples, rate, seconds).read(0, samples.shape[1])


def noise(seconds: float, level: float = 0.1, channels: int = 1, seed: int = 0) -> Samples:
    drawn = np.random.default_rng(seed).standard_normal((channels, round(seconds * RATE)))
    return (level * drawn).astype(np.float32)


def hits(decay: float, seconds: float = 6.0) -> Samples:
    """Bursts of noise twice a second, which a meter cannot distinguish from drums."""
    samples = noise(seconds, 0.5)
    since = np.arange(samples.shape[1]) % (RATE // 2) / RATE
    return (samples * np.exp(-since / decay)).astype(np.float32)


def kick() -> Samples:
    since = np.arange(6 * RATE) % (RATE // 2) / RATE
    return (0.8 * np.sin(2 * np.pi * 50 * since) * np.exp(-12 * since)).astype(np.float32)[None]


@pytest.mark.parametrize(
    "samples",
    [noise(3), noise(3, channels=2), noise(3, level=1e-3), hits(0.1), hits(0.03), kick()],
    ids=["noise", "stereo", "quiet", "drums", "dry drums", "kick"],
)
@pytest.mark.parametrize("target", [-23.0, -14.0])
def test_loudness_is_met_under_the_ceiling(samples: Samples, target: float) -> None:
    louder, said = normalize(samples, RATE, target, -1.0)
    assert measure(louder, RATE) == pytest.approx(target, abs=TOLERANCE + 0.01)
    assert said.after == pytest.approx(measure(louder, RATE))
    assert np.abs(louder).max() <= 10 ** (-1 / 20)
    assert said.peak == pytest.approx(peak_of(louder))


def test_a_sound_that_fits_is_only_scaled() -> None:
    samples = noise(3)
    louder, said = normalize(samples, RATE, -20.0, -1.0)
    assert said.reduction == 0.0
    np.testing.assert_allclose(louder, samples * 10 ** (said.gain / 20), rtol=1e-6)


def test_hard_work_is_told() -> None:
    assert normalize(hits(0.03), RATE, -14.0, -1.0)[1].worked_hard
    assert not normalize(noise(3), RATE, -14.0, -1.0)[1].worked_hard


def test_the_limiter_gives_no_more_than_it_may() -> None:
    """Drums were limited by 7 to 18 dB to be as loud as a pad, and the warning sounded like the user's
    mistake."""
    louder, said = normalize(hits(0.03), RATE, -14.0, -1.0, 4.0)
    assert said.reduction == pytest.approx(4.0, abs=0.01)
    assert said.after < -15
    assert np.abs(louder).max() <= 10 ** (-1 / 20)
    assert is_held_back(said, OutputConfig())
    assert remark(said, OutputConfig()) == ""
    pad, said = normalize(noise(3), RATE, -14.0, -1.0, 4.0)
    assert measure(pad, RATE) == pytest.approx(-14.0, abs=TOLERANCE + 0.01)
    assert not is_held_back(said, OutputConfig())
    # A click below the meter's gate: batches reported "at -inf LUFS".
    assert not is_held_back(dataclasses.replace(said, after=-math.inf), OutputConfig())
    untouched, said = normalize(hits(0.03), RATE, -14.0, -1.0, 0.0)
    assert said.reduction == 0.0
    np.testing.assert_allclose(untouched, hits(0.03) * 10 ** (said.gain / 20), rtol=1e-5)


@pytest.mark.parametrize("rate", [8000, RATE])
def test_true_peaks_are_held_under_the_ceiling(rate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tone at a quarter of the rate, sampled off its crests, is 3 dB higher between its samples."""
    monkeypatch.setattr("magnet_cli.audio.finish.BLOCK", 5000)
    times = np.arange(2 * rate)
    tone = np.sin(np.pi / 2 * times + np.pi / 4) * np.exp(-(times % (rate // 2)) / rate * 12)
    samples = tone.astype(np.float32)[None]
    peaks = {}
    for held in (False, True):
        louder, _ = normalize(samples, rate, -6.0, -1.0, 12.0, true_peak=held)
        peaks[held] = decibels(true_levels(louder).max())
        assert np.abs(louder).max() <= 10 ** (-1 / 20)
    assert peaks[False] > 0.5
    assert peaks[True] < -0.9


@pytest.mark.parametrize("size", [7, 32, 33, 1000, 5000])
def test_a_level_in_blocks_is_the_level(size: int) -> None:
    samples = hits(0.1, 0.2) + np.sin(np.pi / 2 * np.arange(6400) + np.pi / 4)
    samples = samples.astype(np.float32)
    blocks = [samples[:, at : at + size] for at in range(0, samples.shape[1], size)]
    level = level_of(blocks, 1, RATE)
    assert level.true_peak == pytest.approx(decibels(true_levels(samples).max()), abs=1e-3)
    assert level.peak == pytest.approx(peak_of(samples))
    assert level.true_peak > level.peak


def test_what_lies_between_samples_is_what_scipy_makes_of_them() -> None:
    from scipy.signal import resample_poly

    samples = noise(0.2, channels=2)
    made = np.abs(resample_poly(samples, 4, 1, axis=1)).max(axis=0)
    wanted = np.abs(samples).max(axis=0)
    for way in (1, 2, 3):
        wanted = np.maximum(wanted, made[way::4])
        wanted[1:] = np.maximum(wanted[1:], made[way:-4:4])
    np.testing.assert_allclose(true_levels(samples)[20:-20], wanted[20:-20], rtol=2e-3)


def test_true_peaks_are_held_in_lossy_files_alone_unless_asked_for() -> None:
    assert not OutputConfig().decided("wav").true_peak
    assert OutputConfig().decided("opus").true_peak
    assert OutputConfig(true_peak=True).decided("wav").true_peak
    assert OutputConfig(true_peak=False).decided("mp3").true_peak is False


def test_loudness_is_given_up_before_the_sound_is() -> None:
    """A single click cannot be as loud as music: the limiter stops at its maximum."""
    click = np.zeros((1, 3 * RATE), np.float32)
    click[0, RATE] = 1.0
    louder, said = normalize(click, RATE, -14.0, -1.0)
    assert said.after < -14.5
    assert said.reduction <= 24.001
    assert np.abs(louder).max() <= 10 ** (-1 / 20)


@pytest.mark.parametrize("samples", [np.zeros((1, RATE)), np.zeros((2, 3)), 1e-4 * noise(1)])
def test_silence_stays_as_it_is(samples: Samples) -> None:
    samples = samples.astype(np.float32)
    left, said = normalize(samples, RATE, -14.0, -1.0)
    np.testing.assert_array_equal(left, samples)
    assert said.silent


@pytest.mark.parametrize("length", [1, 2, 100, RATE // 5, round(0.4 * RATE), round(0.4 * RATE) + 1])
def test_sounds_too_short_for_the_meter_are_measured(length: int) -> None:
    samples = noise(1)[:, :length]
    louder, said = normalize(samples, RATE, -20.0, -1.0)
    assert math.isfinite(said.before)
    assert louder.shape == samples.shape
    assert np.abs(louder).max() <= 10 ** (-1 / 20)


def test_the_meter_agrees_with_the_standard() -> None:
    """BS.1770: a full-scale sine of 997 Hz in one channel measures -3.01 LUFS."""
    times = np.arange(5 * 48_000) / 48_000
    sine = np.sin(2 * np.pi * 997 * times).astype(np.float32)[None]
    assert measure(sine, 48_000) == pytest.approx(-3.01, abs=0.05)


@pytest.mark.parametrize("rate", [8000, 22_050, 32_000, 44_100, 96_000])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_the_meter_agrees_with_pyloudnorm(rate: int, channels: int) -> None:
    """Ours does not import scipy.signal, which takes a second; pyloudnorm is the reference."""
    draw = np.random.default_rng(rate + channels)
    for length in (round(0.4 * rate) + 1, 2 * rate + 17):
        since = np.arange(length) % (rate // 2) / rate
        samples = draw.standard_normal((channels, length)) * np.exp(-since / 0.1)
        theirs = pyloudnorm.Meter(rate).integrated_loudness(samples.T.copy())
        assert measure(samples.astype(np.float64), rate) == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("rate", [10, 60, 1000, 2000, 2990, 3000, 3200, 3700, 4000])
def test_the_meter_is_stable_at_any_rate(rate: int) -> None:
    """Below 3000 Hz its shelf lay above half the rate: noise measured up to 800 LUFS, or silence."""
    noise = 0.1 * np.random.default_rng(rate).standard_normal((1, 10 * rate))
    assert measure(noise, rate) == pytest.approx(-20.7, abs=4)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), lengths=st.lists(st.integers(0, 9000), min_size=1, max_size=9))
def test_the_meter_hears_pieces_as_the_whole(seed: int, lengths: list[int]) -> None:
    samples = np.random.default_rng(seed).standard_normal((2, 4000 + sum(lengths)))
    meter, done = Meter(2, 8000), 0
    for length in [*lengths, 4000]:
        meter.add(samples[:, done : done + length])
        done += length
    assert meter.loudness() == pytest.approx(measure(samples, 8000), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    length=st.integers(1, 700),
    rate=st.sampled_from([90, 1000, 16_000]),
    release=st.floats(10, 5000),
)
def test_the_limiters_gain_is_what_its_words_say(
    seed: int, length: int, rate: int, release: float
) -> None:
    draw = np.random.default_rng(seed)
    needed = draw.random(length) * (draw.random(length) < 0.1) * 20
    smooth, released = envelope(needed, rate, release)
    fall = release / rate
    plain, state = [], 0.0
    for value in needed:
        state = max(state - fall, value, 0.0)
        plain.append(state)
    np.testing.assert_allclose(released, plain, atol=1e-8)
    width = look_ahead(rate)
    ahead = [released[i : i + width].max() for i in range(length)]
    before = [ahead[0]] * (width - 1) + ahead
    mean = [np.mean(before[i : i + width]) for i in range(length)]
    np.testing.assert_allclose(smooth, mean, atol=1e-8)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    channels=st.integers(1, 2),
    length=st.integers(1, 4000),
    gain=st.floats(0.001, 300),
    peak=st.floats(-40, 0),
    rate=st.sampled_from([8000, 16_000, 44_100]),
    release=st.floats(10, 5000),
)
def test_no_sample_passes_the_ceiling(
    seed: int, channels: int, length: int, gain: float, peak: float, rate: int, release: float
) -> None:
    draw = np.random.default_rng(seed)
    # Sparse spikes over a quiet bed: the hardest input for a limiter.
    samples = draw.standard_normal((channels, length)) * (draw.random((channels, length)) < 0.05)
    samples = (gain * (samples + 0.01 * draw.standard_normal((channels, length)))).astype("float32")
    held, reduction = limit(samples, rate, peak, release)
    ceiling = 10 ** (peak / 20)
    assert np.abs(held).max() <= ceiling
    assert held.shape == samples.shape
    if np.abs(samples).max() <= ceiling:
        np.testing.assert_array_equal(held, samples)
        assert reduction == 0.0
    else:
        over = 20 * math.log10(np.abs(samples).max() / ceiling)
        assert reduction == pytest.approx(over, abs=1e-3)


def test_the_limiter_does_the_work_not_the_clip_behind_it() -> None:
    """The smooth gain alone keeps the ceiling; the final clipping only removes rounding."""
    from unittest import mock

    samples = hits(0.02) * 8
    with mock.patch("numpy.clip", side_effect=lambda a, low, high: a):
        held, _ = limit(samples, RATE, -1.0)
    assert np.abs(held).max() <= 10 ** (-1 / 20) * (1 + 1e-6)


def test_the_gain_is_smooth_and_the_same_in_all_channels() -> None:
    bed = np.full((2, RATE), 0.1, np.float32)
    bed[1] = 0.2
    bed[0, RATE // 2] = 2.0
    held, _ = limit(bed, RATE, -6.0)
    quiet = np.delete(np.arange(RATE), RATE // 2)
    gains = held[:, quiet] / bed[:, quiet]
    np.testing.assert_allclose(gains[0], gains[1], rtol=1e-5)
    assert np.abs(np.diff(20 * np.log10(gains[0]))).max() < 0.2  # dB from sample to sample
    assert gains.min() == pytest.approx(10 ** (-6 / 20) / 2.0, rel=0.05)
    assert gains[0, 0] == pytest.approx(1.0, abs=1e-6)  # long before the peak
    assert gains[0, -1] == pytest.approx(1.0, abs=1e-6)  # and long after it


def test_fade_rises_from_and_falls_to_nothing() -> None:
    samples = np.ones((2, RATE), np.float32)
    faded = fade(samples, RATE, 0.1)
    assert faded[:, 0].max() < 0.01
    assert faded[:, -1].max() < 0.01
    assert (np.diff(faded[0, : RATE // 10]) > 0).all()
    np.testing.assert_array_equal(faded[:, RATE // 10 : -RATE // 10], 1.0)
    np.testing.assert_array_equal(fade(samples, RATE, 0.0), samples)


def test_a_fade_in_and_a_fade_out_of_their_own() -> None:
    assert OutputConfig(fade=(0.1, 2)).fades == (0.1, 2.0)
    assert OutputConfig(fade=0.5).fades == (0.5, 0.5)  # type: ignore[arg-type]
    faded = stored(np.ones((1, RATE), np.float32), RATE, 0.1, 0.5).read(0, RATE)
    np.testing.assert_array_equal(faded[0, RATE // 10 : RATE // 2], 1.0)
    assert faded[0, RATE // 2 + 100] < 1.0
    assert max(faded[0, 0], faded[0, -1]) < 0.01
    long = stored(np.ones((1, RATE), np.float32), RATE, 1.0, 3.0).read(0, RATE)
    assert int(long.argmax()) == pytest.approx(RATE / 4, abs=1)
    only_out = stored(np.ones((1, RATE), np.float32), RATE, 0.0, 0.5).read(0, RATE)
    assert only_out[0, 0] == 1.0


def test_fades_longer_than_the_sound_meet_in_the_middle() -> None:
    faded = fade(np.ones((1, 100), np.float32), RATE, 60.0)
    assert faded.shape == (1, 100)
    assert faded[0, 0] < 0.01
    assert faded[0, 49] > 0.99
