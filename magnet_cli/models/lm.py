"""The language model: codes and a text condition -> logits. MAGNeT and MusicGen are two settings of it.

The input is the sum of one embedding per stream, the output one linear head per stream (audiocraft's `lm.py`
and `lm_magnet.py`). A masked model reads codes unshifted; an autoregressive model reads them in the delay
layout; a hybrid model uses the delay layout for both kinds of decoding.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from magnet_cli.config import LMConfig
from magnet_cli.models.precision import is_int8
from magnet_cli.models.text import TempoHead
from magnet_cli.models.transformer import Attention, CrossKeys, KVCache, Transformer


@dataclass(frozen=True)
class DelayPattern:
    """Layout of the codes of `len(delays)` streams in the sequence of a model (MusicGen, section 2.2).

    Stream k is delayed by `delays[k]` steps. Step 0 holds the special token in every stream; the code of
    stream k at frame t is at step `t + delays[k] + 1`; all other positions hold the special token.
    Autoregressive decoding, the rescorer and hybrid training share this layout.
    """

    delays: tuple[int, ...]

    def __init__(self, delays: Sequence[int]) -> None:
        object.__setattr__(self, "delays", tuple(delays))

    def steps(self, frames: int) -> int:
        """Length of the sequence for `frames` frames."""
        return frames + max(self.delays) + 1

    def apply(self, codes: Tensor, special: int) -> Tensor:
        """Codes [B, K, T] -> sequence [B, K, steps(T)], `special` where there is no code."""
        batch, streams, frames = codes.shape
        sequence = codes.new_full((batch, streams, self.steps(frames)), special)
        for k, delay in enumerate(self.delays):
            sequence[:, k, delay + 1 : delay + 1 + frames] = codes[:, k]
        return sequence

    def revert(self, sequence: Tensor, frames: int) -> Tensor:
        """Sequence [B, K, steps(T), ...] -> entries at the positions of codes [B, K, T, ...]."""
        return torch.stack(
            [sequence[:, k, d + 1 : d + 1 + frames] for k, d in enumerate(self.delays)], dim=1
        )

    def valid(self, frames: int) -> Tensor:
        """bool [K, steps(T)]: positions that hold a code."""
        step = torch.arange(self.steps(frames), device="cpu")
        late = torch.tensor(self.delays, device="cpu")[:, None]
        return (step > late) & (step <= late + frames)

    def rows_within(self, rows: int, frames: int) -> Tensor:
        """bool [K, T]: codes within the first `rows` steps (a prefix cut along a diagonal)."""
        frame = torch.arange(frames, device="cpu")
        return frame[None, :] + torch.tensor(self.delays, device="cpu")[:, None] + 1 < rows


# (frames per bar, 0 without a tempo; frames since the start of a bar at the clip's first frame) of an item.
BarGrid = tuple[float, float]


class BarPosition(nn.Module):
    """Embeds where in its bar each frame is, if the tempo is known (REMI's "position": Huang and Yang, 2020,
    arXiv 2002.00212).

    Codes of one masked step are drawn independently of each other. With the beat as an input they agree on
    where hits are.
    """

    CYCLES = (1, 2, 4, 8, 16)  # per bar of four beats, down to sixteenths
    HIDDEN = 128

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.inner = nn.Linear(2 * len(self.CYCLES) + 1, self.HIDDEN)
        self.outer = nn.Linear(self.HIDDEN, dim, bias=False)

    def forward(self, bars: Tensor, frames: Tensor) -> Tensor:
        """Grids [B, 2], as `BarGrid`, and frames [S] -> [B, S, dim], zero in items without a tempo."""
        length, since = bars.float()[:, None].unbind(-1)  # [B, 1]
        known = length > 0
        length = length.where(known, 1.0)
        turns = 2 * math.pi * (frames + since) / length  # [B, S]
        waves = turns[..., None] * torch.tensor(self.CYCLES, device=turns.device)
        slow = (length / 64).log()[..., None].expand(*turns.shape, 1)
        told = torch.cat([waves.cos(), waves.sin(), slow], dim=-1).to(self.inner.weight.dtype)
        return self.outer(F.gelu(self.inner(told))) * known[..., None]


@dataclass(frozen=True)
class HeldPrefix:
    """The first rows of a hybrid model's layout, computed once for all masked steps."""

    cache: KVCache  # their keys and values
    hidden: Tensor  # their hidden states [B, rows, dim]


