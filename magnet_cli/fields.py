"""How settings are declared, checked and parsed. Imports no torch.

    _decoding = panel("Decoding")

    @dataclass(frozen=True)
    class DecodingConfig:
        span_len: int | None = _decoding("Frames in a span.", metavar="N", low=1, only="masked")

A setting is declared once, as above. Its flag and help (cli/settings.py), its column in prompt files
(data/prompts.py), its checks (`check`), its parsing from TOML, CSV and JSON (`typed`) and its docs follow.
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

# What a setting is restricted to: masked decoding, autoregressive decoding, the first seconds of a hybrid
# clip, or a rescorer (the last two with masked and hybrid models).
Only = Literal["masked", "autoregressive", "prefix", "rescorer"]

_TRUE, _FALSE = ("true", "yes", "1", "on"), ("false", "no", "0", "off")
_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


@dataclass(frozen=True)
class Setting:
    """The declaration of a setting, with the name, type and default of its field."""

    panel: str  # heading of the flag's group in the help
    about: str  # help text; "{usual}" is replaced by `usual`
    # Flags, such as "--model -m" or "--sample/--greedy"; "": the name in kebab-case. The first also names the
    # column of prompt files.
    flags: str = ""
    metavar: str | None = None  # None: by type; with a comma: several values in one text
    # Bounds of a number, or of each of several.
    low: float = -math.inf
    above: float = -math.inf
    high: float = math.inf
    below: float = math.inf
    most: float = math.inf  # maximum number of values
    words: str = ""  # describes the allowed values; "": derived from type and bounds
    usual: Any = None  # the value if neither the user nor the checkpoint sets one
    # The value for files whose record lacks the setting: what applied before it was one, whatever `usual` and
    # the default are now.
    before: Any = None
    example: str = ""  # of several values
    only: Only | None = None  # what it is restricted to; None: no restriction
    option: Mapping[str, Any] = field(default_factory=dict)  # further arguments of typer.Option
    # Filled in from the field: name, type (without None) and default.
    name: str = ""
    kind: Any = None
    default: Any = None

    @property
    def names(self) -> tuple[str, str | None]:
        """The flag that sets it, and the one that unsets it or None."""
        kebab = self.name.replace("_", "-")
        is_pair = self.kind is bool and self.default is not False
        own = f"--{kebab}/--no-{kebab}" if is_pair else f"--{kebab}"
        on, _, off = next((x for x in self.flags.split() if x.startswith("--")), own).partition("/")
        return on, off or None

    @property
    def is_joined(self) -> bool:
        """Whether several values are given in one text: `N,N,...`."""
        return "," in (self.metavar or "")

    @property
    def help(self) -> str:
        """Help text, with the default."""
        several = isinstance(self.usual, tuple)
        usual = ",".join(map(str, self.usual)) if several else self.usual
        usual = f"{usual:g}" if isinstance(usual, float) else str(usual)
        if self.usual is None or "Default" in self.about:
            return self.about.replace("{usual}", usual)
        return f"{self.about} Default: the checkpoint's own, usually {usual}."

    @property
    def takes(self) -> str:
        """The allowed values, in words."""
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
        """Whether a value, which is not None, is allowed."""
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


def setting(panel: str, about: str, default: Any = None, **more: Any) -> Any:
    """Declare a dataclass field as a setting. `more`: fields of Setting, and arguments of typer.Option."""
    said = {name: more.pop(name) for name in Setting.__dataclass_fields__ if name in more}
    return dataclasses.field(
        default=default, metadata={"setting": Setting(panel, about, **said, option=more)}
    )


def panel(name: str) -> Callable[..., Any]:
    """Return a `declare(about, default=None, **more)` that calls `setting` with this panel."""
    return functools.partial(setting, name)


@functools.cache
def settings_of(table: type) -> dict[str, Setting]:
    """The settings of a dataclass by name, in order; other fields are left out."""
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
    """The error for a value that a field or flag does not take."""
    field = () if name.startswith("-") else (name,)
    said = shown(value)
    if isinstance(value, (float, tuple)):  # as it is written: 99, not 99.0
        several = value if isinstance(value, tuple) else (value,)
        said = ",".join(f"{one}".removesuffix(".0") for one in several)
    return UsageError(f"{name} cannot be {said[:80]}.", f"It takes {takes}.", settings=field)


def check(config: Any, refuse: Callable[[str, Any, str], Exception] = cannot_be) -> None:
    """Check the values of a table's settings.
    Raises UsageError, or what `refuse` makes of name, value and allowed values: a value is not allowed."""
    for name, each in settings_of(config.__class__).items():
        value = getattr(config, name)
        if value is not None and not each.fits(value):
            raise refuse(name, value, each.takes)


def _named(kind: Any) -> str:
    """Name values of a type: "a whole number"; for a tuple "whole numbers"."""
    if get_origin(kind) is tuple:
        return f"{_NAMES[get_args(kind)[0]][2:]}s"
    return _NAMES[kind]


class NotOfTypeError(ValueError):
    """A value cannot be converted to a setting's type; the text names what it takes."""


def typed(kind: Any, value: Any, *, text: bool = False, example: str = "") -> Any:
    """Convert a value to the type of a setting; choices and bounds are left to `check`.

    Args:
        kind: int, float, bool, str, a Literal, a tuple of one of these, or `T | None`.
        value: from JSON, TOML or Python; several values may be one text, such as "20,10,10,10".
        text: a text may stand for a number or a bool, too (CSV).
        example: of several values, for the error.

    Raises NotOfTypeError: it cannot be converted.
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
                # Spreadsheets write 7 as 7.0; beyond 2^53 that may have been rounded.
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
        # "20,10" and "20 10" are two numbers; "20,,10" and "" are invalid.
        parts = value.split(",") if "," in value else value.split() or [""]
    try:
        return tuple(typed(kind, part, text=True) for part in parts)
    except NotOfTypeError:
        if not example:
            raise
        several = _named(tuple[kind, ...])  # type: ignore[valid-type]
        raise NotOfTypeError(f"{several}, such as {example}") from None


def shown(value: Any) -> str:
    """Format a value for an error, in at most 80 characters."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of more digits than Python writes
        text = "a number with thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."


def parse_seconds(text: str) -> float:
    """ "5.5" -> 5.5; "1:02" -> 62.0; "1:00:02" -> 3602.0. Raises ValueError: it is not a time."""
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


# Of a setting that is a length.
SECONDS: dict[str, Any] = {
    "above": 0, "below": 1e6, "words": "seconds above 0 and below 1,000,000"
}  # fmt: skip


def check_seconds(name: str, seconds: float | None) -> None:
    """Raise UsageError unless a length is between 0 and 1,000,000 seconds, or None."""
    if seconds is not None and not 0 < seconds < 1e6:
        raise cannot_be(name, seconds, SECONDS["words"])


# Characters when escaped as JSON: files store a prompt, a negative one, and the prompts of a piece in a
# comment, which opus limits to 60 kB.
LONGEST_PROMPT = 15_000


def clean_prompt(text: str) -> str:
    """Strip a prompt and replace each run of spaces, tabs and newlines by one space.
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
                f"The prompt contains a control character (U+{ord(character):04X}, at {at + 1}).",
                "Remove it: a prompt is plain text.",
            )
    length = len(json.dumps(one_line))
    if length > LONGEST_PROMPT:
        raise UsageError(
            f"The prompt is too long: {len(one_line)} characters.", "Use a sentence or two."
        )
    return one_line
