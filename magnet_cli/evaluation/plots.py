"""Plots as PNG files: figures with intervals in panels side by side, and throughput over latency."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from magnet_cli.evaluation.statistics import Estimate
from magnet_cli.evaluation.table import Comparison
from magnet_cli.files import written

_ROW, _PANEL, _NAMES, _PAD, _HEAD, _BELOW = 30, 330, 300, 24, 64, 44  # pixels
_FONT = 15
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_PAPER, _INK, _FAINT = (255, 255, 255), (40, 40, 40), (215, 215, 215)
_MARK, _BASE = (47, 93, 158), (176, 84, 44)
# Replacements for characters that pillow's built-in font lacks.
_WORDS = str.maketrans(
    {"↓": "(lower is better)", "↑": "(higher is better)", "∞": " extrapolated", "−": "-"}
)


@dataclass(frozen=True)
class Panel:
    """One figure for all rows.

    Attributes:
        line: a value to mark with a vertical line, such as 0 or the baseline's.
    """

    heading: str
    cells: Mapping[str, Estimate]
    line: float | None = None


def draw_intervals(
    path: str | os.PathLike[str],
    rows: Sequence[str],
    panels: Sequence[Panel],
    title: str = "",
    marked: str | None = None,
) -> None:
    """Draw estimates with intervals as a PNG file.

    Args:
        path: the file to write.
        rows: row names from the top.
        panels: the figures; a row that a panel lacks stays empty.
        title: heading of the picture.
        marked: a row to draw in another colour, such as the baseline.

    Raises:
        AudioFileError: the file cannot be written.
    """
    width = _NAMES + len(panels) * (_PANEL + _PAD) + _PAD
    height = _HEAD + len(rows) * _ROW + _BELOW
    image, pen, font = _sheet(width, height)
    pen.text((_PAD, 12), title, _INK, font)
    for place, name in enumerate(rows):
        middle = _HEAD + place * _ROW + _ROW // 2
        pen.line([(_NAMES, middle), (width - _PAD, middle)], _FAINT)
        colour = _BASE if name == marked else _INK
        pen.text((_NAMES - 10, middle), _fitting(name, pen, font), colour, font, anchor="rm")
    for number, panel in enumerate(panels):
        left = _NAMES + number * (_PANEL + _PAD)
        low, high, step = _scale(panel)

        def x(value: float, left: int = left, low: float = low, high: float = high) -> float:
            return left + 10 + (value - low) / (high - low) * (_PANEL - 20)

        heading = panel.heading.translate(_WORDS)
        pen.text((left + _PANEL // 2, _HEAD - 18), heading, _INK, font, anchor="mm")
        bottom = _HEAD + len(rows) * _ROW
        tick = math.ceil(low / step) * step
        while tick <= high + step * 1e-9:
            pen.line([(x(tick), _HEAD), (x(tick), bottom)], _FAINT)
            pen.text((x(tick), bottom + 16), f"{tick:.6g}", _INK, font, anchor="mm")
            tick = round(tick / step + 1) * step
        if panel.line is not None and low <= panel.line <= high:
            pen.line([(x(panel.line), _HEAD), (x(panel.line), bottom)], _BASE, 2)
        for place, name in enumerate(rows):
            cell = panel.cells.get(name)
            if cell is None or not math.isfinite(cell.value):
                continue
            middle = _HEAD + place * _ROW + _ROW // 2
            colour = _BASE if name == marked else _MARK
            if math.isfinite(cell.low) and math.isfinite(cell.high):
                pen.line([(x(cell.low), middle), (x(cell.high), middle)], colour, 3)
            at = x(cell.value)
            pen.ellipse([at - 5, middle - 5, at + 5, middle + 5], colour)
    with written(path) as partial:
        image.save(partial, "PNG")


def draw_comparison(
    path: str | os.PathLike[str], found: Comparison, title: str = "", differences: bool = False
) -> None:
    """Draw a comparison's figures, or each system's differences from the baseline, one panel per column.
    Raises AudioFileError: the file cannot be written."""
    lines = found.differences if differences else found.lines
    panels = [
        Panel(
            f"{column.heading} − {found.baseline}" if differences else column.heading,
            {line.name: line.cells[column.key] for line in lines if column.key in line.cells},
            0.0 if differences else None,
        )
        for column in found.columns
    ]
    marked = None if differences else found.baseline
    draw_intervals(path, [line.name for line in lines], panels, title, marked)


def _fitting(name: str, pen: ImageDraw.ImageDraw, font: _Font) -> str:
    """Shorten a name to fit left of the panels."""
    while pen.textlength(name, font) > _NAMES - 20:
        name = name[:-2].rstrip("…") + "…"
    return name


def _scale(panel: Panel) -> tuple[float, float, float]:
    """The limits of a panel's axis, and the step between ticks."""
    values = [
        value
        for cell in panel.cells.values()
        for value in (cell.low, cell.value, cell.high)
        if math.isfinite(value)
    ]
    values += [panel.line] if panel.line is not None else []
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    room = 0.05 * (high - low)
    low, high = low - room, high + room
    rough = (high - low) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return low, high, step


