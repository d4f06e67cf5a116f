"""A picture of a sound: its waveform above its spectrogram, with time and frequency to read off."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from magnet_cli.audio.sound import Samples
from magnet_cli.files import atomic_path, write_error

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

_WIDTH, _WAVE, _HEIGHT = 1100, 110, 420  # pixels of the plots: columns, rows of each
_LEFT, _TOP, _GAP, _RIGHT, _BOTTOM = 84, 48, 18, 96, 54  # pixels around and between them
_WINDOW = 2048  # samples of a spectrum
_FRAMES_A_COLUMN = 4  # spectra averaged for one column of pixels
_RANGE = 80.0  # dB from the loudest to black
_LOWEST = 40.0  # Hz at the bottom
_FONT = 15

_PAPER, _INK, _FAINT, _WAVE_INK = (255, 255, 255), (40, 40, 40), (205, 205, 205), (66, 92, 150)

# From black through purple and orange to pale yellow, brightness rising evenly: the eye reads
# brightness as level, and so does a black and white print.
_COLOURS = np.array(
    [
        (0, 0, 4),
        (40, 17, 89),
        (114, 31, 129),
        (183, 55, 121),
        (241, 96, 93),
        (254, 175, 119),
        (252, 253, 191),
    ],
    dtype=np.float32,
)


def draw(path: str | os.PathLike[str], samples: Samples, sample_rate: int, title: str = "") -> None:
    """Draw [C, N] into a PNG file. Raises AudioFileError: the file cannot be written."""
    from PIL import Image, ImageDraw

    mono = samples.mean(axis=0)
    size = (_LEFT + _WIDTH + _RIGHT, _TOP + _WAVE + _GAP + _HEIGHT + _BOTTOM)
    image = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(image)
    spectrum_top = _TOP + _WAVE + _GAP
    levels = spectrogram(mono, sample_rate, _WIDTH, _HEIGHT)
    image.paste(Image.fromarray(_colour(levels / _RANGE + 1.0)), (_LEFT, spectrum_top))
    _draw_wave(pen, mono)
    _draw_axes(pen, spectrum_top, len(mono) / sample_rate, sample_rate)
    _draw_scale(pen, spectrum_top)
    pen.text((_LEFT, _TOP // 2), _shortened(title), fill=_INK, font=_font(_FONT + 2), anchor="lm")
    try:
        with atomic_path(path) as partial:
            image.save(partial, format="PNG")
    except OSError as error:
        raise write_error(path, error) from error


def spectrogram(
    mono: npt.NDArray[np.float32], sample_rate: int, columns: int, rows: int
) -> npt.NDArray[np.float32]:
    """Levels [rows, columns] in dB under the loudest, -80..0; frequency falls from top to bottom.

    Rows are spaced by the logarithm of frequency, as the ear hears it.
    """
    frames = columns * _FRAMES_A_COLUMN
    centres = np.linspace(0, len(mono), frames, endpoint=False) + len(mono) / frames / 2
    padded = np.pad(mono, _WINDOW // 2)
    index = centres.astype(np.int64)[:, None] + np.arange(_WINDOW)
    window = np.hanning(_WINDOW).astype(np.float32)
    power = np.abs(np.fft.rfft(padded[index] * window, axis=1)) ** 2  # [frames, bins]
    power = power.reshape(columns, _FRAMES_A_COLUMN, -1).mean(axis=1)
    wanted = np.geomspace(sample_rate / 2, _LOWEST, rows) * _WINDOW / sample_rate
    below = np.minimum(wanted.astype(np.int64), power.shape[1] - 2)
    part = (wanted - below).astype(np.float32)
    lines = power[:, below] * (1 - part) + power[:, below + 1] * part  # [columns, rows]
    decibels = 10 * np.log10(np.maximum(lines, 1e-20))
    loudest = decibels.max() if power.max() > 1e-12 else math.inf
    return np.clip(decibels - loudest, -_RANGE, 0.0).T.astype(np.float32)


def time_ticks(duration: float) -> list[float]:
    """Round times from 0 to `duration` seconds, ten or so."""
    step = 10.0 ** math.floor(math.log10(max(duration, 1e-3) / 10))
    step = next(step * factor for factor in (1, 2, 5, 10) if duration / (step * factor) <= 12)
    return [round(step * n, 6) for n in range(int(duration / step + 1e-6) + 1)]


def frequency_ticks(sample_rate: int) -> list[int]:
    """Round frequencies in Hz from the lowest shown to half of the rate."""
    marks = (50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000)
    return [mark for mark in marks if mark <= sample_rate / 2]


def _colour(shares: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """0..1 [rows, columns] -> RGB [rows, columns, 3]."""
    at = np.linspace(0, 1, len(_COLOURS))
    return np.stack(
        [np.interp(shares, at, _COLOURS[:, channel]) for channel in range(3)], axis=-1
    ).astype(np.uint8)


def _draw_wave(pen: ImageDraw, mono: npt.NDArray[np.float32]) -> None:
    """The lowest and highest sample of every column, over -1..1."""
    edges = np.linspace(0, len(mono), _WIDTH + 1).astype(np.int64)
    middle, half = _TOP + _WAVE / 2, _WAVE / 2
    for column in range(_WIDTH):
        piece = mono[edges[column] : max(edges[column + 1], edges[column] + 1)]
        low, high = (float(np.clip(value, -1, 1)) for value in (piece.min(), piece.max()))
        x = _LEFT + column
        pen.line([(x, middle - high * half), (x, middle - low * half)], fill=_WAVE_INK)
    pen.rectangle((_LEFT - 1, _TOP, _LEFT + _WIDTH, _TOP + _WAVE), outline=_FAINT)
    for value in (1, 0, -1):
        pen.text(
            (_LEFT - 10, middle - value * half), str(value), fill=_INK, font=_font(), anchor="rm"
        )


def _draw_axes(pen: ImageDraw, top: int, duration: float, sample_rate: int) -> None:
    bottom = top + _HEIGHT
    for seconds in time_ticks(duration):
        x = _LEFT + _WIDTH * seconds / duration
        pen.line([(x, bottom), (x, bottom + 6)], fill=_INK)
        pen.text((x, bottom + 10), f"{seconds:g}", fill=_INK, font=_font(), anchor="mt")
    centre = _LEFT + _WIDTH / 2
    pen.text((centre, bottom + 30), "time (s)", fill=_INK, font=_font(), anchor="mt")
    span = math.log(sample_rate / 2 / _LOWEST)
    for hertz in frequency_ticks(sample_rate):
        y = top + _HEIGHT * math.log(sample_rate / 2 / hertz) / span
        label = f"{hertz // 1000} kHz" if hertz >= 1000 else f"{hertz} Hz"
        pen.line([(_LEFT - 6, y), (_LEFT, y)], fill=_INK)
        pen.text((_LEFT - 10, y), label, fill=_INK, font=_font(), anchor="rm")


def _draw_scale(pen: ImageDraw, top: int) -> None:
    """The bar that says what the colours mean."""
    left = _LEFT + _WIDTH + 18
    for row in range(_HEIGHT):
        shade = _colour(np.array([[1 - row / _HEIGHT]], np.float32))[0, 0]
        pen.line([(left, top + row), (left + 14, top + row)], fill=tuple(int(c) for c in shade))
    for decibels in range(0, -int(_RANGE) - 1, -20):
        y = top - _HEIGHT * decibels / _RANGE
        label = "0 dB" if decibels == 0 else str(decibels)
        pen.text((left + 20, y), label, fill=_INK, font=_font(), anchor="lm")


def _font(size: int = _FONT) -> ImageFont | FreeTypeFont:
    """Pillow's own font: no file of the system is needed."""
    from PIL.ImageFont import load_default

    return load_default(size)


def _shortened(title: str, longest: int = 110) -> str:
    """What the font can show of a title: it has the letters of western Europe."""
    shown = title.encode("latin-1", "replace").decode("latin-1")
    return shown if len(shown) <= longest else shown[: longest - 3] + "..."
