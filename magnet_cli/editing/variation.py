"""Variations: keep a share of a sound's codes and decode the rest again."""

from __future__ import annotations

import torch
from torch import Tensor

from magnet_cli.decoding.contracts import OnStep
from magnet_cli.editing.pieces import (
    Direction,
    Filler,
    OnWindow,
    Piece,
    bars_said,
    check_codes,
    need_masks,
)
from magnet_cli.editing.windows import derived_seed, onward
from magnet_cli.errors import UsageError
from magnet_cli.masking import spans_to_frames
from magnet_cli.pipeline import Pipeline
from magnet_cli.settings import required


def vary(
    model: Pipeline,
    direction: Direction,
    codes: Tensor,
    strength: float,
    keep_streams: int = 0,
    *,
    on_step: OnStep | None = None,
    on_window: OnWindow | None = None,
) -> Piece:
    """Decode a share of a sound's codes again, given the others.

    Of codes int64 [1, K, T], strength 0 keeps every one, 1 none but those of the coarsest `keep_streams`.
    Raises UsageError: the model is autoregressive, or an argument is not valid.
    """
    check_codes(model, codes)
    check_variation(model, strength, keep_streams)
    frames = codes.shape[-1]
    filler = Filler(model, direction, frames, on_step, on_window, bars=bars_said(model, direction))
    generator = torch.Generator("cpu").manual_seed(derived_seed(direction.seed, "vary"))
    span_len = required(filler.request.config.span_len)
    kept = kept_codes(model.n_q, frames, span_len, strength, generator)
    kept[:keep_streams] = True

    varied, open_ = codes.to("cpu", copy=True), ~kept[None]
    windows = onward(frames, 0, model.segment_frames, filler.overlap) if strength > 0 else []
    for _ in filler.fill(varied, open_, windows):
        pass
    settings = filler.describe("vary", kept[None], strength=strength, keep_streams=keep_streams)
    return Piece(varied, settings)


def check_variation(model: Pipeline, strength: float, keep_streams: int) -> None:
    """Check the arguments of `vary`. Errors are the same."""
    need_masks(model, "vary a sound")
    if not 0 <= strength <= 1:
        raise UsageError(f"The strength cannot be {strength:g}.", "It takes a number from 0 to 1.")
    if not 0 <= keep_streams < model.n_q:
        raise UsageError(
            f"{keep_streams} streams cannot be kept.",
            f"The model has {model.n_q}: keep from 0 to {model.n_q - 1} of them.",
        )


def kept_codes(
    n_q: int, frames: int, span_len: int, strength: float, generator: torch.Generator
) -> Tensor:
    """Which codes a variation keeps, bool [K, T], in spans.

    Stream k keeps (1 - strength)^(k + 1) of the spans, as fine streams encode the residual of coarse ones.
    The spans that a stream keeps are kept in all coarser ones, and a higher strength keeps a subset of those
    of a lower one.
    """
    spans = -(-frames // span_len)
    places = torch.randperm(spans, generator=generator, device="cpu")
    counts = [round(spans * (1 - strength) ** (k + 1)) for k in range(n_q)]
    kept = torch.stack([places < count for count in counts])
    return spans_to_frames(kept, span_len, frames).clone()
