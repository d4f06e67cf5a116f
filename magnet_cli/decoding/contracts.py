"""The protocols of decoding: what the loops call, their arguments, and the events they report.

The loops are independent of models. `models.session` implements these protocols for a loaded model,
`editing.timeline` for a mix of several sessions, and tests pass fixed logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from magnet_cli.settings import DecodingConfig

# (codes [B, K, T] with masked ones at the mask id, stage, positions bool [B, G, T] of the stage's G
#   streams, with_null, end) -> float32 logits [N, card], conditional and null, at the N true positions in
#   row-major order. Of items without any code from frame `end` on, those frames are left out.
StageLogits = Callable[[Tensor, int, Tensor, bool, int], tuple[Tensor, Tensor | None]]

# (codes [B, K, T] complete up to the last of G streams, those streams) -> float32 [B, G, T]: the
# rescorer's probability of each of their codes.
CodeProbs = Callable[[Tensor, Sequence[int]], Tensor]

# (codes [B, K, T] complete up to a stage, its G streams, probabilities [B, G, T]) -> probabilities
# [B, G, T] for the span scores, with a rescorer's mixed in.
Rescore = Callable[[Tensor, Sequence[int], Tensor], Tensor]


class CausalLogits(Protocol):
    """A causal model that caches the steps it was given."""

    def reset(self, steps: int, with_null: bool, short_context: int = 0) -> None:
        """Clear the cache and allocate `steps` steps, with or without the null condition.

        With a `short_context`, also for the condition with only that many steps visible to each layer.
        """

    def step(self, tokens: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Append ids [B, K, n] and return float32 logits [B, K, card] of the next step: conditional, null
        and with the short context; the last two are None unless requested in `reset`.
        """


class Layout(Protocol):
    """Layout of the codes of K streams in the steps of a causal model (`models.lm.DelayPattern`)."""

    def steps(self, frames: int) -> int:
        """Number of steps that hold `frames` whole frames of every stream."""

    def apply(self, codes: Tensor, special: int) -> Tensor:
        """Lay out codes [B, K, T] as a sequence [B, K, steps(T)], `special` where there is no code."""

    def revert(self, sequence: Tensor, frames: int) -> Tensor:
        """Convert a sequence [B, K, steps(T)] back to codes [B, K, T]."""

    def valid(self, frames: int) -> Tensor:
        """bool [K, steps(T)]: positions that hold a code."""

    def rows_within(self, rows: int, frames: int) -> Tensor:
        """bool [K, T]: codes within the first `rows` steps."""


class Sessions(Protocol):
    """A model with the texts of a clip, for each kind of decoding loop."""

    def causal(self) -> CausalLogits:
        """A session for autoregressive decoding."""

    def masked(self, prefix_rows: int = 0, context: int | None = None) -> StageLogits:
        """Logits for masked decoding; the first `prefix_rows` steps are in the delay layout."""


@dataclass(frozen=True)
class StepEvent:
    """Reports a completed step."""

    part: Literal["masked", "autoregressive", "codec"]
    stage: int  # index of the masked stage; 0 for other parts
    stages: int
    step: int  # from 1
    steps: int
    mask_rate: float  # share of spans masked at this step, of the block where there are blocks
    cfg_coef: float  # guidance, λ
    temperature: float
    remaining: int  # positions of the stage still to decode, over the batch
    rescorer_seconds: float = 0.0  # time spent in the rescorer
    streams: tuple[int, ...] = ()  # streams of a masked stage
    later: int = 0  # steps of later stages and parts, without the codec's


OnStep = Callable[[StepEvent], None]


@dataclass(frozen=True)
class Decoding:
    """Arguments of a decoding loop that are the same for all streams and steps."""

    config: DecodingConfig  # resolved
    mask_id: int  # id of a masked code, and of positions of the delay layout without a code
    generators: Sequence[torch.Generator]  # one per item; the loops draw from them
    rescore: Rescore | None = None
    on_step: OnStep | None = None  # called after every step
    stages: Sequence[Sequence[int]] = ()  # the streams of each stage; (): one per stage
    block_len: int = 50  # frames in a block of the span order "blocks"
    bars: Sequence[float] = ()  # frames per bar of each item, 0 without a tempo; (): none has one
    tempoless: Sequence[bool] = ()  # items that have `sound_temperature`; (): none
    codebooks: Tensor | None = None  # float32 [K, card, d], for `later_codes` "mean"
    sections: Tensor | None = None  # int64 [T], bars are not repeated across them; None: one
