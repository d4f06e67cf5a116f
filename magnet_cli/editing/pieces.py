"""Pieces of any length: the engine of all editing, which extends a piece or fills its regions.

A piece is codes [1, K, T], some of them open. Open codes are decoded window by window, known ones stay.
Windows are joined in codes, never in waveforms.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from magnet_cli.decoding.contracts import OnStep, Sessions
from magnet_cli.editing.timeline import MixedSessions, cue_weights
from magnet_cli.editing.windows import (
    Cue,
    Region,
    Window,
    around,
    check_cues,
    join,
    onward,
    overlap_frames,
    window_seed,
)
from magnet_cli.errors import UsageError
from magnet_cli.models.session import TextSessions
from magnet_cli.models.text import said_bars
from magnet_cli.pipeline import Pipeline
from magnet_cli.request import GenerationRequest, for_window, make_request
from magnet_cli.settings import DecodingConfig

# Called before a window is decoded: (number from 1, total).
OnWindow = Callable[[int, int], None]


@dataclass(frozen=True)
class Direction:
    """Prompts and settings for the new codes of a piece."""

    cues: tuple[Cue, ...]  # prompts by time; a single one at 0 is for the whole piece
    seed: int
    negative_prompt: str | None = None  # None: the null condition
    config: DecodingConfig | None = None  # fields of None: the checkpoint's defaults
    overlap: float | None = None  # seconds that windows share with known codes; None: 0.3 segments
    bpm: float | None = None  # of the sound to be edited; used if the prompt says no tempo

    @classmethod
    def of(cls, prompt: str | None, seed: int, **more: Any) -> Direction:
        """A direction with one prompt for the whole piece."""
        return cls((Cue(0.0, prompt),), seed, **more)


@dataclass(frozen=True)
class Piece:
    """A piece as codes, with the settings that made it."""

    codes: Tensor  # int64 [1, K, T]
    settings: dict[str, Any]  # JSON types
    bar: float = 0.0  # frames per bar that were repeated; 0: none

    @property
    def frames(self) -> int:
        """Length in frames."""
        return self.codes.shape[-1]


class Filler:
    """Fills the open codes of a piece by a direction.
    Raises UsageError: the direction does not fit the model or the piece of `frames` frames, or sets
    `hybrid`, for which windows only use the checkpoint's default."""

    def __init__(
        self,
        model: Pipeline,
        direction: Direction,
        frames: int,
        on_step: OnStep | None = None,
        on_window: OnWindow | None = None,
        *,
        bars: Sequence[float] | None = None,
        since: int | None = None,
    ) -> None:
        """`bars`: frames per bar, as in `GenerationRequest`; None: of a new clip, which starts with a bar.
        `since`: frames since the start of a bar at the first frame; None: unknown, as of an existing sound.
        """
        self.model, self.direction = model, direction
        self.on_step, self.on_window = on_step, on_window
        self.cues = check_cues(direction.cues, frames / model.frame_rate)
        self.overlap = overlap_frames(direction.overlap, model.segment_frames, model.frame_rate)
        self.config = direction.config or DecodingConfig()
        if model.modeling != "autoregressive":
            # Every frame of a window is needed, including those after the last whole span.
            self.config = dataclasses.replace(self.config, full_length=True)
            if self.config.hybrid:
                # Windows use the checkpoint's default; the user's seconds would fit only some of them.
                raise UsageError(
                    "--hybrid is for clips of one prompt and one segment.", "Remove it."
                )
        # Checked and resolved once: each window is this request with other codes and another seed.
        self.request = make_request(
            model.parts,
            [self.cues[0].prompt],  # the texts are in the sessions
            config=self.config,
            seeds=[direction.seed],
            negative_prompts=direction.negative_prompt,
            frames=min(frames, model.segment_frames),
        )
        self._since = 0 if bars is None else since
        if bars is not None and self.request.bars:  # if the model uses bars
            resolved = self.request.config
            known = since is not None or resolved.bar_repeat or resolved.half_bar_repeat
            self.request = dataclasses.replace(self.request, bars=tuple(bars) if known else ())
        self._texts: list[TextSessions] | None = None

    def fill(self, codes: Tensor, open_: Tensor, windows: Sequence[Window]) -> Iterator[Window]:
        """Fill the open codes of windows in place; yields each window when it is filled.

        Args:
            codes: int64 [1, K, T]; changed only where `open_` is true.
            open_: bool [1, K, T]; becomes false where a window is filled.
            windows: in the order to fill them.
        """
        for index, window in enumerate(windows):
            if self.on_window is not None:
                self.on_window(index + 1, len(windows))
            part = slice(window.start, window.stop)
            seed = window_seed(self.direction.seed, index)
            request = self._window(codes[..., part], ~open_[..., part], seed)
            sessions = self._sessions(window.start, window.stop)
            if isinstance(sessions, MixedSessions):
                # What a bar of one prompt had would drown the next prompt.
                request = dataclasses.replace(request, sections=sessions.weights.argmax(0))
            made = self.model.decode(request, self.on_step, sessions).to(codes.device)
            for start, stop in window.fill:
                codes[..., start:stop] = made[..., start - window.start : stop - window.start]
                open_[..., start:stop] = False
            yield window

    def describe(self, kind: str, known: Tensor, **more: Any) -> dict[str, Any]:
        """The settings that make the piece again, as JSON types.

        Args:
            kind: extend, inpaint, vary or loop.
            known: bool [1, K, T], which codes of the whole piece were given.
            more: further settings of the edit.
        """
        window = known[..., : self.model.segment_frames]
        request = self._window(window.long() * 0, window, self.direction.seed)
        edit = {
            "kind": kind,
            "overlap": self.overlap / self.model.frame_rate,
            "cues": [[cue.start, cue.prompt] for cue in self.cues],
        }
        said = self.model.describe(request)
        if self.config.hybrid is None and not said["decoding"].get("hybrid"):
            # The first window did not use the checkpoint's hybrid default, but later ones may.
            said["decoding"].pop("hybrid", None)
        return said | {
            "frames": known.shape[-1],
            "known_codes": int(known.sum()),
            "edit": edit | more,
        }

    def _window(self, codes: Tensor, known: Tensor, seed: int) -> GenerationRequest:
        return for_window(self.request, self.model.lm.config, codes, known, seed)

    def _sessions(self, start: int, stop: int) -> Sessions:
        """The model with its texts, weighted for a window. Texts are encoded once."""
        if self._texts is None:
            bars = () if self._since is None else self.request.bars
            self._texts = [
                self.model.sessions([cue.prompt], [self.direction.negative_prompt], bars)
                for cue in self.cues
            ]
        here = [texts.starting(start + (self._since or 0)) for texts in self._texts]
        if len(here) == 1:
            return here[0]
        weights = cue_weights(self.cues, start, stop, self.model.frame_rate)
        return MixedSessions(here, weights, self.model.lm.pattern.delays)


