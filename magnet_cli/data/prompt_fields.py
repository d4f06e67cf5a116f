"""What a line of a prompt file may say beside its prompt: names, types, and values from text."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from magnet_cli.data.prompts import clean_prompt
from magnet_cli.errors import UsageError
from magnet_cli.settings import PRESETS, DecodingConfig, OutputConfig, check_duration

MOST_VARIATIONS = 10_000

_OWN: dict[str, Any] = {
    "prompt": str,
    "out": str,
    "seed": int,
    "num": int,
    "duration": float,
    "negative": str,
    "preset": str,
}
_DECODING = get_type_hints(DecodingConfig)
_OUTPUT = get_type_hints(OutputConfig)
FIELDS: dict[str, Any] = {**_OWN, **_DECODING, **_OUTPUT}

# The flags' short forms of the same.
ALIASES = {
    "steps": "decoding_steps",
    "spans": "span_arrangement",
    "anneal": "anneal_temperature",
    "sample": "use_sampling",
}

_NOTHING = DecodingConfig()  # one for all lines that say nothing

_TRUE, _FALSE = ("true", "yes", "1", "on"), ("false", "no", "0", "off")


@dataclass(frozen=True)
class PromptLine:
    """One line of a prompt file: a prompt, and what it wants otherwise than the rest."""

    number: int  # of the line, from 1
    prompt: str
    out: str | None = None  # file name inside the output folder
    seed: int | None = None
    num: int | None = None  # variations
    duration: float | None = None  # seconds
    negative: str | None = None  # "": none, whatever holds for the rest
    preset: str | None = None
    decoding: DecodingConfig = _NOTHING
    output: Mapping[str, Any] = field(default_factory=dict)  # fields of OutputConfig


@dataclass(frozen=True)
class BadLine:
    """A line that cannot be used."""

    number: int  # from 1
    message: str  # what is wrong, and what would be right
    num: int | None = None  # variations, where it says that in spite of all


def field_of(name: str) -> str:
    """The field that a column or key means: "max-cfg-coef" and "steps" are known, too.

    Raises:
        UsageError: there is no such field; near ones are named.
    """
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    plain = ALIASES.get(plain, plain)
    if plain in FIELDS:
        return plain
    known = [*FIELDS, *ALIASES]
    near = difflib.get_close_matches(plain, known, n=2)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"There are {', '.join(known)}."
    raise UsageError(f"There is no field {name[:80]!r}.", hint)


def line_of(number: int, values: Mapping[str, Any], *, text: bool) -> PromptLine:
    """A line from the values of its fields.

    Args:
        number: of the line.
        values: by the names that `field_of` gives. None, and "" where values are text, are no value.
        text: the values are text that stands for numbers (csv), not numbers themselves (json).

    Raises:
        UsageError: a value cannot be used, or there is no prompt.
    """
    given = {
        name: _value(name, FIELDS[name], value, text)
        for name, value in values.items()
        if value is not None and not (text and not value.strip())
    }
    own = {name: value for name, value in given.items() if name in _OWN}
    own["prompt"] = clean_prompt(given.get("prompt", ""))
    if own.get("negative"):
        own["negative"] = clean_prompt(own["negative"])
    _check_own(given)
    decoding = {name: value for name, value in given.items() if name in _DECODING}
    output = {name: value for name, value in given.items() if name in _OUTPUT}
    return PromptLine(
        number, **own, decoding=DecodingConfig(**decoding) if decoding else _NOTHING, output=output
    )


def num_of(values: Mapping[str, Any], *, text: bool) -> int | None:
    """The variations that a bad line's values ask for; None where they do not, or not rightly."""
    if (value := values.get("num")) is None:
        return None
    try:
        num = int(_number("num", int, value.strip() if text else value, text))
    except UsageError:
        return None
    return num if 1 <= num <= MOST_VARIATIONS else None


def _check_own(given: Mapping[str, Any]) -> None:
    num, seed = given.get("num", 1), given.get("seed", 0)
    if not 1 <= num <= MOST_VARIATIONS:
        raise UsageError(f"num cannot be {num}.", f"It takes 1 to {MOST_VARIATIONS}.")
    if not 0 <= seed <= 2**63 - num:
        raise UsageError(f"seed cannot be {str(seed)[:40]}.", "It takes 0 to 2^63 - 1.")
    check_duration(given.get("duration"))
    preset = given.get("preset")
    if preset is not None and preset not in PRESETS:
        raise UsageError(f"There is no preset {preset!r}.", f"Take one of {', '.join(PRESETS)}.")
    if preset is not None and "decoding_steps" in given:
        raise UsageError("preset and decoding_steps both set the steps.", "Leave one out.")
    if given.get("out") == "":
        raise UsageError("out is empty.", "Name a file, or leave it out.")


def _value(name: str, hint: Any, value: Any, text: bool) -> Any:
    """`value` as the type that the field has."""
    kind = _without_none(hint)
    if text and kind is not str:
        value = value.strip()
    if get_origin(kind) is Literal:
        options = get_args(kind)
        # bit_depth: 16 is as good as "16".
        if str(value) in options and not isinstance(value, bool):
            return str(value)
        raise _refusal(name, value, " or ".join(options))
    if get_origin(kind) is tuple:
        return _numbers(name, value)
    if kind is bool:
        return _truth(name, value, text)
    if kind in (int, float):
        return _number(name, kind, value, text)
    if not isinstance(value, str):
        raise _refusal(name, value, "a text")
    return value


def _number(name: str, kind: type, value: Any, text: bool) -> int | float:
    takes = "a whole number" if kind is int else "a number"
    if text:
        try:
            return int(value) if kind is int else float(value)
        except ValueError:
            raise _refusal(name, value, takes) from None
    fits = isinstance(value, int) if kind is int else isinstance(value, (int, float))
    if isinstance(value, bool) or not fits:
        raise _refusal(name, value, takes)
    try:
        return int(value) if kind is int else float(value)
    except OverflowError:
        raise _refusal(name, value, takes) from None


def _truth(name: str, value: Any, text: bool) -> bool:
    if isinstance(value, bool):
        return value
    if text and value.lower() in (*_TRUE, *_FALSE):
        return value.lower() in _TRUE
    raise _refusal(name, value, "true or false")


def _numbers(name: str, value: Any) -> tuple[int, ...]:
    """Whole numbers from a list, from one number, or from "20,10,10,10" or "20 10 10 10"."""
    parts: list[Any]
    if isinstance(value, str):
        parts = value.replace(",", " ").split()
    else:
        parts = value if isinstance(value, list) else [value]
    try:
        if any(isinstance(part, (bool, float)) for part in parts):
            raise ValueError
        return tuple(int(part) for part in parts)
    except (TypeError, ValueError):
        raise _refusal(name, value, "whole numbers, such as 20,10,10,10") from None


def _refusal(name: str, value: Any, takes: str) -> UsageError:
    return UsageError(f"{name} cannot be {_short(value)}.", f"It takes {takes}.")


def _short(value: Any) -> str:
    try:
        shown = repr(value)
    except ValueError:  # a whole number of more digits than Python writes
        shown = "a number of thousands of digits"
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def _without_none(hint: Any) -> Any:
    if get_origin(hint) in (Union, UnionType):
        return next(arg for arg in get_args(hint) if arg is not NoneType)
    return hint
