"""Settings: how one is declared, checked, and read from what a user wrote. No torch here.

    _decoding = panel("Decoding")

    @dataclass(frozen=True)
    class DecodingConfig:
        span_len: int | None = _decoding("Frames in a span.", metavar="N", low=1, only="masked")

declares a field of a table once. The flag and its help (cli/settings.py), the columns of prompt files
(data/prompts.py), `check`, what TOML, CSV and JSON may say (`typed`) and the docs come from that.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from magnet_cli.errors import UsageError

# What alone has a use for a setting: masked decoding, what is written step by step, the first seconds
# of a hybrid clip (of masked decoding, too), a rescorer (likewise).
Only = Literal["masked", "autoregressive", "prefix", "rescorer"]

_TRUE, _FALSE = ("true", "yes", "1", "on"), ("false", "no", "0", "off")
_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


@dataclass(frozen=True)
class Setting:
    """What a field says of itself, and what its table says of it."""

    panel: str  # of the help that its flag stands in
    about: str  # its line in the help and the docs; "{usual}" in it stands for that
    # Its flags, such as "--model -m" or "--sample/--greedy"; "": its name in kebab-case. The first is a
    # column's name, too.
    flags: str = ""
    metavar: str | None = None  # one with a comma takes several values as one text
    # Bounds of a number, or of each of several.
    low: float = -math.inf
    above: float = -math.inf
    high: float = math.inf
    below: float = math.inf
    most: float = math.inf  # values, where it takes several
    words: str = ""  # what values it takes; "": said from type and bounds
    usual: Any = None  # what holds where the field is None and the checkpoint is silent
    # What files were made with that do not say it, whatever `usual` and the default are now: the value that
    # held before it was a setting.
    before: Any = None
    example: str = ""  # of several values
    only: Only | None = None  # what alone has a use for it; None: all
    option: Mapping[str, Any] = field(default_factory=dict)  # what else typer.Option takes
    # From the table: name, type (without None) and default of the field.
    name: str = ""
    kind: Any = None
    default: Any = None

    @property
    def names(self) -> tuple[str, str | None]:
        """The flag that sets it, and the one that unsets it (None where there is none)."""
        kebab = self.name.replace("_", "-")
        is_pair = self.kind is bool and self.default is not False
        own = f"--{kebab}/--no-{kebab}" if is_pair else f"--{kebab}"
        on, _, off = next((x for x in self.flags.split() if x.startswith("--")), own).partition("/")
        return on, off or None

    @property
    def is_joined(self) -> bool:
        """Several values are one text: `N,N,...`."""
        return "," in (self.metavar or "")

    @property
    def help(self) -> str:
        """What it is about, and what holds where neither the user nor a checkpoint says otherwise."""
        several = isinstance(self.usual, tuple)
        usual = ",".join(map(str, self.usual)) if several else self.usual
        usual = f"{usual:g}" if isinstance(usual, float) else str(usual)
        if self.usual is None or "Default" in self.about:
            return self.about.replace("{usual}", usual)
        return f"{self.about} Default: the checkpoint's own, usually {usual}."

    @property
    def takes(self) -> str:
        """The values that it takes, in words."""
        if self.words:
            return self.words
        if get_origin(self.kind) is Literal:
            return " or ".join(get_args(self.kind))
        low = f" from {self.low:g}" if math.isfinite(self.low) else ""
        low = f" above {self.above:g}" if math.isfinite(self.above) else low
        high = f" to {self.high:g}" if math.isfinite(self.high) else ""
        high = f" up to {self.below:g}" if math.isfinite(self.below) else high
        return _named(self.kind) + low + high

    def fits(self, value: Any) -> bool:
        """Whether it takes a value, which is not None."""
        if get_origin(self.kind) is Literal:
            return value in get_args(self.kind)
        if get_origin(self.kind) is tuple:
            if not isinstance(value, (tuple, list)):
                return False
            may_be_empty = () in (self.default, self.usual)
            enough = may_be_empty or len(value) > 0
            return enough and len(value) <= self.most and all(map(self._within, value))
        return self._within(value)

    def _within(self, value: Any) -> bool:
        kind = get_args(self.kind)[0] if get_origin(self.kind) is tuple else self.kind
        if kind not in (int, float):
            return True
        if not isinstance(value, int if kind is int else (int, float)):
            return False
        return self.low <= value <= self.high and self.above < value < self.below


def setting(default: Any, panel: str, about: str, **more: Any) -> Any:
    """A field that is a setting. `more`: what a Setting says, and what else typer.Option takes."""
    said = {name: more.pop(name) for name in Setting.__dataclass_fields__ if name in more}
    return dataclasses.field(
        default=default, metadata={"setting": Setting(panel, about, **said, option=more)}
    )


def panel(name: str) -> Callable[..., Any]:
    """`setting` for a panel: `declare(about, default=None, **more)`."""

    def declare(about: str, default: Any = None, **more: Any) -> Any:
        return setting(default, name, about, **more)

    return declare


@functools.cache
def settings_of(table: type) -> dict[str, Setting]:
    """The settings of a dataclass by name, in its order; fields that are none are not there."""
    hints = get_type_hints(table)
    return {
        each.name: dataclasses.replace(
            each.metadata["setting"],
            name=each.name,
            kind=without_none(hints[each.name]),
            default=each.default,
        )
        for each in dataclasses.fields(table)
        if "setting" in each.metadata
    }


def without_none(hint: Any) -> Any:
    """`T | None` -> T."""
    if get_origin(hint) in (Union, UnionType):
        return next(arg for arg in get_args(hint) if arg is not NoneType)
    return hint


def cannot_be(name: str, value: Any, takes: str) -> UsageError:
    """The error of a field, or of a flag, with a value that it does not take."""
    said = shown(value)
    if isinstance(value, (float, tuple)):  # as it is written: 99, not 99.0
        several = value if isinstance(value, tuple) else (value,)
        said = ",".join(f"{one}".removesuffix(".0") for one in several)
    return UsageError(f"{name} cannot be {said[:80]}.", f"It takes {takes}.")


def check(config: Any, refuse: Callable[[str, Any, str], Exception] = cannot_be) -> None:
    """Refuse values of a table's settings that they do not take.
    Raises UsageError: or what `refuse` makes of name, value and what would be right."""
    for name, each in settings_of(config.__class__).items():
        value = getattr(config, name)
        if value is not None and not each.fits(value):
            raise refuse(name, value, each.takes)


def _named(kind: Any) -> str:
    """What values of a type are called: "a whole number"; of several: "whole numbers"."""
    if get_origin(kind) is tuple:
        return f"{_NAMES[get_args(kind)[0]][2:]}s"
    return _NAMES[kind]


class NotOfTypeError(ValueError):
    """What a user wrote does not stand for a value of a setting's type: says what would."""


