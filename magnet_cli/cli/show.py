"""`magnet show`: shows sound files, their records, and the commands that make them again."""

from __future__ import annotations

import dataclasses
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from magnet_cli.cli.again import command_for, differences, loras_of, model_of
from magnet_cli.cli.hearing import hear
from magnet_cli.cli.inputs import STDIN, piped, say_pipe
from magnet_cli.cli.recorded import HELPERS, problem_of, recorded, table_in
from magnet_cli.cli.settings import TalkOptions, as_text, takes_flags
from magnet_cli.cli.talk import Talk, complain, printable, shell_line, stdout_is_terminal
from magnet_cli.errors import MagnetError, PartialFailureError, UsageError
from magnet_cli.naming import count_of
from magnet_cli.targets import check_writable

if TYPE_CHECKING:
    from magnet_cli.audio.loudness import Level
    from magnet_cli.audio.sound import Sound

app = typer.Typer(rich_markup_mode="markdown")

EXAMPLES = """
Examples:

    magnet show piano.wav
    magnet show piano.wav --spectrogram piano.png
    magnet show clips/*.wav --json | jq .settings.seed
    magnet gen "lofi piano" -o - | magnet show -
"""


_FEW = 3  # files to show in full; more are shown in a table


@app.command("show", epilog=EXAMPLES)
@takes_flags
def show(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE",
            help="Sound files, made by magnet or not; `-` reads one from stdin.",
            show_default=False,
        ),
    ],
    spectrogram: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png",
            help="Draw the waveform and spectrogram of one file.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Replace a picture that exists.")
    ] = False,
    play: Annotated[
        bool, typer.Option("--play", help="Play the files; loops play until Enter.")
    ] = False,
    *,
    talk: TalkOptions,
) -> None:
    """Show a sound file's levels, settings, and the command that makes it again.

    More than three files are shown as a table.
    """
    voice = Talk(talk)
    if spectrogram is not None:
        if len(files) > 1:
            raise UsageError(
                f"One picture cannot show {len(files)} files.", "Give one file with --spectrogram."
            )
        if spectrogram.suffix.lower() != ".png":
            raise UsageError(f"{spectrogram} is not a .png file.", "Give a name that ends in .png.")
        check_writable(spectrogram, force)
    if play and STDIN in files:
        raise UsageError("--play plays files, but `-` is not a file.", "Remove one of them.")
    if files.count(STDIN) > 1:
        raise UsageError("stdin can be read only once.", "Give `-` once.")
    failures: list[MagnetError] = []
    table = None
    if len(files) > _FEW and not voice.json:
        table = _Table(files, voice)
    for index, name in enumerate(files):
        try:
            is_loop = _show(name, spectrogram, voice, index > len(failures), table)
            if play:
                hear([(Path(name), is_loop)], voice)
        except MagnetError as error:
            failures.append(error)
            if len(files) > 1:
                complain(error.message, error.hint)
                voice.data({"file": name, "error": str(error)})
    if table is not None:
        voice.note("`magnet show FILE` shows all about one, and the command that makes it again.")
    if failures and len(failures) == len(files):
        raise failures[0]
    if failures:
        raise PartialFailureError(
            f"{len(failures)} of {len(files)} files could not be shown.", "The reasons are above."
        )


