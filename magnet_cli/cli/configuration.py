"""Default values of flags: config.toml in the user's configuration folder, and profiles.

    model = "small"            # for every command
    lufs = -16

    [profile.drums]            # with --profile drums
    duration = 4
    format = "flac"

Flags take precedence over the environment, then come profiles, then the rest of the file. Records hold
the resulting values, so neither a sound file nor a printed command depends on config.toml. Only commands
read it, not the Python API. Invalid entries give a warning and are ignored.

settings.json beside it is written by the program (licences that were shown), and holds the default model
of versions before config.toml.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from magnet_cli.errors import MagnetError, UsageError
from magnet_cli.fields import NotOfTypeError, Setting, shown, typed
from magnet_cli.files import atomic_path
from magnet_cli.foreign import reading
from magnet_cli.settings import PRESETS, OutputConfig

FILE = "config.toml"
NO_PROFILE = "none"  # neither the file's defaults nor a profile

# Built-in profiles; a user's profile of the same name replaces one.
SHIPPED: dict[str, dict[str, Any]] = {
    "game-loop": {"loop": True, "format": "ogg", "lufs": -16.0},
    "sfx": {"duration": 3.0, "format": "wav", "sample_rate": 48_000, "lufs": -16.0},
}

_MOST_BYTES = 1_000_000


@dataclass(frozen=True)
class Configuration:
    """The content of config.toml.

    Attributes:
        path: the file.
        defaults: values by setting name.
        profiles: the same by profile name, without the built-in ones.
        problems: sentences on what cannot be used.
    """

    path: Path
    defaults: Mapping[str, Any] = field(default_factory=dict)
    profiles: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Held:
    """A value and its source: "config.toml" or "profile drums"."""

    value: Any
    source: str


def folder() -> Path:
    """The folder of config.toml and settings.json."""
    import platformdirs

    return Path(platformdirs.user_config_dir("magnet", appauthor=False))


def settable() -> dict[str, Setting]:
    """The settings that config.toml may set, by name: those for clips, except the seed."""
    from magnet_cli.cli.settings import (
        ClipOptions,
        DecodingOptions,
        ModelOptions,
        PartnerOptions,
        WindowOptions,
        flags_of,
    )

    groups = (
        ModelOptions,
        ClipOptions,
        WindowOptions,
        DecodingOptions,
        PartnerOptions,
        OutputConfig,
    )
    loop = Setting("Clips", "Make a seamless loop.", name="loop", kind=bool)
    found = {each.name: each for group in groups for each in flags_of(group)}
    return {name: each for name, each in {**found, "loop": loop}.items() if name not in _UNSET}


_UNSET = ("seed", "profile")  # a seed in config.toml would make all clips alike


def read() -> Configuration:
    """Read config.toml, which may be missing; errors in it become `problems`."""
    path = folder() / FILE
    try:
        values = reading.toml_of(reading.read_text(path, _MOST_BYTES))
    except FileNotFoundError:
        return Configuration(path)
    except (OSError, ValueError) as error:
        return Configuration(
            path, problems=(f"{path} cannot be read: {reading.reason(error)}. It is ignored.",)
        )
    problems: list[str] = []
    named = values.pop("profile", {})
    profiles = {}
    for name, own in named.items() if isinstance(named, dict) else ():
        if isinstance(own, dict):
            profiles[name] = _checked(own, f"{path}, profile {shown(name)[1:-1]}", problems)
    if not isinstance(named, dict) or len(profiles) < len(named):
        problems.append(f"{path}: a profile is a table: [profile.NAME].")
    return Configuration(path, _checked(values, str(path), problems), profiles, tuple(problems))


def _checked(values: Mapping[str, Any], where: str, problems: list[str]) -> dict[str, Any]:
    """The valid values by setting name; others are added to `problems`."""
    table = settable()
    short = {each.names[0][2:].replace("-", "_"): name for name, each in table.items()}
    kept: dict[str, Any] = {}
    for said, value in values.items():
        plain = said.strip().replace("-", "_")
        name = plain if plain in table else short.get(plain)
        if name is None:
            problems.append(f"{where}: there is no setting {shown(said)}.")
            continue
        each = table[name]
        try:
            right = typed(each.kind, value, example=each.example)
        except NotOfTypeError as error:
            problems.append(f"{where}: {said} cannot be {shown(value)}: it takes {error}.")
            continue
        if not each.fits(right):
            problems.append(f"{where}: {said} cannot be {shown(value)}: it takes {each.takes}.")
        elif not _parses(each.name, right):
            problems.append(f"{where}: {said} cannot be {shown(value)}.")
        elif name in kept:
            problems.append(f"{where}: {name} is set twice.")
        else:
            kept[name] = right
    if "preset" in kept and "decoding_steps" in kept:
        problems.append(f"{where}: preset and steps both set the steps: preset is ignored.")
        del kept["preset"]
    return kept


def _parses(name: str, value: Any) -> bool:
    """Whether a value is valid that its setting's table does not check."""
    if name == "preset":
        return value in PRESETS
    return name not in ("duration", "overlap") or bool(0 < value < 1e6)


def layered(configuration: Configuration, profile: str | None) -> dict[str, Held]:
    """The values for flags that are given neither on the command line nor in the environment.

    Args:
        profile: the requested profile, if any.

    Raises:
        UsageError: there is no such profile.
    """
    if profile == NO_PROFILE:
        return {}
    held = {name: Held(value, FILE) for name, value in configuration.defaults.items()}
    if profile is None:
        return held
    own = configuration.profiles.get(profile, SHIPPED.get(profile))
    if own is None:
        known = sorted({*configuration.profiles, *SHIPPED})
        raise UsageError(
            f"There is no profile {shown(profile)}.",
            " ".join(
                [f"Use one of {', '.join(known)}, or {NO_PROFILE}.", *configuration.problems[:1]]
            ),
        )
    for one, other in (("preset", "decoding_steps"), ("decoding_steps", "preset")):
        if one in own:
            held.pop(other, None)
    return held | {name: Held(value, f"profile {profile}") for name, value in own.items()}


