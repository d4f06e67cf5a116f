"""Tasks of a prompt file's lines other than generating a clip: loops, and edits of a sound."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from magnet_cli.errors import UsageError
from magnet_cli.fields import (
    check_seconds,
    clean_prompt,
    panel,
    parse_region,
    parse_seconds,
    settings_of,
    shown,
)
from magnet_cli.settings import BarsConfig

TaskName = Literal["gen", "loop", "extend", "edit", "vary"]
HALF = 0.5  # default strength of a variation

_task = panel("Task")
_CUE = re.compile(r"(?P<time>[0-9:.]+)\s+(?P<prompt>.+)", re.DOTALL)
_MOST_CUES = 1000
# The tasks that support a value; values that are not listed work with all.
_TAKEN_BY = {
    "input": ("extend", "edit", "vary"),
    "at": ("gen", "loop", "extend"),
    "bpm": ("gen", "loop"),
    "bars": ("gen", "loop"),
    "tries": ("gen", "loop"),
    "exact": ("loop",),
    "region": ("edit",),
    "through_codec": ("edit",),
    "strength": ("vary",),
    "keep_streams": ("vary",),
}


@dataclass(frozen=True)
class LineTask(BarsConfig):
    """A task, as done by the command of the same name; paths are as on the command line."""

    task: TaskName = _task("What is made.", "gen")
    input: str | None = _task("The sound that it starts from.")
    at: tuple[tuple[float, str], ...] = _task("Prompts behind the first, with their seconds.", ())
    region: tuple[tuple[float, float], ...] = _task("What is made anew: seconds, from, to.", ())
    exact: bool = _task("A loop as long as was asked for, whatever the beat.", False)
    through_codec: bool = _task("All goes through the codec.", False)
    strength: float | None = _task("How much is made anew.", low=0, high=1)
    keep_streams: int = _task("Streams that are kept whole.", 0, low=0)
    overlap: float | None = _task("Seconds that windows share.")

    def __post_init__(self) -> None:
        """Check the values. Raises UsageError: one is invalid, or not supported by this task."""
        super().__post_init__()
        check_seconds("overlap", self.overlap)
        for name in self._said():
            if self.task not in (tasks := _TAKEN_BY.get(name, (self.task,))):
                raise UsageError(
                    f"{name} does not apply to task {self.task}.",
                    f"It applies to task {' or '.join(tasks)}.",
                )
        self.check_tries(loop=self.task == "loop" and not self.exact)
        if self.exact and self.bpm is not None:
            raise UsageError("exact and bpm both set a loop's length.", "Leave one out.")
        if self.input is None and self.task in _TAKEN_BY["input"]:
            raise UsageError(f"task {self.task} has no input.", "Name the sound to start from.")
        if not self.region and self.task == "edit":
            raise UsageError(
                "task edit has no region.", "Give the region to regenerate, such as 2.0-5.5."
            )
        if self.strength is None and self.task == "vary":
            object.__setattr__(self, "strength", 1.0 if self.keep_streams else HALF)

    @property
    def keeps_file(self) -> bool:
        """Whether the output is a copy of the input with only regions replaced."""
        return self.task == "edit" and not self.through_codec

    @property
    def is_piece(self) -> bool:
        """Whether it is more than generating a clip from one prompt."""
        return self.task != "gen" or bool(self.at) or self.bpm is not None

    def settings(self) -> dict[str, Any]:
        """The fields that differ from generating a clip, JSON-able."""
        said = self._said()
        for name in said.keys() & {"at", "region"}:
            said[name] = [list(pair) for pair in said[name]]
        return said

    def _said(self) -> dict[str, Any]:
        table = settings_of(LineTask)
        return {name: value for name, value in vars(self).items() if value != table[name].default}


PLAIN = LineTask()  # shared by all lines without a task


def parse_cues(value: Any) -> tuple[tuple[float, str], ...]:
    """ "6 drums enter; 1:02 strings" or [[6, "drums enter"], ...] -> ((6.0, "drums enter"), ...).

    Raises:
        UsageError: it is anything else.
    """
    try:
        pairs = value
        if isinstance(value, str):
            found = [_CUE.fullmatch(part.strip()) for part in value.split(";")]
            pairs = [(each["time"], each["prompt"]) for each in found if each is not None]
            if len(pairs) != len(found):
                raise ValueError
        if not isinstance(pairs, list) or len(pairs) > _MOST_CUES:
            raise ValueError
        return tuple((_seconds(time), clean_prompt(prompt)) for time, prompt in pairs)
    except (TypeError, ValueError, OverflowError, AttributeError):
        raise UsageError(
            f"at cannot be {shown(value)}.",
            'It takes "6 drums enter; 1:02 strings", or [[6, "drums enter"], [62, "strings"]].',
        ) from None


def parse_regions(value: Any) -> tuple[tuple[float, float], ...]:
    """ "2-5.5; 1:02-1:04", the same as a list, or [[2, 5.5], ...] -> ((2.0, 5.5), (62.0, 64.0)).

    Raises:
        UsageError: it is anything else.
    """
    parts = value.split(";") if isinstance(value, str) else value
    try:
        if not isinstance(parts, list):
            raise TypeError
        return tuple(
            parse_region(part.strip())
            if isinstance(part, str)
            else (_seconds(part[0]), _seconds(part[1]))
            for part in parts
        )
    except (TypeError, ValueError, OverflowError, LookupError):
        raise UsageError(
            f"region cannot be {shown(value)}.", 'It takes "2.0-5.5; 1:02-1:04.5", or [[2.0, 5.5]].'
        ) from None


def _seconds(value: Any) -> float:
    """Raises ValueError, TypeError: it is not a time."""
    if isinstance(value, bool):
        raise TypeError
    seconds = parse_seconds(value) if isinstance(value, str) else float(value)
    if not 0 <= seconds < 1e6:
        raise ValueError
    return seconds