def bars_said(model: Pipeline, direction: Direction) -> tuple[float, ...]:
    """Frames per bar for an existing sound: at the tempo that the prompt says, or else at its own."""
    return said_bars([direction.cues[0].prompt], model.lm.config, direction.bpm)


def extend(
    model: Pipeline,
    direction: Direction,
    frames: int,
    beginning: Tensor | None = None,
    **hooks: Any,
) -> Piece:
    """The whole piece, the last that `growing` yields. Arguments and errors are the same."""
    *_, whole = growing(model, direction, frames, beginning, **hooks)
    return whole


def growing(
    model: Pipeline,
    direction: Direction,
    frames: int,
    beginning: Tensor | None = None,
    *,
    on_step: OnStep | None = None,
    on_window: OnWindow | None = None,
) -> Iterator[Piece]:
    """Make a piece of any length; yields the finished part after each window, so that callers may stop early.

    A piece of one window equals `Model.generate` with the same seed.

    Args:
        model: masked, hybrid or autoregressive.
        direction: prompts, seed and settings.
        frames: length of the whole piece, including the beginning.
        beginning: int64 [1, K, T'], codes at the start of the piece.
        on_step: called after every decoding step.
        on_window: called before every window.

    Raises:
        UsageError: the piece would not be longer than its beginning, or the direction does not fit.
    """
    known = 0
    if beginning is not None:
        check_codes(model, beginning)
        known = beginning.shape[-1]
    if frames <= known:
        raise UsageError(
            f"The piece would be {frames / model.frame_rate:g} s long, but its beginning already is "
            f"{known / model.frame_rate:g} s.",
            "Use a longer duration.",
        )
    bars = None if beginning is None else bars_said(model, direction)
    filler = Filler(model, direction, frames, on_step, on_window, bars=bars)
    codes = torch.zeros(1, model.n_q, frames, dtype=torch.int64, device="cpu")
    open_ = torch.ones_like(codes, dtype=torch.bool)
    if beginning is not None:
        codes[..., :known] = beginning
        open_[..., :known] = False
    given = ~open_
    windows = onward(frames, known, model.segment_frames, filler.overlap)
    for window in filler.fill(codes, open_, windows):
        settings = filler.describe("extend", given[..., : window.stop], of_frames=frames)
        yield Piece(codes[..., : window.stop], settings, max(filler.request.bars, default=0.0))


