"""Small batches for the tests of this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from magnet_cli.batch.jobs import BatchSettings, Job, Planner
from magnet_cli.data.prompts import BadLine, PromptLine
from magnet_cli.settings import DecodingConfig

SMALL = "facebook/magnet-small-10secs"
QUICK = DecodingConfig(decoding_steps=(1,))


def batch(folder: Path, **more: Any) -> BatchSettings:
    """Settings for quick clips of 0.2 s with seeds from 100."""
    values = {"seed": 100, "duration": 0.2, "decoding": QUICK, **more}
    return BatchSettings(folder=folder, **values)


def planned(settings: BatchSettings, *lines: PromptLine | BadLine | str) -> list[Job | BadLine]:
    """The jobs of lines; a text is a line with only a prompt."""
    numbered = [
        PromptLine(number, line) if isinstance(line, str) else line
        for number, line in enumerate(lines, start=1)
    ]
    return list(Planner(settings).plan(numbered))


def jobs(settings: BatchSettings, *lines: PromptLine | str) -> list[Job]:
    """The same if all lines are good."""
    found = [item for item in planned(settings, *lines) if isinstance(item, Job)]
    assert len(found) >= len(lines)
    return found


def reason(settings: BatchSettings, line: PromptLine) -> str:
    """Why a line is bad."""
    (item,) = planned(settings, line)
    assert isinstance(item, BadLine), item
    return item.message
