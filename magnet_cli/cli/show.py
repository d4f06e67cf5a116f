"""`magnet show`: what a sound file is, how it was made, and the command that makes it again."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from magnet_cli.cli.ensemble import EnsembleOptions
from magnet_cli.cli.flags import flag_of, takes_flags
from magnet_cli.cli.options import DecodingOptions, OutputOptions, TalkOptions
from magnet_cli.cli.output import Talk, printable

EXAMPLES = """
Examples:

    magnet show piano.wav
    magnet show piano.wav --spectrogram piano.png
    magnet show piano.wav --json | jq .settings.seed
"""


# The models that take part in a clip beside its own, by the names of their flags' fields.
HELPERS = ("rescorer", "hybrid_model")


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("show", epilog=EXAMPLES)(show)


@takes_flags
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A sound file, of any maker.")],
    spectrogram: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw waveform and spectrogram.", show_default=False),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Replace a picture that exists.")
    ] = False,
    *,
    talk: TalkOptions,
) -> None:
    """Show a sound file: its level, how it was made, how to make it again."""
    from magnet_cli.audio import io, loudness, pictures
    from magnet_cli.cli.targets import check_writable
    from magnet_cli.errors import UsageError

    voice = Talk(talk)
    if spectrogram is not None:
        if spectrogram.suffix.lower() != ".png":
            raise UsageError(f"{spectrogram} is not a .png file.", "End its name in .png.")
        check_writable(spectrogram, force)
    sound = io.read(file)
    lufs = loudness.measure(sound.samples, sound.sample_rate)
    peak = loudness.peak_of(sound.samples)
    if spectrogram is not None:
        pictures.draw(spectrogram, sound.samples, sound.sample_rate, file.name)
        voice.note(f"Drew {spectrogram}")
    command = command_for(sound.metadata, file.name) if sound.metadata is not None else None
    if talk.json:
        voice.data(_record(file, sound, lufs, peak, command))
        return
    lines = [
        ("File", str(file)),
        ("Format", f"{sound.kind} {sound.subtype}"),
        ("Length", f"{sound.duration:.2f} s, {sound.samples.shape[0]} channels, "
         f"{sound.sample_rate} Hz"),
        ("Loudness", _decibels(lufs, "LUFS")),
        ("Peak", _decibels(peak, "dBFS")),
    ]  # fmt: skip
    lines += _making(sound.metadata) if sound.metadata is not None else []
    width = max(len(name) for name, _ in lines) + 2
    for name, value in lines:
        voice.print(f"{name:<{width}}{printable(value)}")
    if command is None:
        voice.print("\nmagnet's settings are not in this file: it was made by something else.")
    else:
        voice.print("\nTo make it again:\n\n  " + printable(shlex.join(command)))


def command_for(made: Mapping[str, Any], name: str) -> list[str]:
    """The command line that makes a clip again, from what its file says.

    Args:
        made: `provenance.record`, perhaps by another version, perhaps tampered with: what is not
            as expected is left out.
        name: the file to write.
    """
    edit = made.get("edit")
    edit = edit if isinstance(edit, Mapping) else {}
    arguments = ["magnet", *_called(edit)]
    model = _model(made)
    if model is not None:
        arguments += ["-m", model]
    for key in ("seed", "negative", "duration"):
        value = made.get(key)
        if isinstance(value, (int, float, str)):
            arguments += [f"--{key}", _text(value)]
    helpers = {part: _model(made[part]) for part in HELPERS if isinstance(made.get(part), Mapping)}
    for group, values in (
        (EnsembleOptions, helpers),
        (EnsembleOptions, made.get("given")),
        (DecodingOptions, made.get("given")),
        (OutputOptions, made.get("output")),
    ):
        arguments += _flags(group, values if isinstance(values, Mapping) else {})
    default = "float16" if made.get("device") == "cuda" else "float32"
    if made.get("dtype") not in (None, default):
        arguments += ["--dtype", _text(made["dtype"])]
    arguments += ["-o", name if not name.startswith("-") else f"./{name}"]
    arguments += _edit_flags(edit)
    prompts = _timed(edit) or [_text(made.get("prompt") or "")]
    return [*arguments, "--", *prompts] if prompts[0].startswith("-") else [*arguments, *prompts]


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
                arguments += [flag, _text(one)]
    return arguments


def _timed(edit: Mapping[str, Any]) -> list[str]:
    """Prompts with their times, where a piece has several: `A --at 6 B`."""
    cues = edit.get("cues")
    if not isinstance(cues, list) or len(cues) < 2:
        return []
    pairs = [(cue[0], _text(cue[1])) for cue in cues if isinstance(cue, list) and len(cue) == 2]
    words = [word for start, prompt in pairs for word in ("--at", _text(start), prompt)]
    return words[2:]


def _flags(group: type, values: Mapping[str, Any]) -> list[str]:
    """The flags of a group that set `values`, by the names of its fields."""
    arguments = []
    for field in dataclasses.fields(group):
        value = values.get(field.name)
        if value is None:
            continue
        on, off = flag_of(group, field.name)
        if off is not None:
            arguments.append(on if value else off)
        else:
            arguments += [on, _text(value)]
    return arguments


def _model(made: Mapping[str, Any]) -> str | None:
    repo, revision = made.get("repo"), made.get("revision")
    if isinstance(repo, str):
        return f"{repo}@{revision}" if isinstance(revision, str) else repo
    name = made.get("source") or made.get("model")
    return name if isinstance(name, str) else None


def _making(made: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Lines on how a clip was made."""
    versions = made.get("versions")
    versions = versions if isinstance(versions, Mapping) else {}
    decoding = made.get("decoding")
    decoding = decoding if isinstance(decoding, Mapping) else {}
    lines = [
        ("Prompt", _text(made.get("prompt"))),
        ("Negative", _text(made.get("negative"))),
        ("Model", _text(_model(made))),
        *((part.replace("_", " ").capitalize(), _text(_model(made[part])))
          for part in HELPERS if isinstance(made.get(part), Mapping)),
        ("Seed", _text(made.get("seed"))),
        ("Decoding", ", ".join(f"{name} {_text(value)}" for name, value in decoding.items())),
        ("Made on", f"{_text(made.get('device'))} in {_text(made.get('dtype'))}, "
         + ", ".join(f"{name} {_text(value)}" for name, value in versions.items())),
    ]  # fmt: skip
    return [(name, value) for name, value in lines if value]


def _record(
    file: Path, sound: Any, lufs: float, peak: float, command: list[str] | None
) -> dict[str, Any]:
    return {
        "file": str(file),
        "format": sound.kind,
        "subtype": sound.subtype,
        "duration": sound.duration,
        "channels": sound.samples.shape[0],
        "sample_rate": sound.sample_rate,
        "loudness": round(lufs, 2) if lufs > -1000 else None,
        "peak": round(peak, 2) if peak > -1000 else None,
        "settings": sound.metadata,
        "command": shlex.join(command) if command is not None else None,
    }


def _decibels(value: float, unit: str) -> str:
    return f"{value:.1f} {unit}" if value > -1000 else "silence"


def _text(value: Any) -> str:
    """A value as a flag takes it."""
    if value is None:
        return ""
    if isinstance(value, list):
        return ",".join(map(_text, value))
    return str(value)