def typed(kind: Any, value: Any, *, text: bool = False, example: str = "") -> Any:
    """What a user wrote, as the type of a setting. Choices and bounds are left to `check`.

    Args:
        kind: int, float, bool, str, a Literal, or a tuple of one of them, `T | None` too.
        value: from JSON, TOML or Python; several of them may be one text, as "20,10,10,10".
        text: `value` is text that stands for a number, a flag or several (CSV).
        example: of several values.

    Raises NotOfTypeError: it cannot be one.
    """
    kind = without_none(kind)
    text = text and isinstance(value, str)
    if text and kind is not str:
        value = value.strip()
    if get_origin(kind) is Literal:  # bit_depth: 16 is as good as "16"
        return str(value) if type(value) is int else value
    if get_origin(kind) is tuple:
        return _several(get_args(kind)[0], value, example)
    if kind is bool:
        if text and value.lower() in (*_TRUE, *_FALSE):
            return value.lower() in _TRUE
    elif kind in (int, float):
        if text or (isinstance(value, (int, kind)) and not isinstance(value, bool)):
            try:
                return kind(value)
            except (ValueError, OverflowError):
                # A spreadsheet writes 7 as 7.0. Beyond 2^53 such a number may be another one.
                whole, point, rest = value.partition(".") if text else ("", "", "")
                if kind is int and point and rest and not rest.strip("0") and len(whole) < 16:
                    return typed(int, whole, text=True)
        raise NotOfTypeError(_named(kind))
    if not isinstance(value, kind):
        raise NotOfTypeError(_named(kind))
    return value


