"""The sound that a command starts from: a file or stdin, what was kept in it, what it is called."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from magnet_cli.cli.output import Talk, stdin
from magnet_cli.errors import UsageError

if TYPE_CHECKING:
    from magnet_cli.api import Model
    from magnet_cli.audio.sound import Sound

STDIN = "-"

# The first argument of every command that starts from a sound.
Source = Annotated[
    str,
    typer.Argument(
        metavar="IN", help="A sound file of any format, or `-` for stdin.", show_default=False
    ),
]


@contextmanager
def input_sound(name: str, prompts: Sequence[str]) -> Iterator[Sound]:
    """The sound that a command was given: a file, or `-` for stdin.

    Raises:
        UsageError: a prompt is to be read from stdin, too, or stdin is closed.
        AudioFileError: it cannot be read.
    """
    from magnet_cli.audio.sound import open_sound

    if name == STDIN and STDIN in prompts:
        raise UsageError("stdin can be read only once.", "Give `-` once.")
    if name == STDIN and stdin().isatty():
        raise UsageError("The sound is to come from the terminal.", "Pipe one in, or name a file.")
    with open_sound(stdin().buffer if name == STDIN else Path(name)) as sound:
        yield sound


def say_channels(given: Sound, model: Model, becomes: str, talk: Talk) -> None:
    """Say what happens to the channels of a sound, where the model has another number of them."""
    if given.channels != model.channels:
        one = "channel" if given.channels == 1 else "channels"
        talk.note(
            f"{given.name} has {given.channels} {one}, {model.name} makes {model.channels}: {becomes}."
        )


def named_after(source: str, what: str) -> str:
    """What to name the outputs of a command after, where no name was given."""
    return f"{'sound' if source == STDIN else Path(source).stem} {what}"
