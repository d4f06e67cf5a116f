"""The program: its commands, and where errors become messages and exit statuses."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer
from typer.core import TyperCommand

from magnet_cli.cli.help import Command, Group, misuse
from magnet_cli.errors import (
    EXIT_INTERRUPTED,
    EXIT_PIPE_CLOSED,
    EXIT_UNEXPECTED,
    EXIT_USAGE,
    MagnetError,
    UsageError,
    is_out_of_memory,
)
from magnet_cli.files import ENDINGS, NO_ROOM
from magnet_cli.version import __version__

ABOUT = """Text to music and sound with MAGNeT.

\b
  magnet gen "lofi piano" -o out.wav

Exit status: 0 done, 1 unexpected error, 2 wrong usage, 3 model not available,
4 some items failed, 129 terminal closed, 130 interrupted, 141 pipe closed,
143 terminated."""

# Each command's module, whose `app` is merged into the program, and its line in `magnet --help`. Only the
# module of the called command is imported, so that `--help` is fast.
COMMANDS = {
    "gen": ("magnet_cli.cli.generate", "Generate sound from text."),
    "batch": ("magnet_cli.cli.batch", "Generate a clip for each prompt of a file or stream."),
    "gallery": ("magnet_cli.cli.gallery", "Write a web page for browsing and playing clips."),
    "show": (
        "magnet_cli.cli.show",
        "Show a sound file's levels, settings, and the command that makes it again.",
    ),
    "again": ("magnet_cli.cli.remake", "Make a file again, with changes given as flags."),
    "extend": ("magnet_cli.cli.extend", "Continue a sound, to any length."),
    "edit": ("magnet_cli.cli.edit", "Replace regions of a sound and leave the rest unchanged."),
    "vary": ("magnet_cli.cli.vary", "Make variations of a sound."),
    "eval": ("magnet_cli.cli.evaluate", "Measure folders of clips against a reference."),
    "sweep": (
        "magnet_cli.cli.sweep",
        "Make a batch for each of several settings, and measure them.",
    ),
    "listen": ("magnet_cli.cli.listen", "Make and analyse listening tests."),
    "bench": ("magnet_cli.cli.bench", "Measure how long a model takes on this machine."),
    "config": ("magnet_cli.cli.config", "Show the defaults in effect and where they come from."),
    "doctor": ("magnet_cli.cli.doctor", "Describe this machine for a bug report; check a model."),
    "models": ("magnet_cli.cli.models", "List, fetch, convert and choose models."),
    "data": ("magnet_cli.cli.data", "Check and encode training data."),
    "train": ("magnet_cli.cli.train", "Train models."),
}


def build_app(only: str | None = None) -> typer.Typer:
    """Build the program.

    Args:
        only: the command that will be called; the others get a name only. None: build all.
    """
    app = typer.Typer(
        name="magnet",
        cls=Group,
        help=ABOUT,
        no_args_is_help=True,
        # Rich is slow to import, so that only commands use its panels, not `magnet --help`.
        rich_markup_mode="markdown" if only in (None, *COMMANDS) else None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_program)
    for name, (module, about) in COMMANDS.items():
        if only in (None, name):
            app.add_typer(importlib.import_module(module).app)
        else:
            app.command(name, help=about)(_elsewhere)
    for group in (app, *(one.typer_instance for one in app.registered_groups)):
        for command in group.registered_commands if group is not None else ():
            if command.cls is TyperCommand:
                command.cls = Command
    return app


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"magnet {__version__}")
        raise typer.Exit()


def _program(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_say_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Take the program's own options; ABOUT is its help."""


def _elsewhere() -> None:
    """Placeholder for a command that will not be called."""


def _called(arguments: Sequence[str]) -> str | None:
    """The command to build: None for all (completion), "" for none."""
    if os.environ.get("_MAGNET_COMPLETE"):  # for completion the words are in variables
        return None
    return next((word for word in arguments if not word.startswith("-")), "")


