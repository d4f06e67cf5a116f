"""How a batch is divided: into shards for several machines, I of N makes every N-th clip; into groups."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from magnet_cli.errors import UsageError


@dataclass(frozen=True)
class Shard:
    """One of `count` parts, with `number` from 1."""

    number: int = 1
    count: int = 1

    @property
    def suffix(self) -> str:
        """What marks the files of this part; empty for the whole."""
        return f".shard-{self.number}-of-{self.count}" if self.count > 1 else ""

    def has(self, index: int) -> bool:
        """Whether the clip with an index, from 0, is of this part."""
        return index % self.count == self.number - 1

    def shares_nothing_with(self, suffix: str) -> bool:
        """Whether the files marked by `suffix` are of another part of the same division."""
        return self.count > 1 and suffix != self.suffix and suffix.endswith(f"-of-{self.count}")


WHOLE = Shard()


def parse_shard(text: str | None) -> Shard:
    """ "2/8" -> the second of eight parts; None: the whole.

    Raises:
        UsageError: it is anything else.
    """
    if text is None:
        return WHOLE
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
    if found is None:
        raise UsageError(f"--shard cannot be {text[:40]!r}.", "It takes I/N, such as 1/4.")
    number, count = int(found[1]), int(found[2])
    if not 1 <= number <= count:
        raise UsageError(
            f"There is no shard {number} of {count}.", f"Shards are 1/{count} to {count}/{count}."
        )
    return Shard(number, count)


def parse_batch_size(text: str) -> int | Literal["auto"]:
    """ "auto" or a whole number from 1.

    Raises:
        UsageError: it is anything else.
    """
    if text == "auto":
        return "auto"
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= 4096):
        raise UsageError(
            f"--batch-size cannot be {text[:40]!r}.", "It takes auto, or 1 to 4096 clips."
        )
    return int(text)
