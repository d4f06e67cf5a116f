"""Inpainting: regions of a piece decoded anew, everything around them known."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from magnet_cli.decoding.contracts import OnStep
from magnet_cli.editing.filling import Direction, Filler, OnWindow, Piece, check_codes, need_masks
from magnet_cli.editing.windows import Region, around, join
from magnet_cli.errors import UsageError
from magnet_cli.pipeline import Model


def inpaint(
    model: Model,
    direction: Direction,
    codes: Tensor,
    regions: Sequence[Region | tuple[int, int]],
    *,
    on_step: OnStep | None = None,
    on_window: OnWindow | None = None,
) -> Piece:
    """Decode the frames of `regions` anew, in all streams; every other code stays as it is.

    Args:
        model: a masked or hybrid one.
        codes: int64 [1, K, T], a piece of any length.
        regions: frames of it, from - up to; pairs of numbers will do.

    Raises:
        UsageError: the model is autoregressive, or a region is empty, backwards or not inside the
            piece.
    """
    need_masks(model, "fill in a region")
    check_codes(model, codes)
    frames = codes.shape[-1]
    joined = join([_region(region) for region in regions])
    if not joined or joined[0].start < 0 or joined[-1].stop > frames:
        raise UsageError(
            f"The regions {[tuple(r) for r in joined]} are not inside {frames} frames.",
            "Give at least one that is.",
        )
    filler = Filler(model, direction, frames, on_step, on_window)
    filled = codes.to("cpu", copy=True)
    open_ = torch.zeros_like(filled, dtype=torch.bool)
    for start, stop in joined:
        open_[..., start:stop] = True
    given = ~open_
    for _ in filler.fill(
        filled, open_, around(frames, joined, model.segment_frames, filler.overlap)
    ):
        pass
    return Piece(filled, filler.describe("inpaint", given, regions=[list(r) for r in joined]))


def _region(given: Region | tuple[int, int]) -> Region:
    try:
        region = Region(*map(operator.index, given))
    except TypeError:
        region = None
    if region is None or region.frames < 1:
        raise UsageError(
            f"{given!r} is no region of frames.",
            "Give two whole numbers, from - up to: (100, 150).",
        )
    return region
