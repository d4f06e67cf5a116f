"""Pictures of a sound: waveform and spectrogram, with axes or as a thumbnail."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from magnet_cli.audio.sound import Samples
from magnet_cli.files import written

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

Mono = npt.NDArray[np.float32]  # [samples]

_WIDTH, _WAVE, _HEIGHT = 1100, 110, 420  # pixels: columns, rows of the waveform and the spectrogram
_LEFT, _TOP, _GAP, _RIGHT, _BOTTOM = 84, 48, 18, 96, 54  # pixels around and between them
_WINDOW = 2048  # samples per spectrum
_FRAMES_A_COLUMN = 4  # spectra averaged per column
_RANGE = 80.0  # dB from the loudest to black
_LOWEST = 40.0  # Hz at the bottom
_FONT = 15

SMALL = (440, 84)  # columns and rows of a thumbnail's spectrogram
_SMALL_WAVE, _SHADES = 36, 48  # rows of its waveform, number of colours: fewer make smaller files
_SMALL_INK = (150, 178, 228)

_PAPER, _INK, _FAINT, _WAVE_INK = (255, 255, 255), (40, 40, 40), (205, 205, 205), (66, 92, 150)

# From black through purple and orange to pale yellow with evenly rising brightness, which reads as level,
# also in black and white.
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


def draw(path: str | os.PathLike[str], portrait: Portrait, title: str = "") -> None:
    """Draw a portrait as a PNG file. Raises AudioFileError if the file cannot be written."""
    from PIL import Image, ImageDraw

    size = (_LEFT + _WIDTH + _RIGHT, _TOP + _WAVE + _GAP + _HEIGHT + _BOTTOM)
    image = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(image)
    spectrum_top = _TOP + _WAVE + _GAP
    image.paste(Image.fromarray(_colour(portrait.levels() / _RANGE + 1.0)), (_LEFT, spectrum_top))
    _draw_wave(pen, portrait)
    _draw_axes(pen, spectrum_top, portrait.length / portrait.sample_rate, portrait.sample_rate)
    _draw_scale(pen, spectrum_top)
    pen.text((_LEFT, _TOP // 2), _shortened(title), fill=_INK, font=_font(_FONT + 2), anchor="lm")
    with written(path) as partial:
        image.save(partial, format="PNG")


def thumbnail(portrait: Portrait) -> Image:
    """A small paletted picture: waveform over spectrogram, on black, without axes.

    Args:
        portrait: of so many columns and rows as SMALL says.
    """
    from PIL import Image

    levels = portrait.levels()
    picture = np.zeros((_SMALL_WAVE + 2 + len(levels), levels.shape[1]), np.uint8)
    picture[_SMALL_WAVE + 2 :] = ((levels / _RANGE + 1.0) * (_SHADES - 1)).round()
    edges = np.clip([portrait.high, portrait.low], -1, 1)
    top, bottom = ((1 - edges) * ((_SMALL_WAVE - 1) / 2)).round()
    height = np.arange(_SMALL_WAVE)[:, None]
    picture[:_SMALL_WAVE][(height >= top) & (height <= bottom)] = _SHADES
    image = Image.fromarray(picture)
    palette = _colour(np.linspace(0, 1, _SHADES, dtype=np.float32)[None])[0]
    image.putpalette([*palette.flatten().tolist(), *_SMALL_INK])
    return image


class Portrait:
    """The data of a picture, collected from a sound given in blocks.

    Attributes:
        length, sample_rate: samples per channel, and Hz.
        low, high: the lowest and highest sample in each column.
    """

    def __init__(
        self, length: int, sample_rate: int, columns: int = _WIDTH, rows: int = _HEIGHT
    ) -> None:
        self.length, self.sample_rate = length, sample_rate
        self.low, self.high = np.zeros(columns), np.zeros(columns)
        frames = columns * _FRAMES_A_COLUMN
        centres = np.linspace(0, length, frames, endpoint=False) + length / frames / 2
        self._starts = centres.astype(np.int64)  # of windows, after half a window of silence
        self._lines = np.zeros((columns, rows))  # power
        self._done = 0  # frames
        self._at = 0  # position of `_kept` in silence and sound
        self._kept = np.zeros(_WINDOW // 2, np.float32)
        self._seen = 0

    def watched(self, blocks: Iterable[Samples]) -> Iterator[Samples]:
        """Yield the same blocks [C, n] after collecting their data; NaN and infinite values count as 0."""
        for block in blocks:
            mono = np.nan_to_num(block, posinf=0.0, neginf=0.0).mean(axis=0)
            self._wave(mono)
            self._spectra(mono)
            yield block
        self._spectra(np.zeros(_WINDOW, np.float32))

    def _wave(self, mono: Mono) -> None:
        edges = np.linspace(0, self.length, len(self.low) + 1).astype(np.int64)
        starts, stops = edges[:-1], np.maximum(edges[1:], edges[:-1] + 1)
        first, last = self._seen, self._seen + len(mono)
        self._seen = last
        begin, end = np.searchsorted(stops, first, "right"), np.searchsorted(starts, last)
        for column in range(int(begin), int(end)):
            piece = mono[max(starts[column] - first, 0) : stops[column] - first]
            low, high = float(piece.min()), float(piece.max())
            fresh = starts[column] >= first  # the column has no samples yet
            self.low[column] = low if fresh else min(low, self.low[column])
            self.high[column] = high if fresh else max(high, self.high[column])

    def _spectra(self, mono: Mono) -> None:
        self._kept = np.concatenate([self._kept, mono])
        ready = np.searchsorted(self._starts, self._at + len(self._kept) - _WINDOW, "right")
        window = np.hanning(_WINDOW).astype(np.float32)
        rows = self._lines.shape[1]
        wanted = np.geomspace(self.sample_rate / 2, _LOWEST, rows) * _WINDOW / self.sample_rate
        below = np.minimum(wanted.astype(np.int64), _WINDOW // 2 - 1)
        part = wanted - below
        for first in range(self._done, int(ready), 256):
            frames = np.arange(first, min(first + 256, int(ready)))
            index = (self._starts[frames] - self._at)[:, None] + np.arange(_WINDOW)
            power = np.abs(np.fft.rfft(self._kept[index] * window, axis=1)) ** 2  # [frames, bins]
            lines = power[:, below] * (1 - part) + power[:, below + 1] * part
            np.add.at(self._lines, frames // _FRAMES_A_COLUMN, lines / _FRAMES_A_COLUMN)
        self._done = int(ready)
        used = int(self._starts[self._done]) - self._at if self._done < len(self._starts) else 0
        used = min(max(used, 0), len(self._kept))
        self._kept, self._at = self._kept[used:].copy(), self._at + used

    def levels(self) -> npt.NDArray[np.float32]:
        """Levels [rows, columns] in dB relative to the loudest, -80..0, with high frequencies at the top.

        Rows are spaced logarithmically in frequency.
        """
        decibels = 10 * np.log10(np.maximum(self._lines, 1e-20))
        loudest = decibels.max() if self._lines.max() > 1e-12 else math.inf
        return np.clip(decibels - loudest, -_RANGE, 0.0).T.astype(np.float32)


def time_ticks(duration: float) -> list[float]:
    """About ten round times from 0 to `duration` seconds."""
    step = 10.0 ** math.floor(math.log10(max(duration, 1e-3) / 10))
    step = next(step * factor for factor in (1, 2, 5, 10) if duration / (step * factor) <= 12)
    return [round(step * n, 6) for n in range(int(duration / step + 1e-6) + 1)]


def frequency_ticks(sample_rate: int) -> list[int]:
    """Round frequencies in Hz up to half the sample rate."""
    marks = (50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000)
    return [mark for mark in marks if mark <= sample_rate / 2]


def _colour(shares: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Map 0..1 [rows, columns] to RGB [rows, columns, 3]."""
    at = np.linspace(0, 1, len(_COLOURS))
    return np.stack(
        [np.interp(shares, at, _COLOURS[:, channel]) for channel in range(3)], axis=-1
    ).astype(np.uint8)