def as_flags(held: Mapping[str, Held]) -> dict[str, Any]:
    """Values as typer's parser takes them: lists are joined by commas for flags that take them so."""
    table = settable()
    return {
        name: ",".join(map(str, each.value)) if table[name].is_joined else each.value
        for name, each in held.items()
    }


def soften(values: dict[str, Any], is_soft: Callable[[str], bool]) -> None:
    """Reset configured values that conflict with the flags of this call.

    Args:
        values: values of a command's flags by name; changed in place.
        is_soft: whether a flag's value comes from the configuration.
    """
    from magnet_cli.audio.formats import CONTAINERS
    from magnet_cli.cli.settings import flags_of

    table = {each.name: each for each in flags_of(OutputConfig)}

    def leave(name: str) -> None:
        if values.get(name) is not None and is_soft(name):
            values[name] = table[name].default if name in table else None

    if values.get("preset") is not None and values.get("decoding_steps") is not None:
        leave("preset" if is_soft("preset") else "decoding_steps")
    if values.get("rescorer") is None:
        leave("rescorer_weight")
        leave("rescore_streams")
    if values.get("loop"):
        leave("fade")
    if values.get("through_codec") is False:  # such an edit has its input's format
        for name in table:
            leave(name)
    suffix = Path(str(values.get("destination") or "")).suffix.lower().removeprefix(".")
    if suffix in CONTAINERS:
        leave("format")
    container = CONTAINERS.get(values.get("format") or suffix)  # type: ignore[arg-type]
    if container is not None:
        if values.get("bit_depth") not in container.subtypes:
            leave("bit_depth")
        if values.get("sample_rate") and not container.holds(values["sample_rate"]):
            leave("sample_rate")


# -------------------------------------------------------------------------------- the default model


def default_model(warn: Callable[[str], None] | None = None) -> str | None:
    """The model that `magnet models use` set, or None; warns if a file cannot be read."""
    configuration = read()
    if warn is not None:
        for problem in configuration.problems:
            warn(problem)
    name = configuration.defaults.get("model")
    if name is not None:
        return str(name)
    try:
        name = read_notes().get("model")
    except UsageError as error:
        if warn is not None:
            warn(f"{error.message} Its default model is ignored. {error.hint}")
        return None
    return name if isinstance(name, str) else None


_MODEL_LINE = re.compile(r"""^[ \t]*["']?model["']?[ \t]*=""")


def set_default_model(name: str | None) -> None:
    """Write the default model to config.toml and keep its other lines; None removes it.
    Raises MagnetError: the file cannot be read or written."""
    path = folder() / FILE
    try:
        text = reading.read_text(path, _MOST_BYTES)
        before = reading.toml_of(text)
    except FileNotFoundError:
        text, before = "", {}
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be read: {reading.reason(error)}.", "Correct it, or delete it."
        ) from error
    lines = text.splitlines(keepends=True)
    tables = next(
        (at for at, line in enumerate(lines) if line.lstrip().startswith("[")), len(lines)
    )
    top = [line for line in lines[:tables] if not _MODEL_LINE.match(line)]
    after = {key: value for key, value in before.items() if key != "model"}
    if name is not None:
        top.insert(0, f"model = {_toml_text(name)}\n")
        after["model"] = name
    new = "".join([*top, *lines[tables:]])
    if reading.toml_of(new) != after:
        said = "Remove the model" if name is None else f"Write model = {_toml_text(name)}"
        raise UsageError(f"{path} cannot be changed automatically.", f"{said} there yourself.")
    if new != text:
        _write(path, new)
    notes = read_notes()
    if notes.pop("model", None) is not None:
        write_notes(notes)


def _toml_text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


# -------------------------------------------------------------------------- what the program notes itself


def read_notes() -> dict[str, Any]:
    """Read settings.json. Raises UsageError if it cannot be read."""
    path = folder() / "settings.json"
    try:
        text = reading.read_text(path)
        notes = reading.json_of(text) if text.strip() else {}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}.", "Check its permissions, or delete it."
        ) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not valid JSON.", "Correct it, or delete it.") from error
    if not isinstance(notes, dict):
        raise UsageError(f"{path} is not a JSON object.", "Delete it.")
    return notes


def write_notes(notes: Mapping[str, Any]) -> None:
    """Write settings.json. Raises MagnetError if it cannot be written."""
    _write(folder() / "settings.json", json.dumps(notes, indent=2) + "\n")


def note_once(what: str, of: str) -> bool:
    """Record that a notice (licences_said) was shown for a model; returns whether it is the first time."""
    try:
        notes = read_notes()
        noted = notes.get(what)
        said = (
            [entry for entry in noted if isinstance(entry, str)] if isinstance(noted, list) else []
        )
        if of in said:
            return False
        write_notes({**notes, what: [*said, of]})
    except MagnetError:
        pass  # it cannot be recorded, so the notice is repeated
    return True


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(os.path.realpath(path)) as partial:  # keep a symbolic link
            partial.write_text(text, "utf-8")
    except (OSError, UnicodeEncodeError) as error:
        why = getattr(error, "strerror", "a name that it is to hold is not UTF-8")
        raise MagnetError(
            f"{path} cannot be written: {why}.", "Set MAGNET_MODEL instead."
        ) from error
