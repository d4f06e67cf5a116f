"""`magnet again`: makes a file again, with changes."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from magnet_cli.audio.formats import CONTAINERS
from magnet_cli.cli.again import command_for, differences
from magnet_cli.cli.inputs import say_pipe
from magnet_cli.cli.recorded import problem_of, table_in
from magnet_cli.cli.settings import TalkOptions
from magnet_cli.cli.talk import Talk
from magnet_cli.errors import UsageError
from magnet_cli.fields import clean_prompt
from magnet_cli.naming import numbered

app = typer.Typer(rich_markup_mode="markdown")

EXAMPLES = """
Examples:

    magnet again piano.wav --seed new
    magnet again piano.wav --lufs -20 -o quiet.wav
    magnet again piano.wav --prompt "lofi piano with rain"
"""

_SEVERAL = ("--region", "--lora", "--at")  # repeatable flags, all replaced by new ones
_NEW = "new"


@app.command(
    "again",
    epilog=EXAMPLES,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def again(
    context: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A sound file that magnet made.", show_default=False),
    ],
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Another prompt.", show_default=False)
    ] = None,
    seed: Annotated[
        str | None,
        typer.Option(metavar="N|new", help="Another seed; new: a random one.", show_default=False),
    ] = None,
    destination: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Output file. Default: beside FILE, with the next free number.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Make a file again, with changes given as flags.

    Runs the command that `magnet show` prints. Every flag of that command (gen, extend, edit or vary) may be
    given, and overrides the file's.
    """
    from magnet_cli.audio.formats import suffix_of
    from magnet_cli.audio.sound import open_sound

    changes = [word for each in context.args for word in _parts(each)]
    stray = _stray(changes)
    if stray is not None:
        raise UsageError(f"{stray[:80]!r} is not a flag.", "For another prompt use --prompt TEXT.")
    voice = Talk(TalkOptions(quiet="-q" in changes or "--quiet" in changes))
    say_pipe(str(file), voice)
    with open_sound(file) as sound:
        made, problem = sound.metadata, sound.problem
        suffix = suffix_of(sound.kind, sound.subtype)
    problem = problem or (None if made is None else problem_of(made))
    if made is None or problem is not None:
        raise UsageError(
            f"The settings in {file} cannot be used: {problem}."
            if problem
            else f"{file} does not record how it was made.",
            "Use a file made by magnet: see `magnet show`.",
        )
    if prompt is not None:
        made = {**made, "prompt": clean_prompt(prompt)}
        made["edit"] = table_in(made, "edit")
        made["edit"].pop("cues", None)
        if not made["edit"]:
            del made["edit"]
    if destination is None:
        destination = str(_beside(file, changes))
    words = _without(command_for(made, file.name, suffix)[1:], ["-o"])
    first = ["-o", destination]  # so that a flag without a value is last, and told
    if seed is not None:
        first += ["--seed", str(secrets.randbelow(2**32)) if seed == _NEW else seed]
    words = with_changes(words, [*first, *changes])
    if other := differences(made):
        voice.note(f"The result is an approximation: {'; '.join(other)}.")

    from magnet_cli.cli.app import build_app

    status = build_app(words[0])(words, prog_name="magnet", standalone_mode=False)
    if status:
        raise typer.Exit(int(status))


def with_changes(words: Sequence[str], changes: Sequence[str]) -> list[str]:
    """Add flags to a command's words, replacing flags that are already there.

    Args:
        words: the words that `command_for` makes, with prompts last or after `--`.
        changes: flags and their values.
    """
    given = set(changes)
    replaced = [flag for flag in _SEVERAL if flag in given]
    if "--preset" in given:
        replaced.append("--steps")
    if given & {"--no-loop", "--exact"} and "--bpm" not in words:
        replaced.append("--tries")  # only for loops that follow their beat
    if given & {"--bpm", "--bars"}:
        replaced.append("--duration")
    if given & {"--duration", "-d"}:
        replaced += ["--bpm", "--bars", "--tries"]
    if "--no-loop" in given:
        words = [word for word in words if word != "--exact"]
    kept = _without(words, replaced)
    containers = {str(name): container for name, container in CONTAINERS.items()}
    if container := containers.get(
        _format_in(changes)
    ):  # what another format cannot have was not asked for
        depth, rate = (_value(kept, flag) for flag in ("--bit-depth", "--sample-rate"))
        if depth not in container.subtypes:
            kept = _without(kept, ["--bit-depth"])
        if rate is not None and not container.holds(int(rate)):
            kept = _without(kept, ["--sample-rate"])
    at = kept.index("--") if "--" in kept else len(kept)
    return [*kept[:at], *changes, *kept[at:]]


def _without(words: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Remove flags and their values."""
    kept: list[str] = []
    skip = False
    for at, word in enumerate(words):
        if skip:
            skip = False
        elif word == "--":
            return [*kept, *words[at:]]
        elif word in flags:
            skip = True
        else:
            kept.append(word)
    return kept


def _parts(word: str) -> list[str]:
    """A flag and its value as two words, if they are one."""
    return word.split("=", 1) if word.startswith("--") else [word]


def _value(words: Sequence[str], flag: str) -> str | None:
    """The value of a flag, or None."""
    return words[words.index(flag) + 1] if flag in words[:-1] else None


def _format_in(changes: Sequence[str]) -> str:
    """The format that flags ask for; empty if they do not."""
    suffix = Path(_value(changes, "-o") or "").suffix.lower()
    return _value(changes, "--format") or suffix.removeprefix(".")


def _stray(changes: Sequence[str]) -> str | None:
    """The first word that is neither a flag nor a flag's value, or None."""
    before = ""
    for word in changes:
        if not word.startswith("-") and not before.startswith("-"):
            return word
        before = word
    return None


def _beside(file: Path, changes: Sequence[str]) -> Path:
    """The next free name beside a file, in the requested format."""
    if kind := _value(changes, "--format"):
        file = file.with_suffix(f".{kind}")
    number = 2
    while numbered(file, number).exists():
        number += 1
    return numbered(file, number)
