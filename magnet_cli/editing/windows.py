"""The arithmetic of a piece: when its prompts begin, its regions, and its windows.

A window is the frames that are decoded together, where a piece is longer than the model's segment;
it is as long as the segment wherever the piece is: that is the length the model was trained on. No
torch here: what cannot be a piece is refused before a model is loaded.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from magnet_cli.errors import UsageError

# Share of the segment that a window has in common with what was made before it, if not said.
OVERLAP = 0.3
# Seconds past a sound that a region may end at before a model, and so its frame, is known.
SLACK = 0.1


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


class Region(NamedTuple):
    """Frames from `start` up to, but without, `stop`."""

    start: int
    stop: int

    @property
    def frames(self) -> int:
        """How many frames these are."""
        return self.stop - self.start


@dataclass(frozen=True)
class Window:
    """The frames that the model sees at once, and those of them that it fills.

    What is still open inside the window but not in `fill` is made and thrown away: a later window
    makes it with more around it.
    """

    start: int
    stop: int
    fill: tuple[Region, ...]


def overlap_frames(seconds: float | None, segment: int, frame_rate: float) -> int:
    """Frames that windows share with what is known.

    Args:
        seconds: what was asked for; None takes OVERLAP of the segment.
        segment: frames that the model makes at once.

    Raises:
        UsageError: a window would hold nothing new, or nothing known.
    """
    if seconds is None:
        frames = max(round(OVERLAP * segment), 1)
    else:
        frames = round(seconds * frame_rate) if math.isfinite(seconds) else 0
    if not 1 <= frames < segment:
        raise UsageError(
            f"An overlap of {seconds:g} s does not fit the model's segment.",
            f"Take from {1 / frame_rate:g} to {(segment - 1) / frame_rate:g} s.",
        )
    return frames


def onward(total: int, known: int, segment: int, overlap: int) -> list[Window]:
    """Windows that fill a piece from frame `known` to its end, each leaning on what came before.

    The last one is moved back to end where the piece ends, so it knows more than `overlap` frames.
    """
    windows = []
    while known < total:
        start = max(0, min(known - overlap, total - segment))
        stop = min(start + segment, total)
        windows.append(Window(start, stop, (Region(known, stop),)))
        known = stop
    return windows


def around(total: int, regions: Sequence[Region], segment: int, overlap: int) -> list[Window]:
    """Windows that fill `regions` (in order, apart) of a piece, with known frames on both sides.

    Regions near each other share a window, in the middle of it. A region too long for that is
    filled from its start on, as by `onward`, until what is left of it fits.
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
    """Seconds to whole frames: every frame that a span touches, in order, touching ones joined.

    Args:
        spans: (from, to) in seconds, in any order.
        total: frames of the piece.

    Raises:
        UsageError: there is none, one is empty or backwards, or one lies outside the piece.
    """
    length = total / frame_rate
    check_spans(spans, length)
    regions = []
    for start, stop in spans:
        # A rounding error beyond a whole number of frames adds no frame.
        first = math.floor(start * frame_rate + 1e-6)
        last = math.ceil(stop * frame_rate - 1e-6)
        if first >= total or last > total + 1:
            raise _outside(start, stop, length)
        regions.append(Region(first, max(min(last, total), first + 1)))
    return join(regions)


def check_spans(spans: Sequence[tuple[float, float]], seconds: float) -> None:
    """Refuse what no model could make a region of, in a sound of `seconds`.

    A span may end a little past the sound, by less than SLACK: by a frame, `regions_of` allows.

    Raises:
        UsageError: there is none, one is empty or backwards, or one lies outside the sound.
    """
    if not spans:
        raise UsageError("There is no region.", "Say what to make anew, such as 2.0-5.5.")
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
    """The same frames as regions in order that neither overlap nor touch."""
    joined: list[Region] = []
    for region in sorted(regions):
        if joined and region.start <= joined[-1].stop:
            joined[-1] = Region(joined[-1].start, max(joined[-1].stop, region.stop))
        else:
            joined.append(region)
    return tuple(joined)


def stretches(windows: Sequence[Window]) -> tuple[Region, ...]:
    """The parts of a piece that the windows see: all that has to be read of it."""
    return join([Region(window.start, window.stop) for window in windows])


def window_seed(seed: int, index: int) -> int:
    """The seed of a window. The first has the piece's own, so a piece of one window is a plain clip."""
    return seed if index == 0 else derived_seed(seed, f"window {index}")


def derived_seed(seed: int, purpose: str) -> int:
    """A seed for a part of the work, the same on every machine."""
    digest = hashlib.blake2b(f"{seed} {purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
