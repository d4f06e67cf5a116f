"""Hybrid decoding: the first frames autoregressively, the rest by masked stages (the paper, "Hybrid-MAGNeT").

Two ways, with one difference. A hybrid-trained model continues its own rows: everything in the
first steps of the delay layout is kept, a prefix cut along the diagonal, as in training. A masked
model knows no delay layout: another model writes, and whole frames of it are kept.

Each item's generator is drawn from in this order: K numbers for each autoregressive step that has
a code to write, then what the masked stages draw.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from magnet_cli.decoding import autoregressive, iterative
from magnet_cli.decoding.contracts import CausalLogits, Decoding, StageLogits, StepEvent
from magnet_cli.patterns import DelayPattern
from magnet_cli.settings import DecodingConfig, required


@dataclass(frozen=True)
class Prefix:
    """What is written autoregressively."""

    pattern: DelayPattern  # of the model that writes it
    frames: int  # whole frames of every stream, at least
    diagonal: bool  # True: keep all codes of its steps, also those of streams that run ahead

    @property
    def rows(self) -> int:
        """Steps of the delay layout, the special one included."""
        return self.pattern.rows_for(self.frames)

    def kept(self, frames: int) -> Tensor:
        """bool [K, T] of a clip of `frames` frames: the codes that the masked stages find fixed."""
        if self.diagonal:
            return self.pattern.rows_within(self.rows, frames)
        kept = torch.zeros(len(self.pattern.delays), frames, dtype=torch.bool, device="cpu")
        kept[:, : self.frames] = True
        return kept


def decode(
    session: CausalLogits,
    logits: StageLogits,
    known_codes: Tensor,
    known_mask: Tensor,
    decoding: Decoding,
    *,
    prefix: Prefix,
    prefix_config: DecodingConfig,
) -> Tensor:
    """Write the prefix, then fill in the rest with the prefix fixed.

    Args:
        session: the model that writes the prefix.
        logits: the model that fills in the rest; it must lay out `prefix.rows` itself.
        known_codes: int64 [B, K, T]; only what `known_mask` marks is read.
        known_mask: bool [B, K, T]; these codes stay as they are, in the prefix too.
        decoding: of the rest; the prefix draws from the same generators.
        prefix_config: of the prefix, in place of the rest's.

    Returns:
        int64 [B, K, T].
    """
    behind = sum(required(decoding.config.decoding_steps))

    def on_step(event: StepEvent) -> None:
        if decoding.on_step is not None:
            decoding.on_step(replace(event, later=behind))

    written = autoregressive.decode(
        session,
        known_codes,
        known_mask,
        replace(decoding, config=prefix_config, on_step=on_step),
        pattern=prefix.pattern,
        rows=prefix.rows,
    )
    kept = known_mask | prefix.kept(known_mask.shape[-1]).to(known_mask.device)
    codes = torch.where(known_mask, known_codes, written)
    return iterative.decode(logits, codes, kept, decoding)
