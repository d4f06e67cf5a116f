"""What is said and where: stdout is data, stderr is conversation.

A command makes one `Talk` and says everything through it:

    talk = Talk(options)
    talk.note("Saved out.wav")          # stderr; silent under --quiet
    talk.warn("The limiter worked hard")  # stderr; silent under --quiet
    talk.data({"file": "out.wav"})      # stdout: one JSON line, under --json only
    talk.print("text")                  # stdout: what the command is for

Progress displays (progress.py) share `talk.console`, so that lines and bars do not collide.
"""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

import typer

from magnet_cli.cli.options import TalkOptions
from magnet_cli.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

EXIT_PIPE_CLOSED = 141  # what a shell reports for a program that SIGPIPE ended


class Talk:
    """The voice of a command.

    Attributes:
        json: results go to stdout as JSON lines.
        quiet: nothing but errors is said.
        console: rich's console on stderr.
    """

    def __init__(self, options: TalkOptions) -> None:
        self.json = options.json
        self.quiet = options.quiet
        self.console = _stderr()

    @property
    def live(self) -> bool:
        """Whether bars may be drawn: stderr is a terminal that can, and talk is wanted."""
        return self.console.is_terminal and not self.console.is_dumb_terminal and not self.quiet

    def note(self, text: str) -> None:
        """Say something on stderr."""
        if not self.quiet:
            self.console.print(printable(text), markup=False)

    def warn(self, text: str, always: bool = False) -> None:
        """Say something on stderr that should be noticed; `always`: under --quiet, too."""
        if always or not self.quiet:
            self.console.print(printable(text), style="yellow", markup=False)

    def data(self, record: Mapping[str, Any]) -> None:
        """Write a JSON line to stdout, where JSON was asked for."""
        if self.json:
            self.print(json.dumps(record))

    def print(self, text: str) -> None:
        """Write a line to stdout, flushed: the reader may be waiting for it."""
        encoding = sys.stdout.encoding or "ascii"
        try:
            # What the encoding of a terminal or a pipe cannot say becomes "?".
            sys.stdout.write(text.encode(encoding, "replace").decode(encoding) + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            pipe_closed()


def complain(message: str, hint: str = "") -> None:
    """Say on stderr what is wrong, and what to do next."""
    from rich.text import Text

    text = Text.assemble(("Error: ", "bold red"), printable(message))
    if hint:
        text.append(f"\n  {printable(hint)}")
    _stderr().print(text)


def write_stdout(data: bytes) -> None:
    """Write bytes to stdout; end quietly where the reader has gone."""
    out: BinaryIO = sys.stdout.buffer
    left = memoryview(data)
    try:
        while left:
            # Unbuffered (PYTHONUNBUFFERED), a write to a pipe takes what the pipe has room for.
            left = left[out.write(left) :]
        out.flush()
    except BrokenPipeError:
        pipe_closed()


def refuse_terminal(what: str) -> None:
    """Refuse to write bytes where they would be shown as text.

    Raises:
        UsageError: stdout is a terminal.
    """
    if sys.stdout.isatty():
        raise UsageError(
            f"{what} would go to the terminal.", "Pipe it on, or name a file: -o out.wav."
        )


def read_stdin() -> bytes:
    """All of stdin."""
    return sys.stdin.buffer.read()


def pipe_closed() -> None:
    """The reader of stdout has gone (`| head`): end without a word.

    Raises:
        typer.Exit: always.
    """
    # Python flushes stdout once more at exit, and would complain then.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise typer.Exit(EXIT_PIPE_CLOSED)


def printable(text: str) -> str:
    """`text` without what would move a terminal's cursor, change its colours or turn its writing.

    Names and prompts come from files of unknown makers.
    """
    return "".join(
        character if _harmless(character) else "\N{REPLACEMENT CHARACTER}" for character in text
    )


def _stderr() -> Console:
    """Rich's console on stderr: lines are folded between words on a terminal, and only there."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False, emoji=False)
    console.soft_wrap = not console.is_terminal
    return console


def _harmless(character: str) -> bool:
    if character in "\n\t":
        return True
    # Cc: control; Cs: half of a pair, which no encoding can write. The last are overrides of the
    # direction of writing; marks that right-to-left text needs are not among them.
    return unicodedata.category(character) not in ("Cc", "Cs") and not (
        "\u202a" <= character <= "\u202e" or "\u2066" <= character <= "\u2069"
    )
