"""The training objectives: MAGNeT's masked one, the autoregressive one, and both in one model.

Masked (paper, section 3.1; the reference's `magnet.py`): for a stage k, the streams below it are given, the
streams above it are fully masked, and spans of stream k are masked at rate cos(pi u / 2). The loss is the
cross-entropy of the masked positions of k that are not padding.

Hybrid (paper, section 3.4): the sequence is in the delay layout. The first `prefix_rows` rows attend
causally and are trained by next-token cross-entropy over all streams; the masked positions of stage k in
the other rows are trained as above.

Losses are sums, and each batch knows its counts before the forward pass, so that over any number of
micro-batches and processes a step's loss is two sums over two global counts. The two objectives are
averaged separately: a whole prefix predicts every code of its items and a masked stage a few hundred, so
with a common count the masked loss would hardly matter (the paper does not say). Every draw is an argument
(`Draws`), made in `batches.py`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from magnet_cli.config import LMConfig
from magnet_cli.masking import training_mask
from magnet_cli.models.lm import BarGrid, DelayPattern, LanguageModel


@dataclass(frozen=True)
class Draws:
    """The random draws of a batch."""

    stage: int  # the stage whose streams are masked
    time: Tensor  # float [B], u in 0..1: the progress of decoding
    noise: Tensor  # float [B, G, T], uniform: where spans of the stage's G streams start
    prefix_rows: int = 1  # rows of the delay layout that attend causally; 1: only the special step
    block: tuple[int, int] | None = None  # predict only these frames, and leave out all after them


@dataclass(frozen=True)
class Batch:
    """The inputs and targets of one pass."""

    codes: Tensor  # int64 [B, K, T]: the targets
    inputs: Tensor  # int64 [B, K, T]: the same with `mask_id` where masked
    masked: Tensor  # bool [B, G, T]: positions of the stage's G streams to predict
    following: Tensor  # bool [B, K, T]: codes to predict from the rows before them
    stage: int
    prefix_rows: int
    weight: float = 1.0  # of each masked position
    conditions: tuple[Tensor | None, ...] = ()  # per item: the text encoder's output, None for null
    bars: tuple[BarGrid, ...] = ()  # per item, for a model that has `bar_position`
    names: tuple[str, ...] = ()  # per item: the clip, for error messages

    def counts(self, following_weights: Sequence[float] | None = None) -> Tensor:
        """The divisors of the summed losses, float64 [2]: masked positions, weighted next tokens."""
        asked = self.following.sum((0, 2)).tolist()
        weights = following_weights or (1.0,) * len(asked)
        following = sum(w * count for w, count in zip(weights, asked, strict=True))
        return torch.tensor([self.weight * int(self.masked.sum()), following], dtype=torch.float64)

    def to(self, device: torch.device) -> Batch:
        """Move all tensors to a device."""
        return replace(
            self,
            codes=self.codes.to(device),
            inputs=self.inputs.to(device),
            masked=self.masked.to(device),
            following=self.following.to(device),
            conditions=tuple(None if c is None else c.to(device) for c in self.conditions),
        )


@dataclass
class LossSums:
    """Sums of cross-entropy in nats, and counts, by stream."""

    total: Tensor  # [2], with gradients: the masked loss, the weighted next-token loss
    masked: Tensor  # [K]; this and the following have the dtype `exact(device)`
    masked_count: Tensor  # [K]
    following: Tensor  # [K]
    following_count: Tensor  # [K]


def exact(device: torch.device) -> torch.dtype:
    """The dtype of sums on a device: float64, except on Apple's GPUs, which have none."""
    return torch.float32 if device.type == "mps" else torch.float64


def mask_batch(codes: Tensor, valid: Tensor, draws: Draws, config: LMConfig) -> Batch:
    """Mask codes for a stage.

    Args:
        codes: int64 [B, K, T].
        valid: bool [B, T], false where an item is padded.
        draws: the stage, the prefix and the spans.

    Returns:
        a batch of fewer frames than the codes if there is a block.
    """
    whole = codes.shape[-1]
    if draws.block:
        codes, valid = codes[..., : draws.block[1]], valid[..., : draws.block[1]]
    batch, streams, frames = codes.shape
    causal = torch.zeros(streams, frames, dtype=torch.bool, device=codes.device)
    if config.modeling != "masked":
        # Row 0 is never generated; rows 1 .. prefix_rows - 1 are the prefix.
        causal = DelayPattern(config.delays).rows_within(draws.prefix_rows, frames).to(codes.device)
    stage, own = draws.stage, list(config.stage_streams[draws.stage])
    masked = torch.zeros(batch, len(own), frames, dtype=torch.bool, device=codes.device)
    first = int(causal[own].sum(-1).min())  # the prefix is cut along the diagonal
    begin, end = draws.block or (first, frames)
    if begin < end:
        rates = torch.cos(draws.time * (math.pi / 2)).repeat_interleave(len(own))
        noise = draws.noise[..., begin:end].flatten(0, 1)
        spans = training_mask(rates, noise, config.span_len)
        masked[..., begin:end] = spans.unflatten(0, (batch, -1))
    masked &= ~causal[own]  # after the prefix
    inputs = codes.clone()
    inputs[:, own] = inputs[:, own].masked_fill(masked, config.mask_id)
    above = own[-1] + 1
    inputs[:, above:].masked_fill_(~causal[above:], config.mask_id)
    return Batch(
        codes=codes,
        inputs=inputs,
        masked=masked & valid[:, None],
        following=causal & valid[:, None],
        stage=stage,
        prefix_rows=draws.prefix_rows,
        weight=(whole - first) / max(end - begin, 1),  # a block counts as much as a whole clip
    )