# Variables by which users set how OpenMP's threads wait. Threads that spin are slightly faster on an idle
# machine, but beside other work they take each other's time: a clip took ten times as long. Ours spin for 0.3
# ms, longer than most waits, and then sleep. OpenMP reads this when torch loads it, also in workers.
_WAITS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def run(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: the arguments after the program's name; None: the process's.

    Returns:
        the exit status.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments or os.environ.get("MAGNET_DEBUG", "") not in ("", "0")
    app = None
    if not any(os.environ.get(variable) for variable in _WAITS):
        os.environ.update(OMP_WAIT_POLICY="PASSIVE", GOMP_SPINCOUNT="30000")
    try:
        with _terminable(), _undisturbed(debug):
            _check_folder()
            _check_values(arguments)
            _check_command(arguments)
            app = build_app(_called(arguments))
            status = app(arguments, prog_name="magnet", standalone_mode=False)
        return _interrupted() if status == EXIT_INTERRUPTED else int(status or 0)
    except KeyboardInterrupt:
        return _interrupted()
    except SystemExit as leaving:  # from completion, or from rich and typer when a pipe closes
        if isinstance(leaving.__context__, BrokenPipeError):
            return EXIT_PIPE_CLOSED
        return leaving.code if isinstance(leaving.code, int) else EXIT_UNEXPECTED
    except Exception as error:
        if debug:
            from magnet_cli.foreign.reading import shown

            # The lines are Python's, but may contain text from a file.
            _say("\n".join(map(shown, traceback.format_exc().rstrip().split("\n"))))
        return _explain(error, arguments, app)


def _command_of(arguments: Sequence[str], app: typer.Typer | None) -> str:
    """The called command, for errors without a parser's context, such as a flag without a value."""
    called = _called(arguments)
    if called not in COMMANDS or app is None:
        return "magnet"
    commands = getattr(typer.main.get_command(app), "commands", {})
    inner = getattr(commands[called], "commands", {})
    return " ".join(["magnet", called, *[word for word in arguments if word in inner][:1]])


# Other programs' names for our commands.
_ALSO_CALLED = {
    "generate": "gen", "make": "gen", "create": "gen", "compose": "gen", "sing": "gen", "text": "gen",
    "info": "show", "inspect": "show", "continue": "extend", "inpaint": "edit", "variation": "vary",
    "evaluate": "eval", "finetune": "train", "model": "models", "pull": "models", "download": "models",
    "help": "--help", "version": "--version",
}  # fmt: skip


def _check_command(arguments: Sequence[str]) -> None:
    """Raise UsageError for an unknown command, with the closest command or how to give a prompt."""
    asked = arguments[0] if arguments else "-"
    if asked.startswith("-") or asked in COMMANDS or os.environ.get("_MAGNET_COMPLETE"):
        return
    from difflib import get_close_matches

    from magnet_cli.foreign.reading import shown

    near = [_ALSO_CALLED[asked.lower()]] if asked.lower() in _ALSO_CALLED else []
    near = near or get_close_matches(asked.lower(), [*COMMANDS], n=1, cutoff=0.65)
    said = shown(asked if len(asked) <= 60 else f"{asked[:59]}…")
    if near and " " not in asked:
        hint = f"Did you mean `magnet {near[0]}`? `magnet --help` lists all."
    else:
        words = shown(" ".join(arguments)[:60])
        hint = f'To generate sound from text: magnet gen "{words}". `magnet --help` lists all commands.'
    raise UsageError(f"There is no command {said!r}.", hint)


# Flags whose text may be empty.
_TEXTS = ("--negative", "--prompt", "--title")


def _check_values(arguments: Sequence[str]) -> None:
    """Raise UsageError for "" as a flag's value or a file name, usually an unset shell variable: Python
    takes an empty path for the current folder."""
    for before, word in zip(["", *arguments], arguments, strict=False):
        with_equals = word.startswith("--") and word.endswith("=")
        flag = word[:-1] if with_equals else before
        if (word and not with_equals) or flag in _TEXTS:
            continue
        is_flag = flag.startswith("-") and flag not in ("-", "--")
        if is_flag or arguments[0] != "gen":  # gen refuses empty prompts itself
            what = f"The value of {flag}" if is_flag else "An argument"
            raise UsageError(f"{what} is empty.", "Give a value; is a shell variable unset?")


_ended_by: list[int] = []  # of ENDINGS, what came: handled like Ctrl-C, but with its own status


@contextmanager
def _terminable() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP end the program as Ctrl-C does, and partial files are removed."""
    _ended_by.clear()
    main = threading.current_thread() is threading.main_thread()
    free = [n for n in ENDINGS if main and signal.getsignal(n) is signal.SIG_DFL]

    def end(number: int, frame: object) -> None:
        _ended_by.append(number)
        if number != signal.SIGTERM:  # the shell of a closed terminal sends it, too
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in free:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in free:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def _undisturbed(debug: bool) -> Iterator[None]:
    """Inside, libraries' warnings appear only with --debug or Python's -W: users cannot act on them."""
    with warnings.catch_warnings():
        before = logging.root.manager.disable
        if not debug and not sys.warnoptions:
            warnings.simplefilter("ignore")
            logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)


def _check_folder() -> None:
    """Raise UsageError if the working folder was deleted, on which libraries fail in many ways."""
    try:
        os.getcwd()
    except OSError as error:
        raise UsageError(
            "The working folder no longer exists.", "Change to another one: cd ~"
        ) from error


def _interrupted() -> int:
    if _ended_by:
        _complain("Terminated.", "No file was left half written.")
        return 128 + _ended_by[0]  # as a shell reports it
    _complain("Interrupted.", "No file was left half written.")
    return EXIT_INTERRUPTED


def _explain(error: Exception, words: Sequence[str] = (), app: typer.Typer | None = None) -> int:
    """Print an error; returns the exit status."""
    if isinstance(error, MagnetError):
        if error.settings:
            from magnet_cli.cli.settings import typed_flag

            error.rename(lambda name: typed_flag(name, words))
        _complain(error.message, error.hint, error.details)
        return error.exit_status
    if isinstance(error, typer.Abort):
        return _interrupted()
    if isinstance(error, typer.TyperException):
        # Bare `magnet` and bare groups: typer raises their help text as if it were an error.
        if type(error).__name__ == "NoArgsIsHelpError":
            if text := error.format_message():  # empty where rich has printed it
                _say(text)
            return EXIT_USAGE
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else _command_of(words, app)
        return _explain(misuse(error, path, words))
    if is_out_of_memory(error):
        what = "There is not enough memory for this."
        hint = "Use a shorter --duration, a smaller model, or --device cpu."
    elif isinstance(error, OSError) and error.errno in NO_ROOM:
        what = f"There is no room on the disk: {error.strerror}."
        hint = "Free some space; no file was left half written."
    else:
        message = " ".join(str(error).split()) or "no message"
        what = f"Unexpected {type(error).__name__}: {message[:500]}"
        hint = "Run it again with --debug for a traceback, and please report it."
    _complain(what, hint)
    return EXIT_UNEXPECTED


def _say(text: str) -> None:
    from magnet_cli.cli.talk import stderr

    if (out := stderr()) is not None:
        out.write(f"{text}\n")
        out.flush()


def _complain(message: str, hint: str = "", details: Sequence[str] = ()) -> None:
    from magnet_cli.cli.talk import complain

    complain(message, hint, details)
