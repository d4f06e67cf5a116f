"""The one printer of what files, names and servers say: on one line, and with nothing that a terminal obeys.

A line of the program's output is the program's own, so what others have written can neither begin one
nor colour, move or turn what stands there: it is shown as the escape that Python and JSON have for it.
"""

from __future__ import annotations

import contextlib
import unicodedata

_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def shown(text: str, most: int | None = None) -> str:
    """`text` on one line, its controls and its marks that turn the writing as escapes.

    Args:
        most: characters; what is beyond is left out.
    """
    if not text.isascii():
        # Under a locale without letters beyond ASCII, the bytes of names are halves of pairs.
        with contextlib.suppress(UnicodeError):
            text = text.encode("utf-8", "surrogateescape").decode("utf-8")
    cut = text if most is None or len(text) <= most else f"{text[: most - 1]}…"
    if cut.isascii() and cut.isprintable():
        return cut
    return "".join(character if is_plain(character) else _escape(character) for character in cut)


def is_plain(character: str) -> bool:
    """Whether a character stands for itself in a terminal and does nothing there."""
    # Cc: control; Cs: half of a pair, which no encoding can write; Zl, Zp: ends of lines and paragraphs.
    # The last are overrides of the direction of writing; marks that right-to-left text needs are not
    # among them.
    return unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp") and not (
        "\u202a" <= character <= "\u202e" or "\u2066" <= character <= "\u2069"
    )


def _escape(character: str) -> str:
    if character in _SHORT:
        return _SHORT[character]
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