def with_code_noise(batch: Batch, most: float, mask_id: int, generator: torch.Generator) -> Batch:
    """Replace some of the input codes by others of their stream.

    A model trained only on correct codes fails after its first mistake (exposure bias); this teaches it to
    continue after mistakes. Each item's share is drawn uniformly from 0 to `most`; the replacements are
    codes of random frames of the batch in the same stream. Masks and targets stay the same.
    """
    items, _, frames = batch.codes.shape
    share = most * torch.rand(items, 1, 1, generator=generator)
    chance = torch.rand(batch.codes.shape, generator=generator)
    item = torch.randint(items, batch.codes.shape, generator=generator)
    frame = torch.randint(frames, batch.codes.shape, generator=generator)
    stream = torch.arange(batch.codes.shape[1])[None, :, None]
    other = batch.codes[item, stream, frame]
    # Short clips are padded with the mask id, which must not be a replacement or be replaced.
    wrong = (chance < share) & (batch.inputs != mask_id) & (other != mask_id)
    return replace(batch, inputs=torch.where(wrong, other, batch.inputs))


def batch_losses(
    lm: LanguageModel, batch: Batch, following_weights: Sequence[float] | None = None
) -> LossSums:
    """Sums of cross-entropy of a batch: one forward pass, with heads only where there are targets.

    Args:
        following_weights: of each stream's next-token loss relative to the others; default 1.
    """
    weights = following_weights or (1.0,) * lm.config.n_q
    conditions = [None if text is None else lm.project_text(text) for text in batch.conditions]
    cross = lm.cross_keys(conditions, batch.bars) if conditions else None
    hidden = lm.rows_hidden(batch.inputs, batch.stage, cross, batch.prefix_rows)
    streams, frames = batch.codes.shape[1:]
    own = lm.config.stage_streams[batch.stage]
    sums = torch.zeros(4, streams, dtype=exact(hidden.device), device=hidden.device)
    asked = followed = hidden.new_zeros((), dtype=torch.float32)
    for k in range(streams):
        late = lm.pattern.delays[k]
        if k in own:
            here = lm.stream_hidden(hidden, k, frames)
            wanted = batch.masked[:, own.index(k)]
            loss, count = _cross_entropy(lm, here, batch.codes[:, k], wanted, k)
            asked = asked + batch.weight * loss
            sums[0, k], sums[1, k] = loss.detach(), count
        if weights[k] > 0 and bool(batch.following[:, k].any()):
            # Row s predicts step s + 1: stream k's frame t is predicted by row t + delay.
            before = hidden[:, late : late + frames]
            loss, count = _cross_entropy(lm, before, batch.codes[:, k], batch.following[:, k], k)
            followed = followed + weights[k] * loss
            sums[2, k], sums[3, k] = loss.detach(), count
    return LossSums(torch.stack([asked, followed]), *sums)


def mean_loss(total: Tensor, counts: Tensor, prefix_weight: float = 1.0) -> Tensor:
    """The loss of a step, or a micro-batch's part of it.

    Args:
        total: [2], `LossSums.total` of the part.
        counts: [2], `Batch.counts` of the whole step.
        prefix_weight: of the mean next-token loss relative to the mean masked loss.
    """
    masked, following = total / counts.to(total).clamp(min=1e-6)  # 0 / 0 is 0 here
    return masked + prefix_weight * following


def _cross_entropy(
    lm: LanguageModel, hidden: Tensor, codes: Tensor, wanted: Tensor, stream: int
) -> tuple[Tensor, int]:
    """The sum of -log p(code) over the wanted positions [B, T] of hidden [B, T, dim], and their number."""
    logits = lm.head(hidden[wanted], stream)
    return F.cross_entropy(logits, codes[wanted], reduction="sum"), int(logits.shape[0])


class TrainingModule(nn.Module):
    """The language model with its loss: a call is one forward pass over a micro-batch.

    Accelerate wraps this module, so DDP and FSDP see the whole forward and backward pass.
    """

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
        if torch.is_grad_enabled() and not sums.total.requires_grad:
            # A LoRA of cross-attention alone, in a pass without texts: gradients of 0, which DDP waits for.
            trained = (p.sum() for p in self.parameters() if p.requires_grad)
            sums.total = sums.total + 0 * torch.stack(list(trained)).sum()
        by_stream = (sums.masked, sums.masked_count, sums.following, sums.following_count)
        return sums.total, torch.stack(by_stream)


def _recomputed(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Checkpoint a block's activations: keep only its input, and compute it again in the backward pass."""

    @functools.wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Tensor:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        result: Tensor = checkpoint(forward, *args, use_reentrant=False, **kwargs)
        return result

    return run
