"""Validates the record in a file, from which a command is printed.

Records are untrusted, so they cannot choose flags: this module lists the flags that each command records.
Values must have the types and bounds of their flags, and names and prompts must be one line of text.
Everything else is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from magnet_cli.cli.settings import DecodingOptions, PartnerOptions, flags_of
from magnet_cli.config import PRECISIONS
from magnet_cli.errors import UsageError
from magnet_cli.fields import (
    NotOfTypeError,
    Setting,
    clean_prompt,
    parse_region,
    settings_of,
    typed,
)
from magnet_cli.foreign.reading import is_plain
from magnet_cli.settings import MAX_SEED, BarsConfig, OutputConfig

_LONGEST_NAME = 4096  # characters of a path or a model's name
_MOST_LORAS = 64
HELPERS = ("rescorer", "hybrid_model")


def _is_number(value: Any) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return math.isfinite(value) and abs(value) < 1e6


def _is_name(value: Any) -> bool:
    fits = isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME
    return fits and all(map(is_plain, value))


def _is_model(value: Any) -> bool:
    return _is_name(value) and not value.startswith("-")


def _is_regions(value: Any) -> bool:
    try:
        return isinstance(value, list) and bool(value) and all(map(parse_region, value))
    except (UsageError, AttributeError, TypeError):
        return False


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _within(each: Setting) -> Callable[[Any], bool]:
    return lambda value: not isinstance(value, bool) and each.fits(value)


# Flags that a command records besides its settings, with a check of their values.
_FLAGS: dict[str, dict[str, Callable[[Any], bool]]] = {
    "gen": {
        **{name: _within(each) for name, each in settings_of(BarsConfig).items()},
        **{"loop": _is_flag, "exact": _is_flag, "overlap": _is_number},
    },
    "extend": {"to": _is_number, "overlap": _is_number},
    "edit": {"region": _is_regions, "through_codec": _is_flag, "overlap": _is_number},
    "vary": {"strength": _is_number, "keep_streams": _is_number, "overlap": _is_number},
}

_WORDS: dict[str, Callable[[Any], bool]] = {
    "model": _is_model,
    "repo": _is_model,
    "revision": _is_model,
    "source": _is_model,
    "weights": _is_name,
    "device": _is_name,
    "dtype": lambda value: value in PRECISIONS,
    "seed": lambda value: type(value) is int and 0 <= value <= MAX_SEED,
    "duration": lambda value: _is_number(value) and value > 0,
}


def recorded(made: Mapping[str, Any]) -> dict[str, Any]:
    """The valid part of a record; see the module's docstring.

    Args:
        made: the record in a file.
    """
    kept = {name: value for name, value in made.items() if name in _WORDS and _fits(name, value)}
    for name in ("prompt", "negative"):
        if isinstance(made.get(name), str) and (text := _prompt(made[name])) is not None:
            kept[name] = text
    for name, value in made.items():
        if name in HELPERS and isinstance(value, Mapping):
            kept[name] = {key: part for key, part in value.items() if _fits(key, part)}
            kept[name] |= _loras(value)
    kept |= _loras(made)
    for name in ("given", "output", "decoding"):
        if isinstance(made.get(name), Mapping):
            kept[name] = _settings(made[name], keep_unknown=name == "decoding")
    if isinstance(made.get("edit"), Mapping):
        kept["edit"] = _edit(made["edit"])
    if made.get("known_codes"):
        kept["known_codes"] = True
    if _is_number(made.get("bpm")) and made["bpm"] > 0:
        kept["bpm"] = made["bpm"]
    return kept


def table_in(made: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A table of a record; empty if the record lacks it, or has something else in its place."""
    value = made.get(key)
    return dict(value) if isinstance(value, Mapping) else {}


def _loras(made: Mapping[str, Any]) -> dict[str, Any]:
    """The adapters of a model, if all are valid."""
    told = made.get("lora")
    if not isinstance(told, list) or not 0 < len(told) <= _MOST_LORAS:
        return {}
    fits = all(
        isinstance(one, Mapping) and _is_model(one.get("file")) and _is_number(one.get("scale"))
        for one in told
    )
    return {"lora": [dict(one) for one in told]} if fits else {}


