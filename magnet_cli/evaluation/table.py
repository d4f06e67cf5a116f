"""Results of a comparison as Markdown and JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from magnet_cli.evaluation.sets import Fault
from magnet_cli.evaluation.statistics import LEVEL, Estimate

ABSENT = "–"


@dataclass(frozen=True)
class Column:
    """A metric computed by one judge."""

    key: str  # metric:judge
    heading: str
    better: str  # "lower" or "higher"


@dataclass(frozen=True)
class Line:
    """A row of the table."""

    name: str
    role: str  # "system", "floor" or "ceiling"
    cells: dict[str, Estimate]  # by column key; columns that do not apply are missing

    def record(self) -> dict[str, Any]:
        """The row as JSON types."""
        figures = {key: cell.record() for key, cell in self.cells.items()}
        return {"name": self.name, "role": self.role, "figures": figures}


@dataclass(frozen=True)
class Comparison:
    """The result of comparing systems.

    Attributes:
        reference: the name of the reference set, if any.
        clips: the number of clips measured, by set name.
        baseline: the name of the first system.
        differences: each other system minus the baseline, over prompts that both have.
        faults: (set name, fault) of what was left out.
        notes: caveats for the reader.
    """

    reference: str | None
    clips: dict[str, int]
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    baseline: str
    differences: tuple[Line, ...]
    faults: tuple[tuple[str, Fault], ...]
    notes: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """The result as JSON types."""
        return {
            "reference": self.reference,
            "clips": self.clips,
            "columns": [vars(column) for column in self.columns],
            "rows": [line.record() for line in self.lines],
            "baseline": self.baseline,
            "differences": [line.record() for line in self.differences],
            "faults": [{"set": name, **vars(fault)} for name, fault in self.faults],
            "notes": list(self.notes),
            "level": LEVEL,
        }

    def markdown(self) -> str:
        """Tables of figures and of differences, followed by the notes."""
        digits = {column.key: self._digits(column.key) for column in self.columns}
        heads = [column.heading for column in self.columns]

        def figures(line: Line, worded: Callable[[Estimate | None, int], str]) -> list[str]:
            return [worded(line.cells.get(key), shown) for key, shown in digits.items()]

        rows = [
            [line.name, str(self.clips.get(line.name, ABSENT)), *figures(line, in_words)]
            for line in self.lines
        ]
        text = [markdown_table(["", "clips", *heads], rows)]
        if self.differences:
            rows = [[one.name, *figures(one, difference_in_words)] for one in self.differences]
            head = f"minus {self.baseline}"
            text.append(markdown_table([head, *heads], rows))
        notes = [*self.notes, f"In brackets: {100 * LEVEL:.0f} % intervals over clips."]
        if self.differences:
            notes.append("Differences are paired by prompt; ≈ 0: the interval contains zero.")
        text.append("\n".join(f"- {note}" for note in notes))
        return "\n\n".join(text)

    def _digits(self, key: str) -> int:
        """The number of decimals to show in a column."""
        values = [abs(line.cells[key].value) for line in self.lines if key in line.cells]
        largest = max((value for value in values if math.isfinite(value)), default=0.0)
        return 1 if largest >= 100 else 2 if largest >= 5 else 3


def in_words(estimate: Estimate | None, digits: int = 2) -> str:
    """Format as "1.23 [1.11, 1.35]", or without the interval if it is unknown."""
    if estimate is None or not math.isfinite(estimate.value):
        return ABSENT
    value = f"{estimate.value:.{digits}f}"
    if not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return value
    return f"{value} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def difference_in_words(estimate: Estimate | None, digits: int = 2) -> str:
    """Like `in_words`, with a sign, and a mark where the interval contains zero."""
    if estimate is None or not math.isfinite(estimate.value):
        return ABSENT
    value = f"{estimate.value:+.{digits}f}"
    if not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return f"{value} (no interval)"
    mark = " ≈ 0" if estimate.holds(0) else ""
    return f"{value} [{estimate.low:+.{digits}f}, {estimate.high:+.{digits}f}]{mark}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table; pipes and line breaks in cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    escaped = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in escaped)
