"""Reads JSON and TOML with limits on size and depth, refusing duplicate names; YAML, which needs a library,
is in yaml_text.py. `shown` formats untrusted text for terminals.

Errors are ReadError, a ValueError whose text is a reason such as "it is nested more than 64 deep"; callers
add the file's name and a hint. Pipes and devices are never read, because they may be endless. Numbers in
JSON must be finite.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import stat
import unicodedata
from pathlib import Path
from typing import Any, BinaryIO

MOST_BYTES = 16_000_000  # bytes of a file of settings; those of models have a few thousand
MOST_DEPTH = 64  # levels of nested lists and mappings; our own files have six

# A string up to its end or an escape, an escape with the text after it, or a bracket outside of strings.
# A string in one match would be tried again from each of its quotes if its end is missing.
_JSON_MARKS = re.compile(r'"[^"\\]*"?|\\.[^"\\]*"?|[\[\]{}]', re.DOTALL)
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


class ReadError(ValueError):
    """A file cannot be read; the text is the reason, for use after the file's name."""


def open_regular(path: Path, follow: bool = True) -> BinaryIO:
    """Open a regular file for reading; opening a pipe without a writer would block forever.

    Args:
        follow: whether links are followed.

    Raises:
        ReadError: it is a pipe, a device, a folder, or a link while `follow` is false.
        OSError: it does not exist, or may not be read.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        number = os.open(path, flags | (0 if follow else getattr(os, "O_NOFOLLOW", 0)))
    except ValueError:
        raise ReadError("its name holds a NUL") from None
    except OSError as error:
        if error.errno == errno.ELOOP and not follow and path.is_symlink():
            raise ReadError("it is a link") from error
        if error.errno in (errno.ENXIO, errno.ENODEV):
            raise ReadError("it is a pipe or a device, not a file") from error
        raise
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        folder = path.is_dir()
        raise ReadError("it is a folder" if folder else "it is a pipe or a device, not a file")
    return os.fdopen(number, "rb")


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """Read a whole file.

    Raises:
        ReadError: it is not regular (`open_regular`), has more than `most` bytes, or is a pointer to a file
            that git has not fetched.
        OSError: it does not exist, or may not be read.
    """
    with open_regular(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ReadError(f"it is larger than {most / 1e6:g} MB")
    if data.startswith(_LFS_POINTER):
        raise ReadError(LFS_REASON)
    return data


LFS_REASON = "it is a pointer that Git LFS left in the place of the file"
LFS_HINT = "Fetch the files themselves: run `git lfs pull` in the folder that was cloned."


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """Read a whole file as UTF-8 text, with or without a byte order mark.
    Raises ReadError, OSError: as `read_bytes`; or it is not UTF-8."""
    try:
        return read_bytes(path, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ReadError(f"byte {error.start + 1} is not UTF-8") from None


# ------------------------------------------------------------------------------------------------ JSON


def read_json(path: Path, most: int = MOST_BYTES) -> Any:
    """Read a file's JSON value. Raises ReadError, OSError: as `read_text` and `json_of`."""
    return json_of(read_text(path, most))


def read_object(path: Path, most: int = MOST_BYTES) -> dict[str, Any]:
    """Read a file's JSON object. Raises ReadError, OSError: as `read_json`; or it is another JSON value."""
    value = read_json(path, most)
    if not isinstance(value, dict):
        raise ReadError(f"it holds {kind_of(value)}, not values by name")
    return value


def json_of(text: str | bytes, invalid: bool = False) -> Any:
    """Parse a JSON value.

    Args:
        invalid: convert numbers that are not finite to None instead of refusing them.

    Raises:
        ReadError: it is not JSON, is nested too deeply, repeats a name, or contains a number that is not
            finite.
    """
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ReadError(f"byte {error.start + 1} is not UTF-8") from None
    _check_json_depth(text)

    def number(said: str) -> float | None:
        value = float(said)
        if math.isfinite(value):
            return value
        if invalid:
            return None
        raise ReadError(f"{said[:40]} is not a finite number")

    def whole(said: str) -> int:
        if len(said) > 308:  # the largest float has 309 digits
            raise ReadError("it holds a number of hundreds of digits")
        return int(said)

    try:
        return json.loads(
            text,
            object_pairs_hook=_once,
            parse_float=number,
            parse_constant=number,
            parse_int=whole,
        )
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}" if "\n" in text.strip() else f"character {error.pos + 1}"
        raise ReadError(f"it is not JSON: {_lower(error.msg)} at {where}") from None
    except RecursionError:
        raise ReadError(f"it is nested more than {MOST_DEPTH} deep") from None


