"""File names made from prompts (readable, and valid on every system), and words for messages."""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import PurePath, PurePosixPath
from typing import TypeVar

PathT = TypeVar("PathT", bound=PurePath)

LONGEST_SLUG = 60  # characters
_MOST_SHOWN = 5  # names in a message
_MOST_BYTES = 120  # of a slug in UTF-8: file systems limit a name to 255 bytes

# Windows reserves these for devices, with any suffix and in any case.
_RESERVED = {"con", "prn", "aux", "nul", "conin", "conout"} | {
    f"{port}{digit}" for port in ("com", "lpt") for digit in "0123456789¹²³"
}


def slug(text: str) -> str:
    """Convert text to a short file name: lower case, letters and digits of any script, joined by hyphens.

    "Lo-fi Piano, 80 BPM!" -> "lo-fi-piano-80-bpm". Never empty or a reserved name; contains no separator,
    leading dot, or character that overrides the text direction.
    """
    folded = unicodedata.normalize("NFKC", text).lower()
    # Marks (M) belong to the preceding letters in many scripts; emoji and symbols are dropped.
    kept = "".join(c if unicodedata.category(c)[0] in "LNM" else " " for c in folded)
    joined = "-".join(kept.split())
    short = _cut(joined)
    if not short:
        return "clip"
    return f"{short}-clip" if short in _RESERVED else short


def writable(name: str) -> str:
    """Make a name encodable on this system, as UTF-8 bytes if the locale cannot encode it."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return os.fsdecode(name.encode("utf-8", "replace"))
    return name


def numbered(path: PathT, number: int) -> PathT:
    """Insert a number before the suffix: out.wav -> out-2.wav."""
    return path.with_name(f"{path.stem}-{number}{path.suffix}")


def is_reserved(name: str) -> bool:
    """Whether Windows reserves a name for a device, with any suffix and case."""
    return name.partition(".")[0].rstrip().casefold() in _RESERVED


class Names:
    """Gives out unique names. Names that differ only in case or Unicode form count as equal, because some
    file systems do not distinguish them."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        """`taken`: names in use already."""
        self._taken = {_key(name) for name in taken}
        self._folders: set[str] = set()  # that taken names lie in
        self._next: dict[str, int] = {}

    def unused(self, name: str) -> str:
        """Return `name` (a file name or relative path), numbered from 2 if it is taken."""
        key, other = _key(name), name
        while _key(other) in self._taken:
            number = self._next.get(key, 2)
            self._next[key] = number + 1
            other = numbered(PurePosixPath(name), number).as_posix()
        self._taken.add(_key(other))
        self._folders |= _folders(other)
        return other

    def clashes(self, name: str) -> bool:
        """Whether `name` is the folder of a taken name, or lies in one as if that were a folder."""
        return _key(name) in self._folders or not self._taken.isdisjoint(_folders(name))


def _folders(name: str) -> set[str]:
    return {_key(folder.as_posix()) for folder in PurePosixPath(name).parents}


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _cut(joined: str) -> str:
    """Cut to LONGEST_SLUG characters and _MOST_BYTES bytes, at the end of a word if one is near."""
    short = joined[:LONGEST_SLUG]
    while len(short.encode("utf-8", "ignore")) > _MOST_BYTES:
        short = short[:-1]
    if len(short) < len(joined) and joined[len(short)] != "-":
        whole = short.rsplit("-", 1)[0]
        short = whole if len(whole) >= len(short) // 2 else short
    # A mark whose letter was cut off would attach to the hyphen before it.
    return re.sub(r"-+$", "", short)


def count_of(number: int, noun: str) -> str:
    """A count with its noun, for messages: "1 clip", "12 clips"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def hours_of(hours: float) -> str:
    """Format a duration given in hours: "1.5 h", "2.7 min"."""
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"


def some(names: Sequence[str], separator: str = ", ") -> str:
    """The first five names and the number of others, for messages."""
    shown = separator.join(names[:_MOST_SHOWN])
    more = len(names) - _MOST_SHOWN
    return f"{shown}{separator}and {more} more" if more > 0 else shown


def with_number(text: str) -> tuple[str, float]:
    """Split NAME:NUMBER; returns the whole text and 1 if it has no number or names an existing file.
    Raises ValueError: the number is NaN."""
    name, mark, end = text.rpartition(":")
    if mark and name and not os.path.exists(os.path.expanduser(text)):
        try:
            number = float(end)
        except ValueError:
            return text, 1.0
        if math.isnan(number):
            raise ValueError("it is not a number")
        return name, number
    return text, 1.0