def _draw_wave(pen: ImageDraw, portrait: Portrait) -> None:
    """Draw the lowest and highest sample of every column, on a scale of -1..1."""
    middle, half = _TOP + _WAVE / 2, _WAVE / 2
    for column in range(_WIDTH):
        low, high = np.clip([portrait.low[column], portrait.high[column]], -1, 1).tolist()
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
    """Draw the colour scale."""
    left = _LEFT + _WIDTH + 18
    for row in range(_HEIGHT):
        shade = _colour(np.array([[1 - row / _HEIGHT]], np.float32))[0, 0]
        pen.line([(left, top + row), (left + 14, top + row)], fill=tuple(int(c) for c in shade))
    for decibels in range(0, -int(_RANGE) - 1, -20):
        y = top - _HEIGHT * decibels / _RANGE
        label = "0 dB" if decibels == 0 else str(decibels)
        pen.text((left + 20, y), label, fill=_INK, font=_font(), anchor="lm")


def _font(size: int = _FONT) -> ImageFont | FreeTypeFont:
    """Pillow's built-in font, which needs no file of the system."""
    from PIL.ImageFont import load_default

    return load_default(size)


def _shortened(title: str) -> str:
    """Shorten a title and replace characters that the font lacks (outside Latin-1)."""
    shown = title.encode("latin-1", "replace").decode("latin-1")
    return shown if len(shown) <= 110 else shown[:107] + "..."
