"""Measurements of a bench as Markdown, JSON and points to plot."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from magnet_cli.evaluation.table import ABSENT, markdown_table


@dataclass(frozen=True)
class Row:
    """Measurements for one decoding method, precision and batch size.

    Attributes:
        way: the decoding method.
        dtype: of the loaded language model.
        clip: seconds of sound per clip.
        passes: of a clip through language models, including guidance and partners.
        memory: peak bytes, of the process on a CPU, of torch on a GPU; None: unknown.
        seconds: for the whole batch, in each repeat.
    """

    way: str
    dtype: str
    batch: int
    clip: float
    passes: float
    memory: int | None = None
    seconds: tuple[float, ...] = ()

    @property
    def median(self) -> float:
        """Median seconds for the batch."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile of the seconds."""
        if len(self.seconds) < 2:
            return self.median, self.median
        first, _, third = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return first, third

    @property
    def clips_a_minute(self) -> float:
        """Clips per minute."""
        return 60 * self.batch / self.median

    @property
    def times_real_time(self) -> float:
        """Seconds of sound per second."""
        return self.batch * self.clip / self.median

    def record(self) -> dict[str, Any]:
        """The measurements as JSON types."""
        first, third = self.quartiles
        return {
            "way": self.way,
            "dtype": self.dtype,
            "batch": self.batch,
            "clip_seconds": self.clip,
            "seconds": round(self.median, 4),
            "quartiles": [round(first, 4), round(third, 4)],
            "clips_a_minute": round(self.clips_a_minute, 3),
            "times_real_time": round(self.times_real_time, 4),
            "passes": self.passes,
            "memory_bytes": self.memory,
            "repeats": [round(each, 4) for each in self.seconds],
        }


@dataclass
class Bench:
    """All measurements, and the machine they were made on.

    Attributes:
        codec: seconds of the codec per clip.
        interrupted: what ended it before all rows were measured; None: nothing.
    """

    name: str
    device: str
    threads: int
    sample: int | None
    rows: list[Row] = field(default_factory=list)
    codec: float = 0.0
    interrupted: BaseException | None = None

    @property
    def place(self) -> str:
        """What was measured, and where."""
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.name} on {self.device} with {threads} a pass"

    def record(self) -> dict[str, Any]:
        """The measurements as JSON types."""
        return {
            "name": self.name,
            "device": self.device,
            "threads": self.threads,
            "sampled_steps": self.sample,
            "codec_seconds": round(self.codec, 4),
            "rows": [row.record() for row in self.rows],
            "overtaking": overtaking(self.rows),
            "interrupted": self.interrupted is not None,
        }

    def markdown(self) -> str:
        """A table, followed by notes."""
        head = ["way", "dtype", "batch", "seconds", "clips a minute"]
        head += ["times real time", "passes", "peak memory"]
        cells = [
            [
                row.way,
                row.dtype,
                str(row.batch),
                _seconds(row),
                _short(row.clips_a_minute),
                _short(row.times_real_time),
                f"{row.passes:g}",
                ABSENT if row.memory is None else f"{row.memory / 1e9:.2f} GB",
            ]
            for row in self.rows
        ]
        repeats = max(len(row.seconds) for row in self.rows)
        turns = (
            f"medians of {repeats} alternating runs, quartiles in brackets"
            if repeats > 1
            else "one run"
        )
        clip = ", ".join(sorted({f"{row.clip:g}" for row in self.rows}))
        notes = [
            f"{self.place}, clips of {clip} s; {turns}. "
            "Seconds are from texts to codes, for the whole batch.",
            f"The codec adds {_short(self.codec)} s per clip.",
            "Passes: times a clip goes through a language model; guided steps count twice.",
        ]
        if self.sample is not None:
            timed = "1 step" if self.sample == 1 else f"{self.sample} steps"
            notes.append(f"Estimated from {timed} of each kind.")
        notes += overtaking(self.rows)
        return markdown_table(head, cells) + "\n\n" + "\n".join(f"- {note}" for note in notes)

    def points(self) -> dict[str, list[tuple[float, float, str]]]:
        """Lines for `plots.draw_tradeoff`, one for each method and precision."""
        lines: dict[str, list[tuple[float, float, str]]] = {}
        for row in self.rows:
            point = row.median, row.clips_a_minute, str(row.batch)
            lines.setdefault(f"{row.way}, {row.dtype}", []).append(point)
        return lines


def _seconds(row: Row) -> str:
    first, third = row.quartiles
    spread = f" [{_short(first)}, {_short(third)}]" if len(row.seconds) > 1 else ""
    return f"{_short(row.median)}{spread}"


def _short(value: float) -> str:
    """Format with three significant digits."""
    digits = max(0, 2 - math.floor(math.log10(value))) if 0 < value < 100 else 0
    return f"{value:.{digits}f}"


def overtaking(rows: Sequence[Row]) -> list[str]:
    """One sentence per precision: where autoregressive decoding makes more clips a minute than masked."""
    said = []
    for dtype in dict.fromkeys(row.dtype for row in rows):
        masked, written = (
            {row.batch: row.clips_a_minute for row in rows if (row.way, row.dtype) == (way, dtype)}
            for way in ("masked", "autoregressive")
        )
        both = sorted(masked.keys() & written.keys())
        if not both:
            continue
        ahead = [batch for batch in both if written[batch] > masked[batch]]
        if not ahead:
            what = f"masked makes more clips a minute than autoregressive up to batch {both[-1]}"
        elif ahead[0] == both[0]:
            what = f"autoregressive makes more clips a minute than masked from batch {both[0]} on"
        else:
            before = both[both.index(ahead[0]) - 1]
            what = f"autoregressive overtakes masked between batch {before} and {ahead[0]}"
        back = [batch for batch in both if ahead and batch > ahead[0] and batch not in ahead]
        again = f", but is slower again at {', '.join(map(str, back))}" if back else ""
        said.append(f"In {dtype}, {what}{again}.")
    return said
