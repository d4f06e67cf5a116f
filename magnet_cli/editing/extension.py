"""Longer than the segment: a piece that grows window by window, from nothing or from a beginning."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from magnet_cli.decoding.contracts import OnStep
from magnet_cli.editing.filling import Direction, Filler, OnWindow, Piece, check_codes
from magnet_cli.editing.windows import onward
from magnet_cli.errors import UsageError
from magnet_cli.pipeline import Model


def extend(
    model: Model,
    direction: Direction,
    frames: int,
    beginning: Tensor | None = None,
    *,
    on_step: OnStep | None = None,
    on_window: OnWindow | None = None,
) -> Piece:
    """Make a piece of any length; a piece of one window equals `Model.generate` with the same seed.

    Args:
        model: any; autoregressive ones continue, too.
        direction: prompts, seed and settings.
        frames: length of the whole piece, the beginning included.
        beginning: int64 [1, K, T'], codes that the piece begins with.
        on_step: called after every decoding step.
        on_window: called before every window.

    Raises:
        UsageError: the piece would not be longer than its beginning, or the direction does not fit.
    """
    for piece in growing(model, direction, frames, beginning, on_step=on_step, on_window=on_window):
        whole = piece
    return whole


def growing(
    model: Model,
    direction: Direction,
    frames: int,
    beginning: Tensor | None = None,
    *,
    on_step: OnStep | None = None,
    on_window: OnWindow | None = None,
) -> Iterator[Piece]:
    """As `extend`, but yield what is finished after each window: who stops early keeps that."""
    known = 0
    if beginning is not None:
        check_codes(model, beginning)
        known = beginning.shape[-1]
    if frames <= known:
        raise UsageError(
            f"The piece is to be {frames / model.frame_rate:g} s long, but its beginning is "
            f"{known / model.frame_rate:g} s.",
            "Ask for more seconds than there are.",
        )
    filler = Filler(model, direction, frames, on_step, on_window)
    codes = torch.zeros(1, model.n_q, frames, dtype=torch.int64)
    open_ = torch.ones_like(codes, dtype=torch.bool)
    if beginning is not None:
        codes[..., :known] = beginning
        open_[..., :known] = False
    given = ~open_
    windows = onward(frames, known, model.segment_frames, filler.overlap)
    for window in filler.fill(codes, open_, windows):
        settings = filler.describe("extend", given[..., : window.stop], of_frames=frames)
        yield Piece(codes[..., : window.stop], settings)  # what is finished never changes again
