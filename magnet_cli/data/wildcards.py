"""Wildcards in prompts: `{sad|happy} piano` and `__instruments__`, drawn for each clip by its seed.

`__name__` is a line of name.txt beside the prompt file: names match [a-z0-9_-], so that they cannot lead to
another folder, and lines may contain wildcards. The same seed, prompt and lists give the same text on every
machine, whatever else is in the batch; the text drawn is the clip's prompt from then on.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from magnet_cli.errors import UsageError
from magnet_cli.fields import LONGEST_PROMPT, clean_prompt, shown
from magnet_cli.foreign import reading

_NAME = re.compile(r"__(?P<name>[a-z0-9-]+(?:_[a-z0-9-]+)*)__")
_BRACES = re.compile(r"\{(?P<options>[^{}]*)\}")  # the innermost ones
_MOST_DRAWS = 1000  # per prompt: lists that name each other would never end
_MOST_BYTES = 4_000_000  # bytes of a list


class Wildcards:
    """The lists of a folder, each read once, on first use."""

    def __init__(self, folder: Path) -> None:
        """`folder`: the prompt file's."""
        self._folder = folder
        self._lists: dict[str, list[str]] = {}

    def drawn(self, prompt: str, seed: int) -> str:
        """Replace a prompt's wildcards.

        Args:
            prompt: with or without wildcards.
            seed: the clip's.

        Raises:
            UsageError: a list does not exist or cannot be read, a brace is unmatched, the replacement does
                not end, or nothing is left.
        """
        text = prompt
        for draw in range(_MOST_DRAWS):
            # Names first, because their replacements may contain alternatives.
            if found := _NAME.search(text):
                options: Sequence[str] = self._lines(found["name"])
            elif found := _BRACES.search(text):
                options = found["options"].split("|")
            elif "{" in text or "}" in text:
                raise UsageError(
                    f"{shown(text)} has an unmatched brace.", "Alternatives are {this|that}."
                )
            else:
                return clean_prompt(text)
            one = options[_number(prompt, seed, draw) % len(options)]
            text = text[: found.start()] + one + text[found.end() :]
            if len(text) > LONGEST_PROMPT:
                break
        raise UsageError(
            "Its wildcards refer to each other endlessly.",
            "Remove the list's name from its own lines.",
        )

    def _lines(self, name: str) -> list[str]:
        if name not in self._lists:
            path = self._folder / f"{name}.txt"
            try:
                text = reading.read_text(path, _MOST_BYTES)
            except FileNotFoundError:
                raise UsageError(
                    f"There is no {path} for __{name}__.",
                    "Create it, with one alternative on each line.",
                ) from None
            except (OSError, reading.ReadError) as error:
                raise UsageError(
                    f"{path} cannot be read: {reading.reason(error)}.",
                    "Write one alternative on each line.",
                ) from error
            lines = [" ".join(line.split()) for line in text.splitlines()]
            self._lists[name] = [line for line in lines if line and not line.startswith("#")]
        if not self._lists[name]:
            raise UsageError(f"{name}.txt is empty.", "Write one alternative on each line.")
        return self._lists[name]


def _number(prompt: str, seed: int, draw: int) -> int:
    # Not Python's random numbers, whose choices may change between versions.
    digest = hashlib.sha256(f"{seed} {draw} {prompt}".encode()).digest()
    return int.from_bytes(digest[:8], "big")
