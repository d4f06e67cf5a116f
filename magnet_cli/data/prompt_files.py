"""Reads prompt files (.txt, .csv, .tsv and .jsonl) as valid lines, and bad lines with a reason.

    for line in read_prompts(stream, "jsonl"):
        if isinstance(line, BadLine): ...

Lines are yielded as they arrive, so a pipe's first line can be used before its second is written.
"""

from __future__ import annotations

import csv
import itertools
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol, cast

from magnet_cli.data.prompts import BadLine, PromptLine, field_of, line_of, num_of
from magnet_cli.errors import DataError, UsageError
from magnet_cli.fields import clean_prompt
from magnet_cli.foreign import reading

PromptFormat = Literal["txt", "csv", "tsv", "jsonl"]

_SUFFIXES: dict[str, PromptFormat] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
STDIN = "-"
LONGEST_RECORD = 1_000_000  # bytes; a prompt file's line is a few hundred
_ENDLESS = 64  # so many times that: it is no file of lines
_CHUNK = 65_536
_FOR_NULS = " For prompts between NULs say -0."


class Readable(Protocol):
    """A buffered binary stream: an open file, a pipe, stdin's buffer, BytesIO."""

    def read1(self, size: int = -1, /) -> bytes:
        """At most `size` bytes, as soon as there are any; none at the end."""
        ...


@dataclass(frozen=True)
class PromptSource:
    """An open prompt file.

    Attributes:
        name: its name in messages.
        stream: its bytes.
        whole: a regular file, which can be read to its end at once, unlike a pipe, FIFO or terminal.
    """

    name: str
    stream: Readable
    whole: bool


@contextmanager
def open_prompts(name: str) -> Iterator[PromptSource]:
    """Open a prompt file, or stdin for the name "-". Raises UsageError: it is a folder, does not exist,
    cannot be read, or is a closed stdin."""
    if name == STDIN:
        if sys.stdin is None:
            raise UsageError("stdin is closed.", "Pipe prompts in, or name a file.")
        stdin = sys.stdin.buffer
        yield PromptSource("stdin", cast(Readable, stdin), _is_whole(stdin))
        return
    path = Path(name)
    try:
        if path.is_dir():
            raise UsageError(f"{name} is a folder.", "Give a file of prompts, or `-` for stdin.")
        file = path.open("rb")
        if (path.is_char_device() or path.is_block_device()) and not file.isatty():
            file.close()
            raise UsageError(f"{name} is a device, not a file.", "Give a file of prompts.")
    except FileNotFoundError as error:
        raise UsageError(f"There is no file {name}.", "Check the name.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{name[:200]} cannot be read: {reason}.", "Check the name.") from error
    with file:
        yield PromptSource(name, file, _is_whole(file))


def format_of(name: str) -> PromptFormat:
    """The format of a file by its suffix; txt if unknown.
    Raises UsageError: .json, which is a single value instead of lines."""
    suffix = Path(name).suffix.lower()
    if suffix == ".json":
        raise UsageError(
            f"{name} is one JSON value, not one per line.",
            "Write one object on each line and name it .jsonl, or add --from jsonl if it is that already.",
        )
    return _SUFFIXES.get(suffix, "txt")


def read_prompts(
    stream: Readable, kind: PromptFormat, null: bool = False
) -> Iterator[PromptLine | BadLine]:
    """Yield the lines of a prompt file as they arrive.

    Args:
        stream: UTF-8, with or without a byte order mark, lines ending in LF or CRLF.
        kind: how a line is read. In txt a line is a prompt; empty lines and those that begin with
            `#` are left out.
        null: prompts are separated by NULs instead of newlines; only for txt, without `#` comments.

    Raises:
        DataError: the header of a csv or tsv file cannot be used.
        OSError: the stream broke.
    """
    if null:
        texts = _decoded(records(stream, b"\0"), "NUL")
        return _each(texts, partial(_from_text, comments=False))
    if kind in ("csv", "tsv"):
        return _from_table(stream, "\t" if kind == "tsv" else ",")
    texts = _decoded(records(stream), "line")
    return _each(texts, partial(_from_text, comments=True) if kind == "txt" else _from_json)


def _is_whole(stream: BinaryIO) -> bool:
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError, AttributeError):  # BytesIO and the like have no file descriptor
        return False