def _several(kind: type, value: Any, example: str) -> tuple[Any, ...]:
    parts: Any = value if isinstance(value, (list, tuple)) else [value]
    if isinstance(value, str) and kind is not str:
        # "20,10" and "20 10" are two numbers; "20,,10" and "" are none.
        parts = value.split(",") if "," in value else value.split() or [""]
    try:
        return tuple(typed(kind, part, text=True) for part in parts)
    except NotOfTypeError:
        if not example:
            raise
        several = _named(tuple[kind, ...])  # type: ignore[valid-type]
        raise NotOfTypeError(f"{several}, such as {example}") from None


def shown(value: Any) -> str:
    """A value in an error, in 80 characters at most."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of more digits than Python writes
        text = "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."


def parse_seconds(text: str) -> float:
    """ "5.5" -> 5.5; "1:02" -> 62.0; "1:00:02" -> 3602.0. Raises ValueError: it is no time."""
    parts = [float(part) for part in text.split(":")]
    if len(parts) > 3 or (len(parts) > 1 and not all(0 <= part < 1e6 for part in parts)):
        raise ValueError(text)
    return sum(part * 60.0**power for power, part in enumerate(reversed(parts)))


def parse_region(text: str) -> tuple[float, float]:
    """ "2.0-5.5" -> (2.0, 5.5); "1:02-1:05.5" -> (62.0, 65.5). Raises UsageError: it is anything else."""
    start, dash, stop = text.partition("-")
    try:
        region = parse_seconds(start), parse_seconds(stop)
        if not dash or not all(math.isfinite(one) and one >= 0 for one in region):
            raise ValueError
    except ValueError as error:
        raise UsageError(
            f"A region cannot be {text[:80]!r}.",
            "It takes seconds or minutes, from-to: 2.0-5.5 or 1:02-1:05.5.",
        ) from error
    return region


def check_seconds(flag: str, seconds: float | None) -> None:
    """Refuse what is no length of a sound, as `--duration`, `--to` and `--overlap` are.
    Raises UsageError: it is not above zero, or no number."""
    if seconds is not None and not 0 < seconds < 1e6:
        raise UsageError(
            f"--{flag} cannot be {seconds:g}.", "It takes seconds above 0 and below 1,000,000."
        )


# Escaped as JSON. Files keep their prompt as a comment, and opus takes no comment beyond 60 kB.
LONGEST_PROMPT = 20_000


def clean_prompt(text: str) -> str:
    """`text` on one line, without space around it; spaces, tabs and newlines become one space each.
    Raises UsageError: it is empty, too long, not UTF-8, or holds control characters such as NUL."""
    one_line = " ".join(text.split())
    if not one_line:
        raise UsageError("The prompt is empty.", 'Describe a sound, such as "lofi piano".')
    for at, character in enumerate(one_line):
        category = unicodedata.category(character)
        if category == "Cs":
            raise UsageError("The prompt is not UTF-8 text.", "Save it as UTF-8.")
        if category == "Cc":
            raise UsageError(
                f"The prompt holds a control character (U+{ord(character):04X}, at {at + 1}).",
                "Remove it: a prompt is plain text.",
            )
    length = len(json.dumps(one_line))
    if length > LONGEST_PROMPT:
        raise UsageError(
            f"The prompt is too long: {len(one_line)} characters.",
            "A sentence or two say more to a model than a page.",
        )
    return one_line