class _Table:
    """A table of files, printed as they are read; on a terminal, lines are cut to its width."""

    def __init__(self, files: list[str], voice: Talk) -> None:
        self._voice, self._cut = voice, stdout_is_terminal()
        self._width = shutil.get_terminal_size().columns
        self._names = max(len("File"), *(len(printable(name)) for name in files))
        if self._cut:
            self._names = min(self._names, max(self._width // 3, 12))
        self.row("File", "Length", "LUFS", "Peak", "Prompt")

    def row(self, name: str, length: str, lufs: str, peak: str, prompt: str) -> None:
        """Print a line; of a long name only the end is shown, which tells files apart."""
        if len(name := printable(name)) > self._names:
            name = "…" + name[1 - self._names :]
        line = f"{name:<{self._names}}  {length:>8}  {lufs:>7}  {peak:>5}  {printable(prompt)}".rstrip()
        if self._cut and len(line) > self._width:
            line = line[: self._width - 1] + "…"
        self._voice.print(line)


def _show(
    name: str, spectrogram: Path | None, voice: Talk, apart: bool, table: _Table | None
) -> bool:
    """Show one file, or add it to a table; `apart`: print an empty line first. Returns whether it is a loop.
    Raises MagnetError: the file cannot be read, or the picture not written."""
    from magnet_cli.audio import formats, loudness, pictures
    from magnet_cli.audio.sound import open_sound

    say_pipe(name, voice)
    with open_sound(piped() if name == STDIN else name) as sound:
        for remark in sound.remarks:
            voice.warn(remark)
        # A sound from stdin has no name for the command.
        suffix = formats.suffix_of(sound.kind, sound.subtype)
        file = f"sound.{suffix}" if name == STDIN else Path(name).name
        blocks = sound.blocks(checked=False)
        if spectrogram is not None:
            portrait = pictures.Portrait(sound.length, sound.sample_rate)
            blocks = portrait.watched(blocks)
        level = loudness.level_of(blocks, sound.channels, sound.sample_rate)
    if spectrogram is not None:
        pictures.draw(spectrogram, portrait, file)
        voice.note(f"Drew {spectrogram}")
    made = sound.metadata
    if table is not None:
        prompt = as_text(made.get("prompt")) if made is not None else ""
        lufs, peak = (_decibels(value, "").strip() for value in (level.lufs, level.peak))
        said = "invalid" if level.invalid else lufs
        length = f"{level.length / sound.sample_rate:.2f} s"
        table.row(name, length, said, "" if level.invalid else peak.replace("silence", ""), prompt)
        return _is_loop(made)
    problem = sound.problem or (problem_of(made) if made is not None else None)
    command = None
    if made is not None and problem is None:
        command = command_for(made, file, suffix)
    other = differences(made) if made is not None and command is not None else []
    true_peak = _rounded(level.true_peak)
    between = "" if true_peak is None else f", {true_peak:.1f} dBTP between the samples"
    if voice.json:
        record = _record(name, sound, level, command)
        voice.data(record | {"approximation": other})
        return _is_loop(made)
    lines = [
        ("File", "stdin" if name == STDIN else name),
        ("Format", f"{sound.kind} {sound.subtype}"),
        ("Length", f"{level.length / sound.sample_rate:.2f} s, {count_of(sound.channels, 'channel')}, "
         f"{sound.sample_rate} Hz"),
        ("Loudness", _decibels(level.lufs, "LUFS")),
        ("Peak", _decibels(level.peak, "dBFS") + between),
    ]  # fmt: skip
    if rhythm := _rhythm(sound):
        lines.append(
            ("Loop" if sound.points is not None and sound.points.length else "Tempo", rhythm)
        )
    if level.invalid:
        of = level.length * sound.channels
        lines.append(("Invalid", f"{level.invalid} of {of} samples are NaN or infinite"))
    lines += _making(made) if made is not None else []
    width = max(len(label) for label, _ in lines) + 2
    if apart:
        voice.print("")
    for label, value in lines:
        voice.print(f"{label:<{width}}{printable(value)}")
    if problem is not None:
        voice.print(f"\nThe settings in this file cannot be used: {printable(problem)}.")
    elif command is None:
        voice.print("\nThis file has no settings of magnet: another program made it.")
    else:
        # Say first if the command cannot give the same samples.
        again = "To make it again"
        if other:
            again = f"To make an approximation of it ({printable('; '.join(other))})"
        voice.print(f"\n{again}:\n\n  {shell_line(command)}")
    return _is_loop(made)


def _rhythm(sound: Sound) -> str:
    """A sound's loop points and tempo, in words. wav has no tag for the tempo, which the record has."""
    points, rate = sound.points, sound.sample_rate
    made = recorded(sound.metadata or {})
    beat = made.get("edit", {}).get("beat", {})
    said = []
    if points is not None and points.length is not None:
        start = (points.start or 0) / rate
        said.append(f"from {start:.2f} to {start + points.length / rate:.2f} s")
    bpm = beat.get("bpm", made.get("bpm")) if points is None or points.bpm is None else points.bpm
    said += [] if bpm is None else [f"{bpm:g} bpm"]
    said += [count_of(beat["beats"], "beat")] if "beats" in beat else []
    return ", ".join(said)


def _is_loop(made: Mapping[str, Any] | None) -> bool:
    flags = recorded(made).get("edit", {}).get("flags", {}) if made is not None else {}
    return bool(flags.get("loop"))


def _making(made: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Lines on how a clip was made."""
    versions, decoding = table_in(made, "versions"), table_in(made, "decoding")
    lines = [
        ("Partial", _partial(made)),
        ("Prompt", as_text(made.get("prompt"))),
        ("Negative", as_text(made.get("negative"))),
        ("Model", as_text(model_of(made))),
        ("LoRA", ", ".join(map(str, loras_of(made)))),
        *((part.replace("_", " ").capitalize(), as_text(model_of(made[part])))
          for part in HELPERS if isinstance(made.get(part), Mapping)),
        ("Seed", as_text(made.get("seed"))),
        ("Input", _input(made)),
        ("Decoding", ", ".join(f"{name} {as_text(value)}" for name, value in decoding.items())),
        ("Made on", f"{as_text(made.get('device'))} in {as_text(made.get('dtype'))}, "
         + ", ".join(f"{name} {as_text(value)}" for name, value in versions.items())),
    ]  # fmt: skip
    return [(name, value) for name, value in lines if value]


def _partial(made: Mapping[str, Any]) -> str:
    """How much of a piece was kept; empty for a complete one."""
    partial = table_in(made, "partial")
    seconds, whole = partial.get("seconds"), partial.get("of")
    if not isinstance(seconds, (int, float)) or not isinstance(whole, (int, float)):
        return ""
    return f"{seconds:g} of {whole:g} s; the command below makes all of it"


def _input(made: Mapping[str, Any]) -> str:
    """The input of an edit, and how that was made if its file recorded it."""
    edit = table_in(made, "edit")
    if not isinstance(edit.get("input"), str):
        return ""
    source = "stdin" if edit["input"] == STDIN else edit["input"]
    of = edit.get("of")
    if not isinstance(of, Mapping):
        return str(source)
    said = [("prompt", as_text(of.get("prompt"))), ("seed", as_text(of.get("seed")))]
    said.append(("model", as_text(model_of(of))))
    return f"{source}: " + ", ".join(f"{name} {value}" for name, value in said if value)


def _record(name: str, sound: Sound, level: Level, command: list[str] | None) -> dict[str, Any]:
    return {
        "file": name,
        "format": sound.kind,
        "subtype": sound.subtype,
        "duration": level.length / sound.sample_rate,
        "channels": sound.channels,
        "sample_rate": sound.sample_rate,
        "loudness": _rounded(level.lufs),
        "peak": _rounded(level.peak),
        "true_peak": _rounded(level.true_peak),
        "invalid_samples": level.invalid,
        "loop": None if sound.points is None else dataclasses.asdict(sound.points),
        "settings": sound.metadata,
        "command": shlex.join(command) if command is not None else None,
    }


def _rounded(value: float | None) -> float | None:
    return round(value, 2) if value is not None and value > -1000 else None


def _decibels(value: float | None, unit: str) -> str:
    if value is None:
        return "unknown: the sound has invalid samples"
    return f"{value:.1f} {unit}" if value > -1000 else "silence"
