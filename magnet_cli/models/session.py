"""Sessions: a model with its encoded texts, for the decoding loops.

Everything that is constant during a generation is computed once here: projected conditions, and the keys and
values of cross-attention in every layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from magnet_cli.models.lm import BarGrid, HeldPrefix, LanguageModel
from magnet_cli.models.text import TextEncoder
from magnet_cli.models.transformer import Attention, CrossKeys, KVCache

_pool: ThreadPoolExecutor | None = None


def compute_at_once(passes: int) -> None:
    """Have so many independent passes computed at once on a CPU, in threads: for models so small that torch's
    own threads wait more than they work. Results are the same."""
    global _pool
    _pool = ThreadPoolExecutor(passes, "pass") if passes > 1 else None


def each(
    device: torch.device, function: Callable[..., Tensor], *arguments: Iterable[Any]
) -> Iterator[Tensor]:
    """As `map`, of independent calls, which `compute_at_once` may have made at once."""
    call = torch.inference_mode()(function)  # a mode is a thread's own
    if _pool is None or device.type != "cpu":
        return map(call, *arguments)
    return _pool.map(call, *arguments)


@torch.inference_mode()
def conditions_of(
    lm: LanguageModel, text_encoder: TextEncoder, texts: Iterable[str | None]
) -> dict[str | None, Tensor | None]:
    """The condition of each text: [L, dim], or None for the null condition.

    Every distinct text is encoded once, alone, so that the result does not depend on the batch.
    """
    found: dict[str | None, Tensor | None] = {}
    for text in {*texts}:
        hidden = text_encoder.encode(text) if text else ()
        found[text] = (
            lm.project_text(hidden) if isinstance(hidden, Tensor) and len(hidden) else None
        )
    return found


def text_sessions(
    lm: LanguageModel,
    text_encoder: TextEncoder,
    prompts: Sequence[str | None],
    negative_prompts: Sequence[str | None],
    bars: Sequence[float] = (),
) -> TextSessions:
    """Encode each text once, and return the model with them, for the decoding loops.

    `bars`: frames per bar of each item, whose first bar starts at frame 0; 0: no tempo; (): no item has one.
    """
    found = conditions_of(lm, text_encoder, [*prompts, *negative_prompts])
    nulls = [found[n] for n in negative_prompts]
    return TextSessions(lm, [found[p] for p in prompts], nulls, bars)


class TextSessions:
    """A model and its encoded texts, which makes a session for each kind of decoding."""

    def __init__(
        self,
        lm: LanguageModel,
        conditions: Sequence[Tensor | None],
        nulls: Sequence[Tensor | None],
        bars: Sequence[float] = (),
        start: int = 0,
    ) -> None:
        """`conditions` and `nulls`: for each item [L_i, dim], or None for the null condition; `bars` as for
        `text_sessions`, of a piece whose frame `start` is the first here."""
        self.lm, self._bars = lm, bars
        self._texts = conditions, nulls, [(bar, start % bar if bar else 0.0) for bar in bars]
        self._masked: dict[tuple[int, int | None], MaskedSession] = {}

    def starting(self, frame: int) -> TextSessions:
        """The same for a window that starts at a frame of the piece."""
        if not any(self._bars):
            return self
        return TextSessions(self.lm, *self._texts[:2], self._bars, frame)

    def causal(self) -> CausalSession:
        """A session for autoregressive decoding."""
        return CausalSession(self.lm, *self._texts)

    def masked(self, prefix_rows: int = 0, context: int | None = None) -> MaskedSession:
        """A session for masked decoding after a prefix of `prefix_rows` rows; sessions are cached.

        `context`: frames on each side that streams > 0 attend to, -1 all; None: the model's own.
        """
        key = prefix_rows, context
        if key not in self._masked:
            lm = self.lm if context is None else self.lm.with_context(context)
            self._masked[key] = MaskedSession(lm, *self._texts, prefix_rows=prefix_rows)
        return self._masked[key]


def _guided(conditions: Sequence[Tensor | None], nulls: Sequence[Tensor | None]) -> bool:
    """Whether any item's condition differs from its null condition, so that guidance has an effect."""
    return any(a is not b for a, b in zip(conditions, nulls, strict=True))


