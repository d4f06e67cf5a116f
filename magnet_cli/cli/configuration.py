"""What flags are where nobody says them: config.toml in the user's folder, and profiles.

    model = "small"            # what every command takes
    lufs = -16

    [profile.drums]            # what those take that say --profile drums
    duration = 4
    format = "flac"

A flag goes before the environment, that before a profile, that before the rest of the file. Records hold
what came of it, so no file and no printed command depends on this one. Commands alone read it; Python
programs do not. What cannot be used is said, and stops nothing that did not ask for it.

settings.json beside it keeps what the program notes itself (licences that were said), and the default
model of versions before this file.
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

# Profiles that are always there. Of a user's own, one of such a name goes before it.
SHIPPED: dict[str, dict[str, Any]] = {
    "game-loop": {"loop": True, "format": "ogg", "lufs": -16.0},
    "sfx": {"duration": 3.0, "format": "wav", "sample_rate": 48_000, "lufs": -16.0},
}

_MOST_BYTES = 1_000_000


@dataclass(frozen=True)
class Configuration:
    """What the file says.

    Attributes:
        path: of the file.
        defaults: values by the names of settings.
        profiles: the same, by the names of the profiles; without those that are shipped.
        problems: what cannot be used of it, in sentences.
    """

    path: Path
    defaults: Mapping[str, Any] = field(default_factory=dict)
    profiles: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Held:
    """A value and where it comes from: "config.toml", "profile drums"."""

    value: Any
    source: str


def folder() -> Path:
    """Where the files are."""
    import platformdirs

    return Path(platformdirs.user_config_dir("magnet", appauthor=False))


def settable() -> dict[str, Setting]:
    """The settings that a configuration may set, by name: those of clips, but for the seed."""
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
    loop = Setting("Clips", "End so that it goes on into its beginning.", name="loop", kind=bool)
    found = {each.name: each for group in groups for each in flags_of(group)}
    return {name: each for name, each in {**found, "loop": loop}.items() if name not in _UNSET}


_UNSET = ("seed", "profile")  # one seed for all clips would be a trap


def read() -> Configuration:
    """What config.toml says; nothing where there is none. What is wrong with it is among its problems."""
    path = folder() / FILE
    try:
        values = reading.toml_of(reading.read_text(path, _MOST_BYTES))
    except FileNotFoundError:
        return Configuration(path)
    except (OSError, ValueError) as error:
        return Configuration(
            path, problems=(f"{path} cannot be read: {reading.reason(error)}. It is not used.",)
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
    """The values that can be used, by the names of their settings; the others become problems."""
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
            problems.append(f"{where}: {name} is there twice.")
        else:
            kept[name] = right
    if "preset" in kept and "decoding_steps" in kept:
        problems.append(f"{where}: preset and steps both set the steps: preset is left out.")
        del kept["preset"]
    return kept


def _parses(name: str, value: Any) -> bool:
    """Whether a command takes what the flag's own table does not judge."""
    if name == "preset":
        return value in PRESETS
    return name not in ("duration", "overlap") or bool(0 < value < 1e6)


def layered(configuration: Configuration, profile: str | None) -> dict[str, Held]:
    """What holds where neither a flag nor the environment says otherwise.

    Args:
        profile: the one that was asked for, if any.

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
                [f"Take one of {', '.join(known)}, or {NO_PROFILE}.", *configuration.problems[:1]]
            ),
        )
    for one, other in (("preset", "decoding_steps"), ("decoding_steps", "preset")):
        if one in own:
            held.pop(other, None)
    return held | {name: Held(value, f"profile {profile}") for name, value in own.items()}


def as_flags(held: Mapping[str, Held]) -> dict[str, Any]:
    """Values as the program's parser takes them: several are one text where the flag takes them so."""
    table = settable()
    return {
        name: ",".join(map(str, each.value)) if table[name].is_joined else each.value
        for name, each in held.items()
    }


def soften(values: dict[str, Any], is_soft: Callable[[str], bool]) -> None:
    """Let go of values that nobody said for this call and that do not go with what was said.

    Args:
        values: of a command's flags, by name.
        is_soft: whether the value of a flag comes from the configuration.
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
    if values.get("through_codec") is False:  # such an edit is as its input is
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
    """What `magnet models use` set; None, and a warning, where a file cannot be read."""
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
            warn(f"{error.message} Its default model is not used. {error.hint}")
        return None
    return name if isinstance(name, str) else None


_MODEL_LINE = re.compile(r"""^[ \t]*["']?model["']?[ \t]*=""")


def set_default_model(name: str | None) -> None:
    """Write the default model to config.toml, whose other lines stay; None takes it out.

    Raises:
        MagnetError: the file cannot be read, or not be written.
    """
    path = folder() / FILE
    try:
        text = reading.read_text(path, _MOST_BYTES)
        before = reading.toml_of(text)
    except FileNotFoundError:
        text, before = "", {}
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be read: {reading.reason(error)}.", "Mend it, or delete it."
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
        said = "Take it out" if name is None else f"Write model = {_toml_text(name)}"
        raise UsageError(f"{path} is written in a way that only you can change.", f"{said} there.")
    if new != text:
        _write(path, new)
    notes = read_notes()
    if notes.pop("model", None) is not None:
        write_notes(notes)


def _toml_text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


# -------------------------------------------------------------------------- what the program notes itself


def read_notes() -> dict[str, Any]:
    """What settings.json says. Raises UsageError: it cannot be read."""
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
        raise UsageError(f"{path} holds no JSON.", "Mend it, or delete it.") from error
    if not isinstance(notes, dict):
        raise UsageError(f"{path} holds no settings.", "Delete it.")
    return notes


def write_notes(notes: Mapping[str, Any]) -> None:
    """Write settings.json. Raises MagnetError: it cannot be written."""
    _write(folder() / "settings.json", json.dumps(notes, indent=2) + "\n")


def note_once(what: str, of: str) -> bool:
    """Note that something (licences_said) is being said of a model; whether this is the first time."""
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
        pass  # it cannot be noted, so it is said again
    return True


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(os.path.realpath(path)) as partial:  # a link to it stays one
            partial.write_text(text, "utf-8")
    except OSError as error:
        raise MagnetError(
            f"{path} cannot be written: {error.strerror}.", "Set MAGNET_MODEL instead."
        ) from error
