"""The module that accelerate wraps: one call is one forward pass over a micro-batch."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from magnet_cli.models.lm import LanguageModel
from magnet_cli.models.text import TextEncoder
from magnet_cli.training.objective import Batch, batch_losses


class TrainingModule(nn.Module):
    """The language model with its loss, so that DDP and FSDP see forward and backward whole."""

    def __init__(
        self, lm: LanguageModel, following_weights: tuple[float, ...], checkpointing: bool
    ) -> None:
        super().__init__()
        self.lm = lm
        self.following_weights = following_weights
        if checkpointing:
            for block in lm.transformer.layers:
                block.forward = _recomputed(block.forward)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The sums of both losses [2], and float64 [4, K]: sums and counts by stream.

        Rows: masked loss, masked positions, next-token loss, next-token positions.
        """
        sums = batch_losses(self.lm, batch, self.following_weights)
        by_stream = (sums.masked, sums.masked_count, sums.following, sums.following_count)
        return sums.total, torch.stack(by_stream)


def _recomputed(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A block's forward that keeps its input alone and computes the rest again going backward."""

    @functools.wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Tensor:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        result: Tensor = checkpoint(forward, *args, use_reentrant=False, **kwargs)
        return result

    return run


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with all its tensors on a device."""
    return replace(
        batch,
        codes=batch.codes.to(device),
        inputs=batch.inputs.to(device),
        masked=batch.masked.to(device),
        following=batch.following.to(device),
        conditions=tuple(None if c is None else c.to(device) for c in batch.conditions),
    )


class TextCache:
    """A frozen text encoder that encodes a caption once, as far as memory allows."""

    def __init__(self, encoder: TextEncoder, limit: int = 256 * 2**20) -> None:
        """`limit` is what is kept, in bytes."""
        self.encoder, self.limit = encoder, limit
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self._bytes = 0

    def __call__(self, text: str) -> Tensor:
        """The text -> [L, width]."""
        if text in self._kept:
            self._kept.move_to_end(text)
            return self._kept[text]
        with torch.no_grad():
            hidden = self.encoder.encode(text)
        self._kept[text] = hidden
        self._bytes += hidden.nbytes
        while self._bytes > self.limit and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.nbytes
        return hidden
