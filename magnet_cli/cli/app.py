"""The program: its commands, and the one place where an error becomes text and an exit status."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from magnet_cli.cli import generate, models, output, show
from magnet_cli.errors import EXIT_INTERRUPTED, EXIT_UNEXPECTED, EXIT_USAGE, MagnetError
from magnet_cli.version import __version__

ABOUT = """Text to music and sound with MAGNeT.

    magnet gen "lofi piano" -o out.wav

Exit status: 0 done, 1 unexpected error, 2 wrong usage, 3 model not available, 4 some items failed,
130 interrupted, 141 the reader of a pipe went away."""

app = typer.Typer(
    name="magnet",
    help=ABOUT,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
generate.register(app)
show.register(app)
models.register(app)


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"magnet {__version__}")
        raise typer.Exit()


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_say_version, is_eager=True, help="Say the version and leave."
        ),
    ] = False,
) -> None:
    """Takes the options of the program itself; the help is ABOUT."""


def run(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: the arguments behind the program's name; None reads the process's own.

    Returns:
        the exit status.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments or os.environ.get("MAGNET_DEBUG", "") not in ("", "0")
    try:
        status = app(arguments, prog_name="magnet", standalone_mode=False)
        return _interrupted() if status == EXIT_INTERRUPTED else int(status or 0)
    except KeyboardInterrupt:
        return _interrupted()
    except SystemExit as leaving:  # completion, and pipes that close under a help text
        return leaving.code if isinstance(leaving.code, int) else EXIT_UNEXPECTED
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _explain(error)


def _interrupted() -> int:
    output.complain("Interrupted.", "No file was left half written.")
    return EXIT_INTERRUPTED


def _explain(error: Exception) -> int:
    """Say what went wrong; the exit status it ends with."""
    if isinstance(error, MagnetError):
        output.complain(error.message, error.hint)
        return error.exit_status
    if isinstance(error, typer.Abort):
        return _interrupted()
    if isinstance(error, typer.TyperException):
        # Bare `magnet` and bare groups: typer raises their help text as if it were an error.
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "magnet"
        if type(error).__name__ == "NoArgsIsHelpError":
            return EXIT_USAGE
        output.complain(error.format_message(), f"See `{path} --help`.")
        return EXIT_USAGE
    if isinstance(error, MemoryError) or "OutOfMemoryError" in type(error).__name__:
        hint = "Take a shorter --duration, a smaller model, or --device cpu."
        output.complain("The memory is not enough for this.", hint)
        return EXIT_UNEXPECTED
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        output.complain("The disk is full.", "Make room; no file was left half written.")
        return EXIT_UNEXPECTED
    message = " ".join(str(error).split()) or "no message"
    output.complain(
        f"Unexpected {type(error).__name__}: {message[:500]}",
        "Run it again with --debug to see where; with that, it is worth a bug report.",
    )
    return EXIT_UNEXPECTED