_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _FOOT = 1000, 620, 90, 280, 60, 70  # pixels
_COLOURS = (
    _MARK, _BASE, (62, 128, 74), (128, 74, 140), (150, 120, 20), (60, 140, 150),
    (190, 70, 110), (100, 100, 100),
)  # fmt: skip


def draw_tradeoff(
    path: str | os.PathLike[str],
    lines: Mapping[str, Sequence[tuple[float, float, str]]],
    title: str = "",
) -> None:
    """Draw throughput over latency on logarithmic axes as a PNG file (the paper, section 4: figure 3).

    Args:
        path: the file to write.
        lines: by name, points of (seconds per batch, clips per minute, label).
        title: heading of the picture.

    Raises:
        AudioFileError: the file cannot be written.
    """
    image, pen, font = _sheet(_WIDTH, _HEIGHT)
    pen.text((_LEFT, 16), title, _INK, font)
    points = [point for line in lines.values() for point in line]
    across = _Axis([x for x, _, _ in points], _LEFT, _WIDTH - _RIGHT)
    up = _Axis([y for _, y, _ in points], _HEIGHT - _FOOT, _TOP)
    for tick in across.ticks:
        x = across.place(tick)
        pen.line([(x, _TOP), (x, _HEIGHT - _FOOT)], _FAINT)
        pen.text((x, _HEIGHT - _FOOT + 16), f"{tick:g}", _INK, font, anchor="mm")
    for tick in up.ticks:
        y = up.place(tick)
        pen.line([(_LEFT, y), (_WIDTH - _RIGHT, y)], _FAINT)
        pen.text((_LEFT - 8, y), f"{tick:g}", _INK, font, anchor="rm")
    middle = (_LEFT + _WIDTH - _RIGHT) // 2
    pen.text((middle, _HEIGHT - 22), "seconds per batch", _INK, font, anchor="mm")
    pen.text((10, _TOP - 18), "clips per minute (labels: batch size)", _INK, font)
    for number, (name, line) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        places = [(across.place(x), up.place(y)) for x, y, _ in line]
        pen.line(places, colour, 2)
        for (x, y), (_, _, word) in zip(places, line, strict=True):
            pen.ellipse([x - 5, y - 5, x + 5, y + 5], colour)
            pen.text((x, y - 15), word, colour, font, anchor="mm")
        y = _TOP + 10 + 24 * number
        pen.ellipse([_WIDTH - _RIGHT + 20, y - 5, _WIDTH - _RIGHT + 30, y + 5], colour)
        pen.text((_WIDTH - _RIGHT + 40, y), name, colour, font, anchor="lm")
    with written(path) as partial:
        image.save(partial, "PNG")


class _Axis:
    """A logarithmic axis between two pixels, with ticks at 1, 2 and 5 times powers of ten."""

    def __init__(self, values: Sequence[float], first: int, last: int) -> None:
        room = 1.25
        self._low, self._high = math.log(min(values) / room), math.log(max(values) * room)
        self._first, self._last = first, last
        powers = range(math.floor(self._low / math.log(10)), math.ceil(self._high / math.log(10)))
        marks = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
        self.ticks = [mark for mark in marks if self._low <= math.log(mark) <= self._high]

    def place(self, value: float) -> float:
        """The pixel of a value."""
        share = (math.log(value) - self._low) / (self._high - self._low)
        return self._first + share * (self._last - self._first)


def _sheet(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw, _Font]:
    """An empty image, its drawing context and the font."""
    image = Image.new("RGB", (width, height), _PAPER)
    return image, ImageDraw.Draw(image), ImageFont.load_default(_FONT)
