"""Arithmetic of pieces: times of prompts, regions and windows.

A window is a range of frames that is decoded together, for pieces longer than the model's segment. It is as
long as the segment, on which the model was trained, unless the piece is shorter. This module does not import
torch, so that errors show before a model is loaded.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from magnet_cli.errors import UsageError
from magnet_cli.fields import LONGEST_PROMPT

# Default overlap of a window with the previous one, as a share of the segment.
OVERLAP = 0.3
# Seconds by which a region may exceed a sound before the model's frame length is known.
SLACK = 0.1


@dataclass(frozen=True)
class Cue:
    """A prompt and when it begins, in seconds from the start of the piece."""

    start: float
    prompt: str | None


def check_cues(cues: Sequence[Cue], seconds: float) -> tuple[Cue, ...]:
    """Check the cues of a piece, and sort them.
    Raises UsageError: there is none, none begins at 0, two begin at once, or one is outside the piece."""
    if not cues:
        raise UsageError("There is no prompt.", "Give at least one.")
    for cue in cues:
        if not (math.isfinite(cue.start) and cue.start >= 0):
            raise UsageError(f"A prompt cannot begin at {cue.start:g}.", "Give seconds from 0.")
        if cue.start >= seconds:
            raise UsageError(
                f"A prompt begins at {cue.start:g} s, but the piece is {seconds:g} s long.",
                "Let it begin earlier, or make the piece longer.",
            )
    if sum(len(json.dumps(cue.prompt)) for cue in cues) > LONGEST_PROMPT:
        raise UsageError("The prompts are too long for one piece.", "Use a sentence or two each.")
    ordered = sorted(cues, key=lambda cue: cue.start)
    if ordered[0].start != 0:
        raise UsageError(
            f"There is no prompt for the first {ordered[0].start:g} s.", "Let a prompt begin at 0."
        )
    for before, after in itertools.pairwise(ordered):
        if before.start == after.start:
            raise UsageError(f"Two prompts begin at {after.start:g} s.", "Join them, or move one.")
    return tuple(ordered)


class Region(NamedTuple):
    """Frames from `start` up to, but without, `stop`."""

    start: int
    stop: int

    @property
    def frames(self) -> int:
        """Number of frames."""
        return self.stop - self.start


@dataclass(frozen=True)
class Window:
    """The frames that the model sees at once, and those that it fills.

    Other open frames inside the window are decoded and discarded, as a later window has more context.
    """

    start: int
    stop: int
    fill: tuple[Region, ...]


def overlap_frames(seconds: float | None, segment: int, frame_rate: float) -> int:
    """Number of frames that windows share with known ones; without `seconds`, OVERLAP of a segment.
    Raises UsageError: a window would have no new or no known frames."""
    if seconds is None:
        frames = max(round(OVERLAP * segment), 1)
    else:
        frames = round(seconds * frame_rate) if math.isfinite(seconds) else 0
    if not 1 <= frames < segment:
        raise UsageError(
            f"An overlap of {seconds:g} s does not fit the model's segment.",
            f"Use {1 / frame_rate:g} to {(segment - 1) / frame_rate:g} s.",
        )
    return frames


def onward(total: int, known: int, segment: int, overlap: int) -> list[Window]:
    """Windows that fill a piece from frame `known` to its end, each overlapping what came before.

    The last one is moved back to end with the piece, so that it knows more than `overlap` frames.
    """
    windows = []
    while known < total:
        start = max(0, min(known - overlap, total - segment))
        stop = min(start + segment, total)
        windows.append(Window(start, stop, (Region(known, stop),)))
        known = stop
    return windows


def around(total: int, regions: Sequence[Region], segment: int, overlap: int) -> list[Window]:
    """Windows that fill `regions` (sorted, disjoint) of a piece, with known frames on both sides.

    Regions close to each other share a window, at its middle. A region too long for one window is filled
    from its start, as by `onward`, until the rest fits.
    """
    segment = min(segment, total)
    roomy = max(segment - overlap, 1)  # fills up to this long have overlap / 2 on either side
    todo = list(regions)
    windows = []
    while todo:
        first = todo[0].start
        if segment == total or todo[0].frames <= roomy:
            together = [r for r in todo if segment == total or r.stop - first <= roomy]
            middle = (first + together[-1].stop) // 2
            start = max(0, min(middle - segment // 2, total - segment))
            todo = todo[len(together) :]
        else:
            start = max(0, min(first - overlap, total - segment))
            stop = min(start + segment, todo[0].stop)
            together = [Region(first, stop)]
            todo[0] = Region(stop, todo[0].stop)
            todo = [r for r in todo if r.frames > 0]
        windows.append(Window(start, start + segment, tuple(together)))
    return windows


def regions_of(
    spans: Sequence[tuple[float, float]], frame_rate: float, total: int
) -> tuple[Region, ...]:
    """Convert spans in seconds to regions: all frames that a span touches, sorted and joined.

    Args:
        spans: (from, to) in seconds, in any order.
        total: frames of the piece.

    Raises:
        UsageError: there is none, or one is empty, reversed or outside the piece.
    """
    length = total / frame_rate
    check_spans(spans, length)
    regions = []
    for start, stop in spans:
        # Tolerate rounding errors, so that they add no frame.
        first = math.floor(start * frame_rate + 1e-6)
        last = math.ceil(stop * frame_rate - 1e-6)
        if first >= total or last > total + 1:
            raise _outside(start, stop, length)
        regions.append(Region(first, max(min(last, total), first + 1)))
    return join(regions)


def check_spans(spans: Sequence[tuple[float, float]], seconds: float) -> None:
    """Check spans in a sound of `seconds`, before a model is loaded.

    A span may exceed the sound by less than SLACK; `regions_of` allows one frame.

    Raises:
        UsageError: there is none, or one is empty, reversed or outside the sound.
    """
    if not spans:
        raise UsageError("There is no region.", "Give one, such as 2.0-5.5.")
    for start, stop in spans:
        if not (math.isfinite(start) and math.isfinite(stop) and 0 <= start < stop):
            raise UsageError(
                f"{start:g}-{stop:g} is not a region.", "Give seconds, from-to, such as 2.0-5.5."
            )
        if start >= seconds or stop >= seconds + SLACK:
            raise _outside(start, stop, seconds)


def _outside(start: float, stop: float, seconds: float) -> UsageError:
    return UsageError(
        f"The region {start:g}-{stop:g} is not inside the sound.", f"It is {seconds:.2f} s long."
    )


def join(regions: Sequence[Region]) -> tuple[Region, ...]:
    """Sort regions, and join those that overlap or touch."""
    joined: list[Region] = []
    for region in sorted(regions):
        if joined and region.start <= joined[-1].stop:
            joined[-1] = Region(joined[-1].start, max(joined[-1].stop, region.stop))
        else:
            joined.append(region)
    return tuple(joined)


def stretches(windows: Sequence[Window]) -> tuple[Region, ...]:
    """The parts of a piece that windows cover, which must be read."""
    return join([Region(window.start, window.stop) for window in windows])


def window_seed(seed: int, index: int) -> int:
    """The seed of a window. The first has the piece's seed, so that a piece of one window equals a clip."""
    return seed if index == 0 else derived_seed(seed, f"window {index}")


def derived_seed(seed: int, purpose: str) -> int:
    """A seed derived for a purpose, the same on every machine."""
    digest = hashlib.blake2b(f"{seed} {purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