def inpaint(
    model: Pipeline,
    direction: Direction,
    codes: Tensor,
    regions: Sequence[Region | tuple[int, int]],
    *,
    on_step: OnStep | None = None,
    on_window: OnWindow | None = None,
) -> Piece:
    """Decode the frames of `regions` again in all streams; all other codes stay.

    Args:
        model: a masked or hybrid one.
        codes: int64 [1, K, T], a piece of any length.
        regions: ranges of its frames (from, up to).

    Raises:
        UsageError: the model is autoregressive, or a region is empty, reversed or outside the piece.
    """
    need_masks(model, "fill in a region")
    check_codes(model, codes)
    frames = codes.shape[-1]
    joined = join([_region(region) for region in regions])
    if not joined or joined[0].start < 0 or joined[-1].stop > frames:
        raise UsageError(
            f"The regions {[tuple(r) for r in joined]} are not inside {frames} frames.",
            "Give at least one inside.",
        )
    filler = Filler(model, direction, frames, on_step, on_window, bars=bars_said(model, direction))
    filled = codes.to("cpu", copy=True)
    open_ = torch.zeros_like(filled, dtype=torch.bool)
    for start, stop in joined:
        open_[..., start:stop] = True
    given = ~open_
    windows = around(frames, joined, model.segment_frames, filler.overlap)
    for _ in filler.fill(filled, open_, windows):
        pass
    return Piece(filled, filler.describe("inpaint", given, regions=[list(r) for r in joined]))


def need_masks(model: Pipeline, what: str) -> None:
    """Raise UsageError if a model is autoregressive, and so cannot decode the middle of a sound."""
    if model.modeling == "autoregressive":
        raise UsageError(
            f"{model.name} is autoregressive, so it cannot {what}.",
            "Use a MAGNeT model, which fills masks; this one can `extend`.",
        )


def check_codes(model: Pipeline, codes: Tensor) -> None:
    """Raise UsageError if codes are not [1, K, T] for this model, with at least one frame."""
    if codes.dim() != 3 or codes.shape[:2] != (1, model.n_q) or codes.shape[2] == 0:
        raise UsageError(
            f"The codes are {list(codes.shape)}.", f"They must be [1, {model.n_q}, frames]."
        )


def _region(given: Region | tuple[int, int]) -> Region:
    try:
        region = Region(*map(operator.index, given))
    except TypeError:
        region = None
    if region is None or region.frames < 1:
        raise UsageError(
            f"{given!r} is not a region of frames.",
            "Give two whole numbers (from, up to), such as (100, 150).",
        )
    return region