class MaskedSession:
    """Logits of a masked model for given texts (`decoding.contracts.StageLogits`).

    On a CPU the items are computed one by one: their matrices are large enough to use it fully, memory is
    that of one item, and an item's result does not depend on the rest of the batch, not even by rounding. On
    other devices the conditional and null halves of all items are computed as one batch.

    The rows of a prefix are computed once, at the first step, and cached as keys and values. Frames from
    `end` on are computed only for items with a code there: an item's result depends on itself alone.
    """

    def __init__(
        self,
        lm: LanguageModel,
        conditions: Sequence[Tensor | None],
        nulls: Sequence[Tensor | None],
        bars: Sequence[BarGrid] = (),
        prefix_rows: int = 0,
    ) -> None:
        """`conditions` and `nulls`: for each item [L_i, dim], or None for the null condition."""
        self.lm, self.prefix_rows = lm, prefix_rows
        self._prefixes: dict[CrossKeys, tuple[Tensor, HeldPrefix]] = {}
        self.guided = _guided(conditions, nulls)
        self.one_by_one = lm.device.type == "cpu"
        if self.one_by_one:
            grids = [[grid] for grid in bars] or [[]] * len(conditions)
            self.cond = [lm.cross_keys([c], g) for c, g in zip(conditions, grids, strict=True)]
            self.null = [lm.cross_keys([n], g) for n, g in zip(nulls, grids, strict=True)]
        else:
            self.both = lm.cross_keys([*conditions, *nulls], [*bars, *bars])
            self.only_cond = lm.cross_keys(conditions, bars)

    @torch.inference_mode()
    def __call__(
        self, codes: Tensor, stage: int, positions: Tensor, with_null: bool, end: int
    ) -> tuple[Tensor, Tensor | None]:
        """Codes [B, K, T], positions bool [B, G, T] -> float32 [N, card], conditional and null."""
        with_null = with_null and self.guided
        frames = codes.shape[-1]
        known = (codes[..., end:] != self.lm.config.mask_id).flatten(1).any(1).tolist()
        ends = [frames if later else end for later in known]
        if not self.one_by_one:
            return self._batched(codes, stage, positions, with_null, ends)
        asked = [item for item in range(len(codes)) if bool(positions[item].any())]
        texts = [self.cond, self.null] if with_null else [self.cond]

        def logits(item: int, cross: CrossKeys) -> Tensor:
            one = slice(item, item + 1)
            return self._logits(codes[one], stage, positions[one], cross, ends[item])

        crosses = [text[item] for text in texts for item in asked]
        said = [*each(codes.device, logits, asked * len(texts), crosses)]
        cond, null = said[: len(asked)], said[len(asked) :]
        return torch.cat(cond), torch.cat(null) if with_null else None

    def _batched(
        self,
        codes: Tensor,
        stage: int,
        positions: Tensor,
        with_null: bool,
        ends: Sequence[int],
    ) -> tuple[Tensor, Tensor | None]:
        cross = self.both if with_null else self.only_cond
        if with_null:
            codes, positions = torch.cat([codes, codes]), torch.cat([positions, positions])
        passes = {end: self._logits(codes, stage, positions, cross, end) for end in {*ends}}
        found = passes[ends[0]]
        if len(passes) > 1:  # edits beside new clips: each row from the pass of its item
            of_row = torch.tensor(ends, device=codes.device).repeat(1 + with_null)
            of_row = of_row[positions.nonzero()[:, 0]]
            for end, logits in passes.items():
                found = torch.where((of_row == end)[:, None], logits, found)
        if not with_null:
            return found, None
        cond, null = found.chunk(2)
        return cond, null

    def _logits(
        self, codes: Tensor, stage: int, positions: Tensor, cross: CrossKeys, end: int
    ) -> Tensor:
        near = codes[..., :end]
        if self.prefix_rows > 1:
            prefix = self._prefix(codes, cross)
            rows = self.lm.rows_hidden_after(near, stage, cross, prefix)
        else:
            rows = self.lm.rows_hidden(near, stage, cross, self.prefix_rows)
        return self.lm.stage_logits(rows, stage, positions[..., :end])

    def _prefix(self, codes: Tensor, cross: CrossKeys) -> HeldPrefix:
        """The cached prefix for a text, recomputed only if its codes have changed."""
        inside = self.lm.pattern.rows_within(self.prefix_rows, codes.shape[-1]).to(codes.device)
        fixed = codes[:, inside]
        held = self._prefixes.get(cross)
        if held is None or not torch.equal(held[0], fixed):
            held = fixed, self.lm.held_prefix(codes, cross, self.prefix_rows)
            self._prefixes[cross] = held
        return held[1]