def records(
    stream: Readable, separator: bytes = b"\n", longest: int = LONGEST_RECORD
) -> Iterator[bytes | None]:
    """Yield each record (a line, or the text between NULs) without its separator, once it is complete.

    Yields None for a record of more than `longest` bytes, which is skipped, so that a file without newlines
    needs no memory. The rest after the last separator is a record unless it is empty.

    Raises DataError: it has no separator in 64 times `longest`.
    """
    kept, overlong, skipped = bytearray(), False, 0
    while chunk := stream.read1(_CHUNK):
        *complete, rest = chunk.split(separator)
        for piece in complete:
            overlong = overlong or len(kept) + len(piece) > longest
            yield None if overlong else bytes(kept + piece)
            kept.clear()
            overlong, skipped = False, 0
        kept += rest
        if len(kept) > longest:
            skipped += len(kept)
            kept.clear()
            overlong = True
        if skipped > _ENDLESS * longest:
            raise DataError(
                f"A line has more than {_ENDLESS * longest // 1_000_000} MB.",
                "Is this a file of prompts?",
            )
    if kept or overlong:
        yield None if overlong else bytes(kept)


def _decoded(raw: Iterator[bytes | None], what: str) -> Iterator[tuple[int, str] | BadLine]:
    """Numbered records as text, without a byte order mark or a CR at the end."""
    for number, data in enumerate(raw, start=1):
        if data is None:
            limit = f"{LONGEST_RECORD // 1_000_000} MB"
            yield BadLine(number, f"It is longer than {limit}. Is this a file of prompts?")
        elif number == 1 and data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            yield BadLine(number, "The file is UTF-16 text. Save it as UTF-8.")
            return  # so are the lines after it
        elif b"\0" in data:
            yield BadLine(number, f"It holds a NUL.{_FOR_NULS if what == 'line' else ''}")
        else:
            try:
                text = data.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                yield BadLine(number, f"Byte {error.start + 1} is not UTF-8. Save it as UTF-8.")
                continue
            yield number, text if what == "NUL" else text.removesuffix("\r")


def _each(
    texts: Iterator[tuple[int, str] | BadLine],
    read: Callable[[int, str], PromptLine | BadLine | None],
) -> Iterator[PromptLine | BadLine]:
    """What `read` makes of each numbered text, unless it is None; a UsageError makes it a bad line."""
    for item in texts:
        if isinstance(item, BadLine):
            yield item
            continue
        try:
            line = read(*item)
        except UsageError as error:
            line = BadLine(item[0], str(error))
        if line is not None:
            yield line


def _from_text(number: int, text: str, comments: bool) -> PromptLine | None:
    if not text.strip() or (comments and text.lstrip().startswith("#")):
        return None
    if comments and "\r" in text:
        raise UsageError("Lines end in CR alone.", "Save the file with LF line ends.")
    return PromptLine(number, clean_prompt(text))


def _from_json(number: int, text: str) -> PromptLine | BadLine | None:
    return _line(number, *_json_object(text), text=False) if text.strip() else None


def _line(
    number: int, values: dict[str, Any], typed: dict[str, str], text: bool
) -> PromptLine | BadLine:
    """A line from its fields' values; `typed` are the names by which the file calls them."""
    try:
        return line_of(number, values, text=text)
    except UsageError as error:
        error.rename(lambda name: typed.get(name, name))
        return BadLine(number, str(error), num_of(values, text=text))


