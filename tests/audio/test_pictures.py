"""Pictures show the audio's content at the positions given by the axes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from magnet_cli.audio.pictures import SMALL, Portrait, draw, frequency_ticks, thumbnail, time_ticks
from magnet_cli.errors import AudioFileError


def sine(hertz: float, rate: int = 32_000, seconds: float = 1.0) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate).astype(np.float32)


def portrait(
    mono: np.ndarray, rate: int, columns: int = 1100, rows: int = 420, block: int = 5000
) -> Portrait:
    """The portrait of a sound that arrives in blocks."""
    made = Portrait(len(mono), rate, columns, rows)
    parts = (mono[None, at : at + block].astype(np.float32) for at in range(0, len(mono), block))
    assert sum(part.shape[1] for part in made.watched(parts)) == len(mono)
    return made


def spectrogram(mono: np.ndarray, rate: int, columns: int, rows: int) -> np.ndarray:
    return portrait(mono, rate, columns, rows).levels()


def slow(mono: np.ndarray, rate: int, columns: int, rows: int) -> np.ndarray:
    """All at once: four spectra per column, 2048 samples each, around evenly spaced positions."""
    centres = np.linspace(0, len(mono), 4 * columns, endpoint=False) + len(mono) / columns / 8
    padded = np.pad(mono, 2048)
    found = np.zeros((columns, 1025))
    for number, centre in enumerate(centres.astype(int)):
        window = padded[centre + 1024 : centre + 3072] * np.hanning(2048)
        found[number // 4] += np.abs(np.fft.rfft(window)) ** 2 / 4
    wanted = np.geomspace(rate / 2, 40, rows) * 2048 / rate
    lines = np.stack([np.interp(wanted, np.arange(1025), one) for one in found])
    levels = 10 * np.log10(np.maximum(lines, 1e-20))
    return np.clip(levels - levels.max(), -80, 0).T


@pytest.mark.parametrize("block", [97, 5000, 65_536])
@pytest.mark.parametrize("length", [3000, 40_000])
def test_blocks_and_all_at_once_are_one_picture(length: int, block: int) -> None:
    mono = sine(440, seconds=2)[:length] + 0.1 * np.random.default_rng(0).standard_normal(length)
    mono = mono.astype(np.float32)
    seen = portrait(mono, 32_000, 50, 100, block)
    expected = slow(mono, 32_000, 50, 100)
    np.testing.assert_allclose(seen.levels(), expected, atol=0.05)
    edges = np.linspace(0, length, 51).astype(int)
    for column in range(50):
        piece = mono[edges[column] : edges[column + 1]]
        assert (seen.low[column], seen.high[column]) == (piece.min(), piece.max())


@pytest.mark.parametrize("hertz", [100, 440, 1000, 5000])
def test_a_tone_is_at_its_frequency(hertz: float) -> None:
    levels = spectrogram(sine(hertz), 32_000, columns=50, rows=400)
    row = int(levels[:, 25].argmax())
    shown = 16_000 * (40 / 16_000) ** (row / 399)
    assert shown == pytest.approx(hertz, rel=0.1)


def test_a_burst_is_at_its_time() -> None:
    sound = np.zeros(32_000, np.float32)
    sound[16_000:19_200] = sine(1000)[:3200]
    levels = spectrogram(sound, 32_000, columns=100, rows=100).max(axis=0)
    loud = np.flatnonzero(levels > -20)
    assert 46 <= loud[0] <= 51
    assert 58 <= loud[-1] <= 63


def test_levels_are_decibels_under_the_loudest() -> None:
    quiet = sine(1000) * np.where(np.arange(32_000) < 16_000, 1.0, 0.01).astype(np.float32)
    levels = spectrogram(quiet, 32_000, columns=100, rows=400).max(axis=0)
    assert levels[20] == pytest.approx(0, abs=0.5)
    assert levels[80] == pytest.approx(-40, abs=0.5)


@pytest.mark.parametrize("sound", [np.zeros(10), np.zeros(32_000), np.ones(1), sine(50, 8000, 3)])
def test_any_sound_can_be_drawn(tmp_path: Path, sound: np.ndarray) -> None:
    path = tmp_path / "picture.png"
    draw(path, portrait(sound, 8000), "a title – ピアノ")
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.size[0] > 1000


def test_a_picture_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(AudioFileError):
        draw(tmp_path / "nowhere" / "picture.png", portrait(sine(440), 32_000))


@pytest.mark.parametrize("duration", [0.01, 0.4, 1, 10, 29.9, 180, 4000])
def test_time_ticks_are_few_and_inside(duration: float) -> None:
    ticks = time_ticks(duration)
    assert 3 <= len(ticks) <= 13
    assert ticks[0] == 0
    assert ticks[-1] <= duration * (1 + 1e-6)


def test_frequency_ticks_end_at_half_the_rate() -> None:
    assert frequency_ticks(16_000)[-1] == 5000
    assert all(math.log10(tick) % 1 < 0.7 for tick in frequency_ticks(48_000))


def test_a_thumbnail_is_small_and_shows_both() -> None:
    sound = np.concatenate([np.zeros(16_000, np.float32), sine(1000)[:16_000]])[None]
    portrait = Portrait(32_000, 32_000, *SMALL)
    for _ in portrait.watched([sound[:, :20_000], sound[:, 20_000:]]):
        pass
    picture = np.asarray(thumbnail(portrait).convert("L"), dtype=np.float32)
    assert picture.shape == (122, 440)
    wave, spectrum = picture[:36], picture[38:]
    assert np.count_nonzero(wave[:, 100] > 100) == 1  # silence: a line in the middle
    assert np.count_nonzero(wave[:, 300] > 100) == 36
    assert spectrum[:, 100].max() < 10
    row = int(spectrum[:, 330].argmax())
    assert 16_000 * (40 / 16_000) ** (row / 83) == pytest.approx(1000, rel=0.1)
