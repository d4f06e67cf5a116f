"""The command line that makes a clip again, from what its file says of how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from magnet_cli.audio.formats import CONTAINERS
from magnet_cli.cli.settings import DecodingOptions, PartnerOptions, spelled
from magnet_cli.settings import OutputConfig

# The models that take part in a clip beside its own, by the names of their flags' fields.
HELPERS = ("rescorer", "hybrid_model")


def command_for(made: Mapping[str, Any], name: str, suffix: str = "") -> list[str]:
    """The command line that makes a clip again, from what its file says.

    Args:
        made: `provenance.record`, perhaps by another version, perhaps tampered with: what is not
            as expected is left out.
        name: the file to write.
        suffix: what files of its format end in, such as wav; said where `name` does not end in one.
    """
    edit = made.get("edit")
    edit = edit if isinstance(edit, Mapping) else {}
    arguments = ["magnet", *_called(edit)]
    model = model_of(made)
    if model is not None:
        arguments += ["-m", model]
    for key in ("seed", "negative", "duration"):
        value = made.get(key)
        if isinstance(value, (int, float, str)):
            arguments += [f"--{key}", as_text(value)]
    helpers = {
        part: model_of(made[part]) for part in HELPERS if isinstance(made.get(part), Mapping)
    }
    for group, values in (
        (PartnerOptions, helpers),
        (PartnerOptions, made.get("given")),
        (DecodingOptions, made.get("given")),
        (OutputConfig, made.get("output")),
    ):
        arguments += spelled(group, values if isinstance(values, Mapping) else {})
    default = "float16" if made.get("device") == "cuda" else "float32"
    if made.get("dtype") not in (None, default):
        arguments += ["--dtype", as_text(made["dtype"])]
    if suffix and not _says_format(name):
        if edit.get("command") == "edit" and "--through-codec" not in _edit_flags(edit):
            name = f"{name}.{suffix}"  # such an edit takes no flags of the sound file
        elif suffix in CONTAINERS:
            arguments += ["--format", suffix]
    arguments += ["-o", name if not name.startswith("-") else f"./{name}"]
    arguments += _edit_flags(edit)
    prompts = _timed(edit) or [as_text(made.get("prompt") or "")]
    return [*arguments, "--", *prompts] if prompts[0].startswith("-") else [*arguments, *prompts]


def _says_format(name: str) -> bool:
    """Whether a file's name ends in a format that can be written, of any command."""
    return Path(name).suffix.lower().removeprefix(".") in {*CONTAINERS, "aif", "aiff", "oga"}


def _called(edit: Mapping[str, Any]) -> list[str]:
    """The command, and the sound that it starts from where it does."""
    command, source = edit.get("command"), edit.get("input")
    if command in ("extend", "edit", "vary") and isinstance(source, str):
        return [command, source if not source.startswith("-") or source == "-" else f"./{source}"]
    return ["gen"]


def _edit_flags(edit: Mapping[str, Any]) -> list[str]:
    """The command's own flags, a list for one that is repeated."""
    flags = edit.get("flags")
    arguments = []
    for name, value in flags.items() if isinstance(flags, Mapping) else ():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            arguments.append(flag)
        elif value is not None and value is not False:
            for one in value if isinstance(value, list) else [value]:
                arguments += [flag, as_text(one)]
    return arguments


def _timed(edit: Mapping[str, Any]) -> list[str]:
    """Prompts with their times, where a piece has several: `A --at 6 B`."""
    cues = edit.get("cues")
    if not isinstance(cues, list) or len(cues) < 2:
        return []
    pairs = [(cue[0], as_text(cue[1])) for cue in cues if isinstance(cue, list) and len(cue) == 2]
    words = [word for start, prompt in pairs for word in ("--at", as_text(start), prompt)]
    return words[2:]


def model_of(made: Mapping[str, Any]) -> str | None:
    """The model of a clip, as `--model` takes it."""
    repo, revision = made.get("repo"), made.get("revision")
    if isinstance(repo, str):
        return f"{repo}@{revision}" if isinstance(revision, str) else repo
    name = made.get("source") or made.get("model")
    return name if isinstance(name, str) else None


def as_text(value: Any) -> str:
    """A value as a flag takes it."""
    if value is None:
        return ""
    if isinstance(value, list):
        return ",".join(map(as_text, value))
    return str(value)