def _check_json_depth(text: str) -> None:
    depth = 0
    for mark in _JSON_MARKS.finditer(text):
        character = text[mark.start()]
        if character in "[{":
            depth += 1
            if depth > MOST_DEPTH:
                raise ReadError(f"it is nested more than {MOST_DEPTH} deep")
        elif character in "]}":
            depth -= 1


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ReadError(f"it says {name[:40]!r} twice")
        values[name] = value
    return values


# ------------------------------------------------------------------------------------------------ TOML


def toml_of(text: str) -> dict[str, Any]:
    """Parse a TOML text. Raises ReadError: it is not TOML, is too large, or is nested too deeply."""
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib  # type: ignore[import-not-found, no-redef, unused-ignore]
    if len(text) > 1_000_000:
        raise ReadError("it is larger than 1 MB")
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ReadError(f"it is not TOML: {_lower(str(error))}") from None
    except RecursionError:
        raise ReadError(f"it is nested more than {MOST_DEPTH} deep") from None
    except (ValueError, OverflowError):
        raise ReadError("it holds a number or a date that cannot be") from None
    check_depth(values)
    return values


def check_depth(value: Any) -> None:
    """Check the nesting of values, without recursion. Raises ReadError: they are nested too deeply."""
    level = [value]
    for _ in range(MOST_DEPTH + 1):
        level = [
            child
            for each in level
            if isinstance(each, (dict, list))
            for child in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return
    raise ReadError(f"it is nested more than {MOST_DEPTH} deep")


# ------------------------------------------------------------------------------------------------ words


def kind_of(value: Any) -> str:
    """The type of a JSON, TOML or YAML value, in words."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true or false"
    kinds = {int: "a number", float: "a number", str: "a text", list: "a list", dict: "a mapping"}
    return kinds.get(type(value), "a value of another kind")


def reason(error: BaseException) -> str:
    """The reason that a file could not be read, for a sentence, from any exception."""
    said = getattr(error, "strerror", None) or str(error)
    one_line = " ".join(str(said).split()).rstrip(".")
    return _lower(one_line[:200]) or "it is damaged"


def _lower(text: str) -> str:
    """Lower the first letter for use in a sentence, except of names and abbreviations."""
    word = text.partition(" ")[0]
    return text[:1].lower() + text[1:] if word == word.capitalize() else text


# -------------------------------------------------------------------------------------------- printing
# Text from files, names and servers is shown on one line, without control characters, so that it cannot
# forge, colour, move or reverse the program's own output.

_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def shown(text: str, most: int | None = None) -> str:
    """Format text on one line, with control characters and direction overrides escaped.

    Args:
        most: maximum characters; longer text is cut.
    """
    if not text.isascii():
        # In an ASCII locale, non-ASCII bytes in names are lone surrogates.
        with contextlib.suppress(UnicodeError):
            text = text.encode("utf-8", "surrogateescape").decode("utf-8")
    cut = text if most is None or len(text) <= most else f"{text[: most - 1]}…"
    if cut.isascii() and cut.isprintable():
        return cut
    return "".join(character if is_plain(character) else _escape(character) for character in cut)


def is_plain(character: str) -> bool:
    """Whether a character has no special effect in a terminal."""
    # Cc: control; Cs: lone surrogate, which no encoding can write; Zl, Zp: line and paragraph separators. The
    # ranges are overrides of the text direction, without the marks that right-to-left text needs.
    return unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp") and not (
        "\u202a" <= character <= "\u202e" or "\u2066" <= character <= "\u2069"
    )


def _escape(character: str) -> str:
    if character in _SHORT:
        return _SHORT[character]
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
