"""Prompts and when they begin. No torch: what cannot be a piece is refused before a model is loaded."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from magnet_cli.errors import UsageError


@dataclass(frozen=True)
class Cue:
    """A prompt and when it begins, in seconds from the start of the piece."""

    start: float
    prompt: str | None


def check_cues(cues: Sequence[Cue], seconds: float) -> tuple[Cue, ...]:
    """The cues of a piece in their order.

    Raises:
        UsageError: there is none, nothing is said of the start, two begin at once, or one lies
            outside the piece.
    """
    if not cues:
        raise UsageError("There is no prompt.", "Give at least one.")
    for cue in cues:
        if not (math.isfinite(cue.start) and cue.start >= 0):
            raise UsageError(f"A prompt cannot begin at {cue.start:g}.", "Give seconds from 0.")
        if cue.start >= seconds:
            raise UsageError(
                f"A prompt begins at {cue.start:g} s, but the piece is {seconds:g} s long.",
                "Let it begin sooner, or make the piece longer.",
            )
    ordered = sorted(cues, key=lambda cue: cue.start)
    if ordered[0].start != 0:
        raise UsageError(
            f"Nothing is said of the first {ordered[0].start:g} s.", "Let a prompt begin at 0."
        )
    for before, after in itertools.pairwise(ordered):
        if before.start == after.start:
            raise UsageError(
                f"Two prompts begin at {after.start:g} s.", "Join them into one, or move one."
            )
    return tuple(ordered)
