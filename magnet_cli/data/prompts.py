"""Prompts: what a text must be for a model to be given it."""

from __future__ import annotations

import json
import unicodedata

from magnet_cli.errors import UsageError

# Escaped as JSON. Files keep their prompt as a comment, and opus takes no comment beyond 60 kB.
LONGEST_PROMPT = 20_000


def clean_prompt(text: str) -> str:
    """`text` on one line, without space around it; spaces, tabs and newlines become one space each.

    Raises:
        UsageError: it is empty, too long, not UTF-8, or holds control characters such as NUL.
    """
    one_line = " ".join(text.split())
    if not one_line:
        raise UsageError("The prompt is empty.", 'Describe a sound, such as "lofi piano".')
    for at, character in enumerate(one_line):
        category = unicodedata.category(character)
        if category == "Cs":
            raise UsageError("The prompt is not UTF-8 text.", "Save it as UTF-8.")
        if category == "Cc":
            raise UsageError(
                f"The prompt holds a control character (U+{ord(character):04X}, at {at + 1}).",
                "Remove it: a prompt is plain text.",
            )
    length = len(json.dumps(one_line))
    if length > LONGEST_PROMPT:
        raise UsageError(
            f"The prompt is too long: {len(one_line)} characters.",
            "A sentence or two say more to a model than a page.",
        )
    return one_line
