"""File names made from prompts: safe on every system, readable, never longer than a name may be."""

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
_MOST_BYTES = 120  # of a slug in UTF-8: file systems count bytes, 255 of them for the whole name

# Windows keeps these for devices, with any suffix and in any case.
_RESERVED = {"con", "prn", "aux", "nul", "conin", "conout"} | {
    f"{port}{digit}" for port in ("com", "lpt") for digit in "0123456789¹²³"
}


def slug(text: str) -> str:
    """A file name's worth of `text`: lower case, letters and digits of any script, joined by hyphens.

    "Lo-fi Piano, 80 BPM!" -> "lo-fi-piano-80-bpm". Never empty, never a reserved name, never with a
    separator, a leading dot, or a character that turns the direction of writing.
    """
    folded = unicodedata.normalize("NFKC", text).lower()
    # Marks (M) belong to the letters before them in many scripts; emoji and symbols go.
    kept = "".join(c if unicodedata.category(c)[0] in "LNM" else " " for c in folded)
    joined = "-".join(kept.split())
    short = _cut(joined)
    if not short:
        return "clip"
    return f"{short}-clip" if short in _RESERVED else short


def writable(name: str) -> str:
    """A name as this system's files can have it: its bytes are UTF-8's where the locale knows no better."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return os.fsdecode(name.encode("utf-8", "replace"))
    return name


def numbered(path: PathT, number: int) -> PathT:
    """`path` with a number before its suffix: out.wav -> out-2.wav."""
    return path.with_name(f"{path.stem}-{number}{path.suffix}")


def is_reserved(name: str) -> bool:
    """Whether Windows keeps a name for a device, whatever its suffix and case."""
    return name.partition(".")[0].rstrip().casefold() in _RESERVED


class Names:
    """Names that are given out once each. Two that differ in case or in how accents are written are
    one name to some file systems, so they are here."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        """`taken`: names that are not to be given out."""
        self._taken = {_key(name) for name in taken}
        self._next: dict[str, int] = {}

    def unused(self, name: str) -> str:
        """`name` (a file name or relative path), numbered from 2 where it is taken already."""
        key, other = _key(name), name
        while _key(other) in self._taken:
            number = self._next.get(key, 2)
            self._next[key] = number + 1
            other = numbered(PurePosixPath(name), number).as_posix()
        self._taken.add(_key(other))
        return other


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _cut(joined: str) -> str:
    """At most LONGEST_SLUG characters and _MOST_BYTES bytes, at the end of a word where one is near."""
    short = joined[:LONGEST_SLUG]
    while len(short.encode("utf-8", "ignore")) > _MOST_BYTES:
        short = short[:-1]
    if len(short) < len(joined) and joined[len(short)] != "-":
        whole = short.rsplit("-", 1)[0]
        short = whole if len(whole) >= len(short) // 2 else short
    # A mark that lost its letter to the cut would land on the hyphen before it.
    return re.sub(r"-+$", "", short)


def count_of(number: int, noun: str) -> str:
    """A number and what is counted, for a message: "1 clip", "12 clips"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def hours_of(hours: float) -> str:
    """For people: 1.5 h, 2.7 min."""
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"


def some(names: Sequence[str], separator: str = ", ") -> str:
    """The first five of some names, for a message, and how many more there are."""
    shown = separator.join(names[:_MOST_SHOWN])
    more = len(names) - _MOST_SHOWN
    return f"{shown}{separator}and {more} more" if more > 0 else shown


def with_number(text: str) -> tuple[str, float]:
    """NAME:NUMBER as both, where the end is a number and no file is called so; else the text and 1.
    Raises ValueError: the number is none ("nan")."""
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