class LanguageModel(nn.Module):
    """One transformer over `n_q` streams of `card` codes; the id `card` is the mask or special token."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.config = config
        self.emb = nn.ModuleList(
            nn.Embedding(config.card + 1, config.dim) for _ in range(config.n_q)
        )
        self.text_proj = nn.Linear(config.text_dim, config.dim)
        self.transformer = Transformer(
            config.dim, config.num_heads, config.num_layers, config.hidden_scale
        )
        self.out_norm = nn.LayerNorm(config.dim, eps=1e-5)
        self.linears = nn.ModuleList(
            nn.Linear(config.dim, config.card, bias=False) for _ in range(config.n_q)
        )
        self.pattern = DelayPattern(config.delays or (0,) * config.n_q)
        self.tempo = TempoHead(config.text_dim, config.tempi) if config.tempi else None
        self.bars = BarPosition(config.dim) if config.bar_position else None

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.out_norm.weight.device

    @property
    def precision(self) -> str:
        """float32, float16, bfloat16 or int8."""
        if is_int8(self):
            return "int8"
        return str(self.out_norm.weight.dtype).removeprefix("torch.")

    def project_text(self, hidden: Tensor) -> Tensor:
        """Project the text encoder's output [L, text_dim] to a condition [L, dim]."""
        return self.text_proj(hidden.to(self.text_proj.weight.dtype))

    def cross_keys(
        self, conditions: Sequence[Tensor | None], bars: Sequence[BarGrid] = ()
    ) -> CrossKeys:
        """Keys and values for every layer, from each row's condition [L_i, dim] or None for null; with each
        row's grid of bars, for a model that has `bar_position`; (): no tempo."""
        grid = None
        if self.bars is not None and bars:
            grid = torch.tensor(list(bars), dtype=torch.float32, device=self.device)
        return self.transformer.cross_keys(conditions, grid)

    def forward(
        self,
        sequence: Tensor,
        cross: CrossKeys | None,
        attention: Attention,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Ids [B, K, S] in 0..card -> hidden states [B, S, dim], after `out_norm`."""
        x = self.emb[0](sequence[:, 0])
        for k in range(1, self.config.n_q):
            x = x + self.emb[k](sequence[:, k])
        if self.bars is not None and cross is not None and cross.bars is not None:
            start = 0 if cache is None else cache.length
            rows = torch.arange(start, start + x.shape[1], device=x.device)
            # In the delay layout frame t of the first stream is at row t + 1.
            x = x + self.bars(cross.bars, rows - int(self.config.modeling != "masked")).to(x.dtype)
        return self.out_norm(self.transformer(x, attention, cross, cache))

    def head(self, hidden: Tensor, stream: int) -> Tensor:
        """Hidden states [..., dim] -> float32 logits [..., card] of one stream."""
        return self.linears[stream](hidden).float()

    def with_context(self, context: int) -> LanguageModel:
        """A model that shares the weights but has another `subcodes_context`."""
        other = copy.copy(self)
        other.config = dataclasses.replace(self.config, subcodes_context=context)
        return other

    def stage_attention(self, stage: int, prefix_rows: int = 0) -> Attention:
        """Attention of a masked stage: full for the first, else `subcodes_context` frames (-1: full).
        Causal in an autoregressive model.

        In a hybrid model the first rows of the delay layout attend causally: at least the special step, and
        the `prefix_rows` decoded autoregressively.
        """
        if self.config.modeling == "autoregressive":
            return Attention.causal()
        context = self.config.subcodes_context if stage > 0 else -1
        if self.config.modeling == "hybrid":
            return Attention.prefix(max(prefix_rows, 1), None if context < 0 else context)
        return Attention.full() if context < 0 else Attention.band(context)

    def stage_logits(self, rows: Tensor, stage: int, positions: Tensor) -> Tensor:
        """The logits of a stage at some frames, from the hidden states of all rows.

        Args:
            rows: [B, S, dim], from `rows_hidden` for the stage.
            positions: bool [B, G, T] of the stage's G streams, N of them true.

        Returns:
            float32 [N, card], in row-major order.
        """
        frames, streams = positions.shape[-1], self.config.stage_streams[stage]
        asked = zip(streams, positions.unbind(1), strict=True)
        said = [self.head(self.stream_hidden(rows, k, frames)[here], k) for k, here in asked]
        if len(said) == 1:
            return said[0]
        by_stream = torch.cat(said)
        place = positions.nonzero()[:, 1].argsort(stable=True)  # of its rows in row-major order
        return torch.empty_like(by_stream).index_copy_(0, place, by_stream)

    def stream_hidden(self, rows: Tensor, stream: int, frames: int) -> Tensor:
        """Select the hidden states at a masked stream's frames: [B, S, dim] -> [B, T, dim]."""
        if self.config.modeling == "masked":
            return rows
        first = self.pattern.delays[stream] + 1
        return rows[:, first : first + frames]

    def held_prefix(self, codes: Tensor, cross: CrossKeys | None, prefix_rows: int) -> HeldPrefix:
        """Compute the first `prefix_rows` rows of codes [B, K, T] for a hybrid model's masked stages.

        They attend causally and contain no masked codes, so they are the same at every step.
        """
        sequence = self.pattern.apply(codes, self.config.mask_id)
        batch, _, steps = sequence.shape
        cache = self.transformer.new_cache(batch, steps, like=self.out_norm.weight)
        hidden = self(sequence[..., :prefix_rows], cross, Attention.causal(), cache)
        return HeldPrefix(cache, hidden)

    def rows_hidden_after(
        self, codes: Tensor, stage: int, cross: CrossKeys | None, prefix: HeldPrefix
    ) -> Tensor:
        """As `rows_hidden` of a hybrid model, with a cached prefix.

        Returns all rows, because a span may start inside the prefix and is scored as a whole.
        """
        rows = prefix.hidden.shape[1]
        sequence = self.pattern.apply(codes, self.config.mask_id)[..., rows:]
        hidden = self(sequence, cross, self.stage_attention(stage, rows), prefix.cache)
        prefix.cache.length = rows  # drop the rows of this step
        return torch.cat([prefix.hidden, hidden], dim=1)

    def rows_hidden(
        self, codes: Tensor, stage: int, cross: CrossKeys | None, prefix_rows: int = 0
    ) -> Tensor:
        """Codes [B, K, T], masked ones at `mask_id` -> hidden states [B, S, dim] of all rows of the layout.

        Training and decoding of a hybrid model both lay out codes here, so that prefix, mask and positions
        agree.
        """
        if self.config.modeling != "masked":
            codes = self.pattern.apply(codes, self.config.mask_id)
        return self(codes, cross, self.stage_attention(stage, prefix_rows))

    def teacher_forced(
        self, codes: Tensor, cross: CrossKeys | None, streams: Sequence[int] | None = None
    ) -> Tensor:
        """Logits float32 [B, G, T, card] of each code given all before it in the delay layout.

        The reference's `compute_predictions`. Row s predicts what stands at step s + 1, so the
        logits of stream k's frame t are at row t + delays[k].

        Args:
            codes: [B, K, T].
            streams: the G streams to predict; None: all.
        """
        frames = codes.shape[-1]
        asked = [(k, self.pattern.delays[k]) for k in streams or range(self.config.n_q)]
        # Later rows do not predict these streams.
        last = frames + max(delay for _, delay in asked)
        sequence = self.pattern.apply(codes, self.config.mask_id)[..., :last]
        hidden = self(sequence, cross, Attention.causal())
        return torch.stack([self.head(hidden[:, d : d + frames], k) for k, d in asked], dim=1)