def _json_object(text: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The values of a JSON object's fields, and the fields' names in it.
    Raises UsageError: it is not one, or has an unknown or duplicate field."""
    try:
        parsed = reading.json_of(text)
    except reading.ReadError as error:
        raise UsageError(
            f"The object cannot be read: {error}.",
            'Write an object, such as {"prompt": "lofi piano", "seed": 7}.',
        ) from error
    if not isinstance(parsed, dict):
        raise UsageError("It is not a JSON object.", 'Write {"prompt": "lofi piano"}.')
    values: dict[str, Any] = {}
    typed: dict[str, str] = {}
    for name, value in parsed.items():
        known = field_of(name)  # some have two names
        if known in values:
            raise UsageError(f"{known} occurs twice.", "Leave one out.")
        values[known], typed[known] = value, name.strip()
    return values, typed


class _Feed:
    """Feeds lines to the csv reader, one at a time; unreadable ones are set aside."""

    def __init__(self, texts: Iterator[tuple[int, str] | BadLine]) -> None:
        self._texts = texts
        self.bad: list[BadLine] = []
        self.first: int | None = None  # number of the first line of the current row

    def __iter__(self) -> Iterator[str]:
        for item in self._texts:
            if isinstance(item, BadLine):
                self.bad.append(item)
                continue
            number, text = item
            if self.first is None:
                self.first = number
            yield text + "\n"


def table_of(
    stream: Readable, delimiter: str, what: str = "row"
) -> tuple[str, Iterator[tuple[int, list[str]] | BadLine]]:
    """Read the rows of a table, starting with the column names; empty rows are skipped.

    A quoted value may span several lines.

    Args:
        stream: as for `read_prompts`.
        delimiter: between values, unless the first line shows another.
        what: the word for a row in messages; "line" for prompts, whose user may have meant another format.

    Returns:
        the delimiter, and each row with the number of its first line.
    """
    begun, texts = _first(_decoded(records(stream), what))
    if begun is not None and begun.strip().lower().startswith("sep=") and len(begun.strip()) == 5:
        # Written by some spreadsheets; the header is on the next line.
        delimiter = begun.strip()[4]
        next(texts)
    elif begun is not None and delimiter == "," and "," not in begun:
        # Spreadsheets write csv files with the separator of the user's locale.
        delimiter = next((each for each in ";\t" if each in begun), delimiter)
    return delimiter, _table(_Feed(texts), delimiter)


def _table(feed: _Feed, delimiter: str) -> Iterator[tuple[int, list[str]] | BadLine]:
    reader = csv.reader(iter(feed), delimiter=delimiter, strict=True)
    while True:
        feed.first, wrong = None, ""
        row: list[str] = []
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            wrong = f"It cannot be read as a table's row: {error}."
            if "unexpected end" in str(error):
                wrong = "A quote is opened and not closed."
        yield from feed.bad
        feed.bad.clear()
        if wrong:
            yield BadLine(feed.first or 1, wrong)
        elif any(value.strip() for value in row):
            yield feed.first or 1, row
    yield from feed.bad


def _from_table(stream: Readable, delimiter: str) -> Iterator[PromptLine | BadLine]:
    """Rows under a header with the fields' names."""
    delimiter, table = table_of(stream, delimiter, "line")
    columns: dict[str, str] | None = None
    for item in table:
        if isinstance(item, BadLine):
            yield item
        elif columns is None:
            columns = _columns(item[1], item[0], delimiter)
        else:
            yield _table_line(*item, columns)


def _first(
    texts: Iterator[tuple[int, str] | BadLine],
) -> tuple[str | None, Iterator[tuple[int, str] | BadLine]]:
    """The first non-empty line, and all lines from it on."""
    for item in texts:
        if isinstance(item, BadLine):
            return None, itertools.chain([item], texts)
        if item[1].strip():
            return item[1], itertools.chain([item], texts)
    return None, iter(())


def _columns(row: list[str], number: int, delimiter: str) -> dict[str, str]:
    """The fields of a table's columns, with the names that its header gives them."""
    names = "prompt,seed,duration".replace(",", delimiter)
    try:
        columns = [field_of(name) for name in row]
    except UsageError as error:
        raise DataError(
            f"Line {number}, which names the columns: {error.message}",
            f"{error.hint} The first line must name the columns, such as {names!r}.",
        ) from error
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"Line {number}: the column {twice} occurs twice.", "Leave one out.")
    if "prompt" not in columns:
        raise DataError(
            f"Line {number} has no column named prompt.",
            f"The first line must name the columns, such as {names!r}.",
        )
    return dict(zip(columns, (name.strip() for name in row), strict=True))


def _table_line(number: int, row: list[str], columns: dict[str, str]) -> PromptLine | BadLine:
    if len(row) > len(columns):
        return BadLine(
            number,
            f"It has {len(row)} values, but there are {len(columns)} columns. "
            "Put a value that holds a separator into double quotes.",
        )
    return _line(number, dict(zip(columns, row, strict=False)), columns, text=True)
