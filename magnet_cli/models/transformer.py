"""The transformer: attention (full, banded, causal, prefix, cross), block, stack.

Pre-LayerNorm, no biases in attention and feed-forward, exact GELU, sinusoidal positions added once
at the input (docs/reference.md, Model; audiocraft's transformer.py). Parameter names are those of the
released checkpoints, so that loading them needs no renaming.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Rows of one block of banded attention: small enough that few keys are computed in vain (block + 2 *
# context against block), large enough to keep matrix products efficient.
BAND_BLOCK = 32


@dataclass(frozen=True)
class Attention:
    """Which positions attend to which: one rule for all heads and all items of a batch."""

    kind: Literal["full", "band", "causal", "prefix"]
    context: int | None = None  # band: frames on each side; causal: positions, including its own
    rows: int = 0  # prefix: rows that attend causally
    short_items: int = 0  # causal: items at the end of the batch that `context` is for; 0: for all

    @staticmethod
    def full() -> Attention:
        """Every position attends to all."""
        return Attention("full")

    @staticmethod
    def band(context: int) -> Attention:
        """|i - j| <= context (paper, section 3.2)."""
        return Attention("band", context)

    @staticmethod
    def causal(context: int | None = None, short_items: int = 0) -> Attention:
        """j <= i; with a `context`, only the last `context` of them.

        `short_items`, for steps with a cache: `context` applies only to this many items at the batch's end.
        """
        return Attention("causal", context, short_items=short_items)

    @staticmethod
    def prefix(rows: int, context: int | None) -> Attention:
        """The first `rows` rows causal; the rest full, or banded where `context` is given."""
        return Attention("prefix", context, rows)

    def groups(self, batch: int) -> list[tuple[slice, Attention]]:
        """Split the items of a batch into groups with one rule each."""
        if not self.short_items:
            return [(slice(None), self)]
        wide = batch - self.short_items
        return [
            (slice(wide), Attention.causal()),
            (slice(wide, None), Attention.causal(self.context)),
        ]

    def first_seen(self, start: int) -> int:
        """The first position that any row from `start` on attends to."""
        if self.kind == "causal" and self.context is not None:
            return max(0, start + 1 - self.context)
        return 0

    def all_seen(self, start: int, end: int) -> bool:
        """Whether rows start..end - 1 of `end` attend to all from `first_seen` on, and need no mask."""
        if self.kind == "causal":
            return end - start == 1
        return self.context is None and start >= self.rows

    def mask(self, length: int) -> Tensor:
        """bool [length, length], true where row i attends to column j: the full form of every rule."""
        place = torch.arange(length, device="cpu")
        row, column = place[:, None], place[None, :]
        if self.kind == "causal":
            seen = column <= row
            return seen if self.context is None else seen & (row - column < self.context)
        seen = torch.ones(length, length, dtype=torch.bool, device="cpu")
        if self.context is not None:
            seen = (row - column).abs() <= self.context
        if self.kind == "prefix":
            seen = torch.where(row < self.rows, column <= row, seen)
        return seen


@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)  # a table first made while decoding must also work in training
def _cached_mask(attention: Attention, length: int, device: torch.device) -> Tensor:
    return attention.mask(length).to(device)


class CrossKeys:
    """Keys and values of the text, projected once per generation for every layer.

    Holds only rows that have a condition: cross-attention over the null condition is exactly zero
    (no biases), so those rows are skipped. Conditions of unequal length are padded and the padding
    masked out, so that each item sees its own keys and nothing else.
    """

    def __init__(
        self,
        layers: list[tuple[Tensor, Tensor]],  # keys, values [N, heads, L, head_dim]
        mask: Tensor | None,  # bool [N, 1, 1, L], none where all lengths are equal
        rows: list[int],  # the batch rows that the N entries belong to
        batch: int,
        bars: Tensor | None = None,  # [batch, 2], see `lm.BarPosition`; None: no tempo
    ) -> None:
        self.layers, self.mask, self.rows, self.batch = layers, mask, rows, batch
        self.bars = bars
        self.index = torch.tensor(rows, device=layers[0][0].device if layers else None)


class KVCache:
    """A static cache of self-attention keys and values, filled from the left.

    It holds rows that are computed once and attended to by later ones: all rows of a causal model, and the
    prefix of a hybrid model, which is the same at every masked step.
    """

    def __init__(self, lm_layers: int, shape: Sequence[int], like: Tensor) -> None:
        """`shape` is [B, heads, steps, head_dim]; dtype and device are those of `like`."""
        self.keys = [like.new_empty(*shape) for _ in range(lm_layers)]
        self.values = [like.new_empty(*shape) for _ in range(lm_layers)]
        self.length = 0


class SelfAttention(nn.Module):
    """Multi-head self-attention; `in_proj_weight` packs the projections of q, k and v."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.out_proj = nn.Linear(dim, dim, bias=False)
        self.updates: nn.ModuleDict | None = None  # low-rank ones of q, k, v (models/lora.py)
        self.int8: nn.Module | None = None  # in place of `in_proj_weight` (models/precision.py)

    def _project(self, x: Tensor, parts: str = "qkv") -> tuple[Tensor, ...]:
        """x [B, S, dim] -> of each of the parts, neighbours in "qkv", [B, heads, S, head_dim]."""
        if self.int8 is not None:
            return self._heads(self.int8(x, int(parts == "kv")), len(parts))
        dim, first = x.shape[-1], "qkv".index(parts)
        weight: Tensor = self.in_proj_weight
        if parts != "qkv":
            weight = weight[first * dim : (first + len(parts)) * dim]
        packed = F.linear(x, weight) if self.updates is None else self.updates(x, weight, parts)
        return self._heads(packed, len(parts))

    def forward(self, x: Tensor, attention: Attention) -> Tensor:
        """x [B, S, dim] -> [B, S, dim]."""
        q, k, v = self._project(x)
        if attention.kind == "band" and attention.context is not None:
            out = banded_attention(q, k, v, attention.context)
        elif q.requires_grad and q.device.type == "cpu" and q.dtype == torch.bfloat16:
            out = attend_bfloat16(q, k, v, attention)
        elif attention.kind in ("full", "causal") and attention.context is None:
            out = F.scaled_dot_product_attention(q, k, v, is_causal=attention.kind == "causal")
        else:
            mask = _cached_mask(attention, x.shape[1], x.device)
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(out.transpose(1, 2).flatten(2))

    def step(
        self, x: Tensor, attention: Attention, keys: Tensor, values: Tensor, start: int
    ) -> Tensor:
        """x [B, n, dim], the rows from `start` on, against a cache [B, heads, S, head_dim]."""
        end = start + x.shape[1]
        q, k, v = self._project(x)
        keys[:, :, start:end], values[:, :, start:end] = k, v
        parts = []
        for items, rule in attention.groups(len(x)):
            first = rule.first_seen(start)
            mask = None
            if not rule.all_seen(start, end):
                mask = _cached_mask(rule, end, x.device)[start:end, first:]
            seen_keys, seen_values = keys[items, :, first:end], values[items, :, first:end]
            parts.append(
                F.scaled_dot_product_attention(q[items], seen_keys, seen_values, attn_mask=mask)
            )
        out = parts[0] if len(parts) == 1 else torch.cat(parts)
        return self.out_proj(out.transpose(1, 2).flatten(2))

    def cross_keys(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Text [N, L, dim] -> keys, values [N, heads, L, head_dim] (used as cross-attention)."""
        k, v = self._project(text, "kv")
        return k, v

    def cross(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """x [N, S, dim] over text keys and values [N, heads, L, head_dim] -> [N, S, dim]."""
        (q,) = self._project(x, "q")
        out = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        return self.out_proj(out.transpose(1, 2).flatten(2))

    def _heads(self, packed: Tensor, parts: int) -> tuple[Tensor, ...]:
        """[B, S, parts * dim] -> `parts` tensors [B, heads, S, head_dim]."""
        return packed.unflatten(-1, (parts, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def attend_bfloat16(q: Tensor, k: Tensor, v: Tensor, attention: Attention) -> Tensor:
    """Attention as plain matrix products, for training on a CPU in bfloat16; the softmax sums in float32.

    Forward and backward take about half of what torch's own kernel takes there.
    """
    scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-1, -2)
    if attention.kind != "full":
        mask = _cached_mask(attention, q.shape[2], q.device)
        scores = scores.masked_fill(~mask, -math.inf)
    return scores.softmax(-1) @ v


def banded_attention(q: Tensor, k: Tensor, v: Tensor, context: int) -> Tensor:
    """Attention where |i - j| <= context, in blocks of rows with a halo of keys.

    Costs S * (block + 2 * context) products instead of S * S, and one small mask that all blocks,
    heads and items share.

    Args:
        q, k, v: [B, heads, S, head_dim].

    Returns:
        [B, heads, S, head_dim].
    """
    length = q.shape[2]
    if length <= BAND_BLOCK + 2 * context:
        mask = _cached_mask(Attention.band(context), length, q.device)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    blocks = -(-length // BAND_BLOCK)
    filler = blocks * BAND_BLOCK - length
    width = BAND_BLOCK + 2 * context

    def halo(x: Tensor) -> Tensor:  # [B, h, S, d] -> [blocks, B * h, width, d]
        padded = F.pad(x, (0, 0, context, context + filler)).flatten(0, 1)
        return padded.unfold(1, width, BAND_BLOCK).permute(1, 0, 3, 2)

    rows = F.pad(q, (0, 0, 0, filler)).flatten(0, 1).unflatten(1, (blocks, BAND_BLOCK))
    mask = _band_block_mask(length, context, q.device)
    out = F.scaled_dot_product_attention(
        rows.transpose(0, 1), halo(k), halo(v), attn_mask=mask
    )  # [blocks, B * h, BAND_BLOCK, d]
    out = out.transpose(0, 1).flatten(1, 2)[:, :length]
    return out.unflatten(0, (q.shape[0], q.shape[1]))


@functools.lru_cache(maxsize=8)
@torch.inference_mode(False)
def _band_block_mask(length: int, context: int, device: torch.device) -> Tensor:
    """bool [blocks, 1, BAND_BLOCK, BAND_BLOCK + 2 * context]: inside the band and the sequence."""
    blocks = -(-length // BAND_BLOCK)
    here = torch.device("cpu")
    row = torch.arange(BAND_BLOCK, device=here)[:, None]
    column = torch.arange(BAND_BLOCK + 2 * context, device=here)[None, :] - context
    band = (row - column).abs() <= context
    place = torch.arange(blocks, device=here)[:, None, None] * BAND_BLOCK + column
    seen = band & (place >= 0) & (place < length)
    # Rows past the end attend to themselves, as no row of the softmax may be empty.
    seen |= (row == column) & (place >= length)
    return seen[:, None].to(device)


class Block(nn.Module):
    """Self-attention, cross-attention, feed-forward, each after its LayerNorm."""

    def __init__(self, dim: int, num_heads: int, hidden_scale: int) -> None:
        super().__init__()
        self.self_attn = SelfAttention(dim, num_heads)
        self.cross_attention = SelfAttention(dim, num_heads)
        self.linear1 = nn.Linear(dim, hidden_scale * dim, bias=False)
        self.linear2 = nn.Linear(hidden_scale * dim, dim, bias=False)
        self.norm1 = nn.LayerNorm(dim, eps=1e-5)
        self.norm_cross = nn.LayerNorm(dim, eps=1e-5)
        self.norm2 = nn.LayerNorm(dim, eps=1e-5)

    def forward(
        self,
        x: Tensor,
        attention: Attention,
        cross: CrossKeys | None,
        layer: int,
        cache: KVCache | None = None,
    ) -> Tensor:
        """x [B, S, dim] -> [B, S, dim]."""
        normed = self.norm1(x)
        if cache is None:
            x = x + self.self_attn(normed, attention)
        else:
            keys, values = cache.keys[layer], cache.values[layer]
            x = x + self.self_attn.step(normed, attention, keys, values, cache.length)
        if cross is not None and cross.rows:
            x = self._cross(x, cross, layer)
        return x + self.linear2(F.gelu(self.linear1(self.norm2(x))))

    def _cross(self, x: Tensor, cross: CrossKeys, layer: int) -> Tensor:
        keys, values = cross.layers[layer]
        if len(cross.rows) == cross.batch:
            return x + self.cross_attention.cross(self.norm_cross(x), keys, values, cross.mask)
        told = x.index_select(0, cross.index)
        seen = self.cross_attention.cross(self.norm_cross(told), keys, values, cross.mask)
        return x.index_add(0, cross.index, seen.to(x.dtype))  # autocast: seen is in half precision


class Transformer(nn.Module):
    """A stack of blocks over sequences with sinusoidal positions."""

    def __init__(self, dim: int, num_heads: int, num_layers: int, hidden_scale: int) -> None:
        super().__init__()
        self.dim, self.num_heads = dim, num_heads
        self.layers = nn.ModuleList(Block(dim, num_heads, hidden_scale) for _ in range(num_layers))

    def forward(
        self, x: Tensor, attention: Attention, cross: CrossKeys | None, cache: KVCache | None = None
    ) -> Tensor:
        """x [B, S, dim] -> [B, S, dim]; with a cache, x are the S rows that follow what it holds."""
        start = 0 if cache is None else cache.length
        x = x + sinusoids(start, x.shape[1], self.dim, x.device).to(x.dtype)
        for layer, block in enumerate(self.layers):
            x = block(x, attention, cross, layer, cache)
        if cache is not None:
            cache.length += x.shape[1]
        return x

    def new_cache(self, batch: int, steps: int, like: Tensor) -> KVCache:
        """An empty cache for `steps` steps of `batch` rows."""
        shape = (batch, self.num_heads, steps, self.dim // self.num_heads)
        return KVCache(len(self.layers), shape, like)

    def cross_keys(
        self, conditions: Sequence[Tensor | None], bars: Tensor | None = None
    ) -> CrossKeys:
        """Projected keys and values of each row's text.

        Args:
            conditions: for each batch row [L_i, dim], or None (or L_i = 0) for the null condition.
            bars: float [B, 2], kept for `lm.BarPosition`; None: no row has a tempo.
        """
        given = [(row, c) for row, c in enumerate(conditions) if c is not None and len(c)]
        if not given:
            return CrossKeys([], None, [], len(conditions), bars)
        lengths = torch.tensor([len(c) for _, c in given], device="cpu")
        device = given[0][1].device
        text = nn.utils.rnn.pad_sequence([c for _, c in given], batch_first=True)
        mask = None
        if int(lengths.min()) < text.shape[1]:
            inside = torch.arange(text.shape[1], device="cpu")[None] < lengths[:, None]
            mask = inside[:, None, None].to(device)
        layers = [block.cross_attention.cross_keys(text) for block in self.layers]  # type: ignore[operator, union-attr]
        return CrossKeys(layers, mask, [row for row, _ in given], len(conditions), bars)


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)
def _sinusoid_table(length: int, dim: int, device: torch.device) -> Tensor:
    half = dim // 2
    position = torch.arange(length, device=device, dtype=torch.float32)[:, None]
    exponent = torch.arange(half, device=device, dtype=torch.float32) / (half - 1)
    phase = position / torch.tensor(10000.0, device=device) ** exponent
    return torch.cat([phase.cos(), phase.sin()], dim=-1)


def sinusoids(start: int, length: int, dim: int, device: torch.device) -> Tensor:
    """float32 [length, dim]: cos half, then sin half, divisor half - 1, period 10000."""
    # Tables grow by powers of two, so that step-by-step decoding makes a handful of them.
    size = 1 << max(math.ceil(math.log2(max(start + length, 2))), 9)
    return _sinusoid_table(size, dim, device)[start : start + length]