def problem_of(made: Mapping[str, Any]) -> str | None:
    """Why no command can be made from a record, or None."""
    prompt, edit = made.get("prompt"), table_in(made, "edit")
    if made.get("known_codes") and "command" not in edit:
        return "it was made in Python from given codes"
    cues = edit.get("cues")
    pairs = [cue for cue in cues if isinstance(cue, list)] if isinstance(cues, list) else []
    texts = [pair[1] for pair in pairs if len(pair) == 2]
    if not all([*texts, made.get("prompt", True)]):
        return "it was made in Python without a prompt"
    if prompt and (not isinstance(prompt, str) or _prompt(prompt) in (None, "-")):
        return "its prompt is not valid for a command"
    return None


def protected(arguments: Sequence[str], prompts: Sequence[str]) -> list[str]:
    """Join arguments and prompts so that no prompt is read as a flag.

    Args:
        arguments: flags and their values.
        prompts: a prompt, or several with flags between them: `A --at 6 B`.
    """
    words, flags = list(prompts[:1]), list[str]()
    for at in range(1, len(prompts), 3):
        flags += prompts[at : at + 2]
        words.append(prompts[at + 2])
    if any(word.startswith("-") for word in words):
        return [*arguments, *flags, "--", *words]
    return [*arguments, *prompts]


def _fits(name: str, value: Any) -> bool:
    return name in _WORDS and _WORDS[name](value)


def _prompt(text: str) -> str | None:
    """A cleaned prompt, or None if it is not valid."""
    try:
        return clean_prompt(text) if text else ""
    except UsageError:
        return None


def _table() -> dict[str, Setting]:
    groups = (DecodingOptions, PartnerOptions, OutputConfig)
    return {each.name: each for group in groups for each in flags_of(group)}


def _settings(values: Mapping[str, Any], keep_unknown: bool) -> dict[str, Any]:
    """The settings whose values have the right type and bounds.

    Args:
        keep_unknown: keep settings without a flag, to report them; they are never put in a command.
    """
    table, kept = _table(), {}
    for name, value in values.items():
        each = table.get(name)
        if each is None:
            if keep_unknown:
                kept[name] = value
            continue
        if value is None:
            kept[name] = None
            continue
        try:
            right = typed(each.kind, value)
        except NotOfTypeError:
            continue
        is_text = each.kind is str
        if each.fits(right) and (not is_text or _is_model(right)) and _is_finite(right):
            kept[name] = value
    return kept


def _is_finite(value: Any) -> bool:
    values = value if isinstance(value, (list, tuple)) else [value]
    return all(math.isfinite(one) for one in values if isinstance(one, float))


def _edit(edit: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    command = edit.get("command")
    if isinstance(command, str) and command in _FLAGS:
        kept["command"] = command
    if _is_name(edit.get("input")):
        kept["input"] = edit["input"]
    flags, allowed = edit.get("flags"), _FLAGS.get(kept.get("command", "gen"), {})
    if isinstance(flags, Mapping):
        kept["flags"] = {
            name: value
            for name, value in flags.items()
            if name in allowed and (value is None or allowed[name](value))
        }
    if _is_number(edit.get("overlap")):
        kept["overlap"] = edit["overlap"]
    beat = edit.get("beat")
    if isinstance(beat, Mapping):
        numbers = {name: value for name, value in beat.items() if name in ("bpm", "beats")}
        kept["beat"] = {name: n for name, n in numbers.items() if _is_number(n) and n > 0}
    cues = edit.get("cues")
    if isinstance(cues, list):
        pairs = [cue for cue in cues if isinstance(cue, list) and len(cue) == 2]
        texts = [(at, _prompt(text)) for at, text in pairs if isinstance(text, str)]
        if len(texts) == len(cues) and all(_is_number(at) and text for at, text in texts):
            kept["cues"] = [[at, text] for at, text in texts]
    return kept
