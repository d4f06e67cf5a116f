"""Output of commands: data on stdout, messages on stderr.

A command makes one `Talk` and prints everything through it:

    talk = Talk(options)
    talk.note("Saved out.wav")          # stderr; silent under --quiet
    talk.warn("The limiter worked hard")  # stderr; silent under --quiet
    talk.data({"file": "out.wav"})      # stdout: one JSON line, under --json only
    talk.print("text")                  # stdout: the command's result

Progress displays (progress.py) share `talk.console`, so that lines and bars do not collide. If stdout's
reader goes away the program ends (`pipe_closed`); if stderr's does, messages are lost.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, TextIO, cast

import typer

from magnet_cli.cli.settings import TalkOptions
from magnet_cli.errors import EXIT_PIPE_CLOSED, MagnetError, UsageError
from magnet_cli.files import write_error
from magnet_cli.foreign.reading import shown as printable
from magnet_cli.settings import OutputConfig

if TYPE_CHECKING:
    from rich.console import Console

    from magnet_cli.clips import SavedClip


class Talk:
    """Prints a command's messages and data.

    Attributes:
        json: print results to stdout as JSON lines.
        quiet: print errors only.
        verbose: also print details.
        console: rich's console on stderr.
    """

    def __init__(self, options: TalkOptions) -> None:
        """Set up output. Raises UsageError: JSON is wanted, but stdout is closed (`>&-`)."""
        if options.json:
            stdout()
        self.json = options.json
        self.quiet = options.quiet
        self.verbose = getattr(options, "verbose", False)
        self.console = _stderr()

    @property
    def live(self) -> bool:
        """Whether bars can be drawn: stderr is a capable terminal, and not --quiet."""
        return self.console.is_terminal and not self.console.is_dumb_terminal and not self.quiet

    def note(self, text: str) -> None:
        """Print a message on stderr, unless --quiet."""
        if not self.quiet:
            self.console.print(printable(text), markup=False)

    def detail(self, text: str) -> None:
        """Print a message on stderr, only with --verbose."""
        if self.verbose:
            self.note(text)

    def warn(self, text: str, always: bool = False) -> None:
        """Print a warning on stderr; `always`: also with --quiet."""
        if always or not self.quiet:
            self.console.print(printable(text), style="yellow", markup=False)

    def data(self, record: Mapping[str, Any]) -> None:
        """Print a JSON line on stdout, only with --json."""
        if self.json:
            self.print(json.dumps(_finite(record), allow_nan=False))

    def print(self, text: str) -> None:
        """Print a line on stdout and flush it, as the reader may be waiting.
        Raises MagnetError: it cannot be written: the disk is full, or stdout is closed."""
        out = stdout()
        encoding = out.encoding or "ascii"
        try:
            # Characters outside the encoding are written as escapes: \\xe9.
            out.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
            out.flush()
        except BrokenPipeError:
            pipe_closed()
        except OSError as error:
            raise _broken(error) from error


class Hearsay:
    """A stderr whose failures are ignored: without a reader or on a full disk, only messages are lost.

    After a failure everything is discarded, including libraries' output and Python's buffer.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, ignoring failures."""
        with self._failing_quietly():
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, ignoring failures."""
        with self._failing_quietly():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextmanager
    def _failing_quietly(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            with suppress(OSError):  # a stream in memory has no descriptor
                _to_nowhere(self._stream)


def stderr() -> IO[str] | None:
    """stderr as a `Hearsay`, or None if it is closed."""
    # While a bar is shown, rich replaces the stream.
    stream = getattr(sys.stderr, "rich_proxied_file", sys.stderr)
    return None if stream is None else cast("IO[str]", Hearsay(stream))


def complain(message: str, hint: str = "", details: Sequence[str] = ()) -> None:
    """Print an error and a hint on stderr, one line each."""
    from rich.text import Text

    text = Text.assemble(("Error: ", "bold red"), printable(message))
    for detail in details:
        text.append(f"\n  {printable(detail)}")
    if hint:
        text.append(f"\n  {printable(hint)}")
    _stderr().print(text)


def shell_line(words: Sequence[str]) -> str:
    """A command line to paste into a shell; words with characters that must be escaped as $'…'."""
    said = []
    for word in words:
        plain = printable(word) == word
        inner = printable(word.replace("\\", r"\\").replace("'", r"\'"))
        said.append(shlex.quote(word) if plain else f"$'{inner}'")
    return " ".join(said)


def write_stdout(data: bytes) -> None:
    """Write bytes to stdout; exit silently if the reader has gone.
    Raises MagnetError: they cannot be written: the disk is full, or stdout is closed."""
    out: BinaryIO = stdout().buffer
    left = memoryview(data)
    try:
        while left:
            # Unbuffered (PYTHONUNBUFFERED), a write to a pipe may be partial.
            left = left[out.write(left) :]
        out.flush()
    except BrokenPipeError:
        pipe_closed()
    except OSError as error:
        raise _broken(error) from error


def refuse_terminal(what: str) -> None:
    """Raise UsageError if stdout, which is to take bytes, is a terminal or closed."""
    if stdout().isatty():
        raise UsageError(
            f"{what} would go to the terminal.",
            "Pipe it into a program, or name a file: -o out.wav.",
        )


def stdin() -> TextIO:
    """Standard input. Raises UsageError: stdin is closed (`<&-`)."""
    if sys.stdin is None:
        raise UsageError("stdin is closed.", "Pipe something in.")
    return sys.stdin


def stdout() -> TextIO:
    """Standard output. Raises UsageError: stdout is closed (`>&-`)."""
    if sys.stdout is None:
        raise UsageError("stdout is closed.", "Send it somewhere: > FILE, or | a program.")
    return sys.stdout


def stdout_is_terminal() -> bool:
    """Whether stdout is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def pipe_closed() -> None:
    """Exit silently, as the reader of stdout has gone (`| head`). Raises typer.Exit: always."""
    _to_nowhere(sys.stdout)
    raise typer.Exit(EXIT_PIPE_CLOSED)


def _finite(value: Any) -> Any:
    """Replace NaN and infinity by null, as JSON has neither."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, (list, tuple)) else value


def _stderr() -> Console:
    """Rich's console on stderr, which wraps lines only on a terminal."""
    from rich.console import Console

    console = Console(file=stderr(), stderr=True, highlight=False, emoji=False)
    console.soft_wrap = not console.is_terminal
    return console


def _broken(error: OSError) -> MagnetError:
    """The error for an unwritable stdout."""
    _to_nowhere(sys.stdout)
    return write_error("stdout", error)


def _to_nowhere(stream: TextIO) -> None:
    """Redirect a broken stream to /dev/null, as Python flushes it at exit and would report an error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, stream.fileno())
    finally:
        os.close(nowhere)


def say_saved(saved: SavedClip, talk: Talk, output: OutputConfig, took: float) -> None:
    """Report a saved clip on stderr, and as JSON on stdout; `took` is in seconds."""
    record = {**saved.record(), "seconds": round(took, 3)}
    if partial := saved.settings.get("partial"):
        talk.warn(
            f"Interrupted: keeping the first {partial['seconds']:g} of {partial['of']:g} seconds."
        )
        talk.note(f"Saved {saved.target.where}: {_length(saved)}")
        record["status"] = "partial"
    else:
        talk.note(f"Saved {in_words(saved)}, in {took:.1f} s")
    if saved.asked is not None:
        _say_beside(saved.asked.path, saved.target.path, talk)
        _say_beside(saved.asked.codes, saved.target.codes, talk)
    if "partial" not in saved.settings:
        warn(saved, talk, output)
    talk.data(record)


def warn(saved: SavedClip, talk: Talk, output: OutputConfig, where: str = "") -> None:
    """Warn about a clip's loudness or lost metadata, if necessary; `where` is put before the message."""
    from magnet_cli.audio.loudness import remark

    can_hang = saved.settings.get("decoding", {}).get("frequency_penalty") == 0
    if saved.loudness is not None and (said := remark(saved.loudness, output, can_hang)):
        talk.warn(f"{where}{said}")
    lost = [name for name in str(saved.more.get("lost", "")).split(", ") if name]
    if "picture" in lost:
        lost.remove("picture")
        talk.warn("Not kept: the input's picture, which is kept from mp3 to mp3 only.")
    if lost:
        talk.warn(f"Not kept, as only wav can hold it: {', '.join(lost)}. Name the output .wav.")


def held_back(saved: SavedClip, output: OutputConfig) -> list[float]:
    """[the clip's LUFS] if its peaks kept it quieter than requested, otherwise []."""
    from magnet_cli.audio.loudness import is_held_back

    heard = saved.loudness
    return [heard.after] if heard is not None and is_held_back(heard, output) else []


def say_held_back(levels: Sequence[float], clips: int, output: OutputConfig, talk: Talk) -> None:
    """Report once how many of `clips` stayed quieter than requested, at LUFS `levels`."""
    from magnet_cli.audio.loudness import more_room

    if not levels:
        return
    if clips == 1:
        talk.note(f"{levels[0]:.1f} LUFS: its peaks allow no more; {more_room(output)}.")
        return
    many = len(levels) > 1
    low, high = f"{min(levels):.1f}", f"{max(levels):.1f}"
    span = low if low == high else f"{low} to {high}"
    talk.note(
        f"{len(levels)} of {clips} clips {'are' if many else 'is'} at {span} LUFS: "
        f"{'their' if many else 'its'} peaks allow no more; "
        f"{more_room(output)}."
    )


def _say_beside(asked: Path | None, path: Path | None, talk: Talk) -> None:
    """Warn, even with --quiet, if a file was renamed because its name had been taken meanwhile."""
    if path != asked:
        talk.warn(
            f"{asked} appeared meanwhile and was not replaced: the output is {path}.", always=True
        )


def in_words(saved: SavedClip) -> str:
    """A clip's name and measurements."""
    if saved.loudness is None:
        again = ", ".join(f"{start:.2f}-{stop:.2f} s" for start, stop in saved.more["regions"])
        return f"{saved.target.where}: {again} replaced (whole frames)"
    return (
        f"{saved.target.where}: {_length(saved)}, {_level(saved.loudness.after, 'LUFS')}, "
        f"peak {_level(saved.loudness.peak, 'dBFS')}"
    )


def _length(saved: SavedClip) -> str:
    return f"{round(saved.duration, 2):g} s"


def _level(value: float, unit: str) -> str:
    return f"{value:.1f} {unit}" if math.isfinite(value) else f"no {unit}"
