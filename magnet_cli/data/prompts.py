"""Lines of prompt files.

Columns or keys are the fields of PromptLine and of its task, and all decoding and output settings.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from magnet_cli.data.tasks import PLAIN, LineTask, parse_cues, parse_regions
from magnet_cli.errors import UsageError
from magnet_cli.fields import (
    NotOfTypeError,
    Setting,
    check_seconds,
    clean_prompt,
    settings_of,
    shown,
    typed,
)
from magnet_cli.settings import (
    MAX_SEED,
    MOST_VARIATIONS,
    DecodingConfig,
    OutputConfig,
    check_preset,
)

_NOTHING = DecodingConfig()  # shared by all lines without settings


@dataclass(frozen=True)
class PromptLine:
    """One line of a prompt file: a prompt, and its settings that differ from the command's."""

    number: int  # of the line, from 1
    prompt: str
    out: str | None = None  # file name inside the output folder
    seed: int | None = None
    num: int | None = None  # variations
    duration: float | None = None  # seconds
    negative: str | None = None  # "": none, whatever the command's
    preset: str | None = None
    decoding: DecodingConfig = _NOTHING
    output: Mapping[str, Any] = field(default_factory=dict)  # fields of OutputConfig
    model: str | None = None  # replaces the command's
    lora: tuple[str, ...] | None = None  # adapters; (): none
    task: LineTask = PLAIN


@dataclass(frozen=True)
class BadLine:
    """A line that cannot be used."""

    number: int  # from 1
    message: str  # what is wrong, and what would be valid
    num: int | None = None  # variations, if the line specifies them
    settings: tuple[str, ...] = ()  # named in the message


_OWN = {
    name: kind
    for name, kind in get_type_hints(PromptLine).items()
    if name not in ("number", "task", "decoding", "output")
}
_TASK = settings_of(LineTask)
_TABLES = {**_TASK, **settings_of(DecodingConfig), **settings_of(OutputConfig)}
_PARSERS = {"at": parse_cues, "region": parse_regions}
COLUMNS = (*_OWN, *_TABLES)
# The flags' short forms: steps, spans, anneal, sample.
_SHORT = {each.names[0][2:].replace("-", "_"): name for name, each in _TABLES.items()}
ALIASES = {short: name for short, name in _SHORT.items() if short != name}


def field_of(name: str) -> str:
    """The field of a column or key, including flags' names such as "max-cfg-coef" and "steps".
    Raises UsageError: there is no such field; similar ones are named."""
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    plain = ALIASES.get(plain, plain)
    if plain in COLUMNS:
        return plain
    known = [*COLUMNS, *ALIASES]
    near = difflib.get_close_matches(plain, known, n=2)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"There are {', '.join(known)}."
    raise UsageError(f"There is no field {name[:80]!r}.", hint)


def line_of(number: int, values: Mapping[str, Any], *, text: bool) -> PromptLine:
    """Build a line from the values of its fields.

    Args:
        number: of the line.
        values: by the names from `field_of`. None, and "" if values are text, count as missing.
        text: numbers are given as text (csv), not as numbers (json).

    Raises UsageError: a value is invalid, or there is no prompt.
    """
    given = {
        name: _value(name, value, text)
        for name, value in values.items()
        if value is not None and not (text and not value.strip())
    }
    own = {name: value for name, value in given.items() if name in _OWN}
    own["prompt"] = clean_prompt(given.get("prompt", ""))
    if own.get("negative"):
        own["negative"] = clean_prompt(own["negative"])
    _check_own(given)
    task, decoding, output = (
        {name: given[name] for name in settings_of(table) if name in given}
        for table in (LineTask, DecodingConfig, OutputConfig)
    )
    if task:
        own["task"] = LineTask(**task)
        _check_task(own["task"], given, output)
    if output:
        OutputConfig(**output)  # checks them
    if decoding:
        own["decoding"] = DecodingConfig(**decoding)
    return PromptLine(number, **own, output=output)


def num_of(values: Mapping[str, Any], *, text: bool) -> int | None:
    """The number of variations in a bad line; None if missing or invalid."""
    try:
        num = typed(int, values.get("num"), text=text)
    except NotOfTypeError:
        return None
    return num if 1 <= num <= MOST_VARIATIONS else None


def _check_own(given: Mapping[str, Any]) -> None:
    num, seed, preset = given.get("num", 1), given.get("seed", 0), given.get("preset")
    if not 1 <= num <= MOST_VARIATIONS:
        raise UsageError(f"num cannot be {num}.", f"It takes 1 to {MOST_VARIATIONS}.")
    if not 0 <= seed <= MAX_SEED + 1 - num:
        raise UsageError(f"seed cannot be {str(seed)[:40]}.", "It takes 0 to 2^63 - 1.")
    check_seconds("duration", given.get("duration"))
    check_preset(preset)
    if preset is not None and "decoding_steps" in given:
        said = "preset and decoding_steps both set the steps."
        raise UsageError(said, "Leave one out.", settings=["decoding_steps"])
    if given.get("out") == "":
        raise UsageError("out is empty.", "Name a file, or leave it out.")


def _check_task(task: LineTask, given: Mapping[str, Any], output: Mapping[str, Any]) -> None:
    if task.task in ("edit", "vary") and "duration" in given:
        raise UsageError(
            f"task {task.task} takes no duration.", "Its result is as long as its input."
        )
    if task.bpm is not None and "duration" in given:
        raise UsageError("duration and bars both set the length.", "Leave one of them out.")
    if task.keeps_file and output:
        raise UsageError(
            f"{next(iter(output))} applies only with through_codec.",
            "Leave it out: the file has its input's format.",
            settings=[*output],
        )


def _value(name: str, value: Any, text: bool) -> Any:
    """Convert `value` to the field's type."""
    if name in _PARSERS:
        return _PARSERS[name](value)
    if name == "lora" and isinstance(value, str):
        value = [part.strip() for part in value.split(";") if part.strip()]
    each = _TABLES.get(name) or Setting("", "", kind=_OWN[name])
    try:
        return typed(each.kind, value, text=text, example=each.example)
    except NotOfTypeError as error:
        message = f"{name} cannot be {shown(value)}."
        raise UsageError(message, f"It takes {error}.", settings=[name]) from None