class RescorerSession:
    """Probabilities of codes under a causal model, for given texts (`decoding.contracts.CodeProbs`).

    Computed teacher-forced in one parallel pass: every code given all before it in the delay layout, at
    temperature 1, without guidance. Streams after the scored ones are not decoded yet, so the special token
    stands for them. Item by item on a CPU, for the reasons given in `MaskedSession`.
    """

    def __init__(
        self,
        lm: LanguageModel,
        conditions: Sequence[Tensor | None],
        bars: Sequence[BarGrid] = (),
    ) -> None:
        """`conditions`: for each item [L_i, dim], or None for the null condition."""
        self.lm = lm
        self.one_by_one = lm.device.type == "cpu"
        size = 1 if self.one_by_one else len(conditions)
        items = range(0, len(conditions), size)
        self.cross = [lm.cross_keys(conditions[i : i + size], bars[i : i + size]) for i in items]

    @torch.inference_mode()
    def __call__(self, codes: Tensor, streams: Sequence[int]) -> Tensor:
        """Codes [B, K, T], complete up to the last of G streams -> probabilities float32 [B, G, T]."""
        groups = codes.split(1) if self.one_by_one else [codes]
        said = each(codes.device, self._probs, groups, [streams] * len(groups), self.cross)
        return torch.cat([*said])

    def _probs(self, codes: Tensor, streams: Sequence[int], cross: CrossKeys) -> Tensor:
        below = codes.clone()
        below[:, max(streams) + 1 :] = self.lm.config.mask_id
        probs = self.lm.teacher_forced(below, cross, streams).softmax(-1)  # [B, G, T, card]
        return probs.gather(-1, codes[:, list(streams), :, None])[..., 0]


class CausalSession:
    """Autoregressive decoding for given texts (`decoding.contracts.CausalLogits`).

    The conditional, null and short-context rows are one batch on every device, because a step's time is that
    of reading the weights, which is done once for all rows.
    """

    def __init__(
        self,
        lm: LanguageModel,
        conditions: Sequence[Tensor | None],
        nulls: Sequence[Tensor | None],
        bars: Sequence[BarGrid] = (),
    ) -> None:
        """`conditions` and `nulls`: for each item [L_i, dim], or None for the null condition."""
        self.lm, self.items, self._bars = lm, len(conditions), list(bars)
        self.guided = _guided(conditions, nulls)
        self._conditions, self._nulls = list(conditions), list(nulls)
        self._cross: CrossKeys | None = None
        self._cache: KVCache | None = None
        self._attention = Attention.causal()
        self._with_null = False

    def reset(self, steps: int, with_null: bool, short_context: int = 0) -> None:
        """Clear the cache and allocate `steps` steps."""
        self._with_null = with_null and self.guided
        texts = self._conditions + (self._nulls if self._with_null else [])
        self._attention = Attention.causal()
        if short_context:
            texts = texts + self._conditions
            self._attention = Attention.causal(short_context, short_items=self.items)
        self._cross = self.lm.cross_keys(texts, self._bars * (len(texts) // self.items))
        like = self.lm.out_norm.weight
        self._cache = self.lm.transformer.new_cache(len(texts), steps, like=like)

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Ids [B, K, n] -> float32 logits [B, K, card] of the next step: conditional, null, short."""
        with_short = self._attention.short_items > 0
        rows = tokens.repeat(1 + self._with_null + with_short, 1, 1)
        hidden = self.lm(rows, self._cross, self._attention, self._cache)[:, -1]
        logits = torch.stack([self.lm.head(hidden, k) for k in range(tokens.shape[1])], dim=1)
        kinds = list(logits.split(len(tokens)))
        null = kinds[1] if self._with_null else None
        return kinds[0], null, kinds[-1] if with_short else None
