"""The protocols of decoding on one page: what the loops ask of a model, what they are given, what they
report.

The loops know no model. `models.session` has the sessions of a loaded model, `editing.timeline` mixes
several of them, and tests pass fixed logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from magnet_cli.settings import DecodingConfig

# (codes [B, K, T] with masked ones at the mask id, stage, positions bool [B, T], with_null)
#   -> float32 logits [N * G, card], conditional and null: at the N true positions in row-major
#   order, for each of the G streams of the stage.
StageLogits = Callable[[Tensor, int, Tensor, bool], tuple[Tensor, Tensor | None]]

# (codes [B, K, T] complete up to the last of G streams, those streams) -> float32 [B, T, G]: the
# probability that a rescorer gives to each of their codes.
CodeProbs = Callable[[Tensor, Sequence[int]], Tensor]

# (codes [B, K, T] complete up to a stage, its G streams, probabilities [B, T, G]) -> probabilities
# [B, T, G] that the spans are scored by instead, with another model's opinion mixed in.
Rescore = Callable[[Tensor, Sequence[int], Tensor], Tensor]


class CausalLogits(Protocol):
    """A causal model that remembers the steps it was given."""

    def reset(self, steps: int, with_null: bool, short_context: int = 0) -> None:
        """Forget everything; make room for `steps` steps, with or without the null half.

        With a `short_context`, also for the conditional half with only so many steps visible to each layer.
        """

    def step(self, tokens: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Append ids [B, K, n]; float32 logits [B, K, card] of what follows: conditional, null and
        of the short context, the last two where they were asked for.
        """


class Layout(Protocol):
    """Where the codes of K streams stand in the steps of a causal model (`models.lm.DelayPattern`)."""

    def steps(self, frames: int) -> int:
        """Steps that hold so many whole frames of every stream."""

    def apply(self, codes: Tensor, special: int) -> Tensor:
        """Codes [B, K, T] -> sequence [B, K, steps(T)], `special` where no code stands."""

    def revert(self, sequence: Tensor, frames: int) -> Tensor:
        """Sequence [B, K, steps(T)] -> codes [B, K, T]."""

    def valid(self, frames: int) -> Tensor:
        """bool [K, steps(T)]: where a code stands."""

    def rows_within(self, rows: int, frames: int) -> Tensor:
        """bool [K, T]: codes that stand in the first `rows` steps."""


class Sessions(Protocol):
    """A model with the texts of a clip, in the form that each decoding loop needs."""

    def causal(self) -> CausalLogits:
        """For writing step by step."""

    def masked(self, prefix_rows: int = 0, context: int | None = None) -> StageLogits:
        """For filling masks; the first `prefix_rows` steps are laid out as they were written."""


@dataclass(frozen=True)
class StepEvent:
    """One step is done."""

    part: Literal["masked", "autoregressive", "codec"]
    stage: int  # the streams that are decoded; 0 where all are
    stages: int
    step: int  # from 1
    steps: int
    mask_rate: float  # share of the spans that was masked at this step
    cfg_coef: float  # guidance, λ
    temperature: float
    remaining: int  # positions of the stage still to be decided, over the batch
    rescorer_seconds: float = 0.0  # spent in the rescorer at this step
    streams: tuple[int, ...] = ()  # of a masked stage
    later: int = 0  # steps that come behind this part's, but for the codec's


OnStep = Callable[[StepEvent], None]


@dataclass(frozen=True)
class Decoding:
    """How a batch is decoded: what stays the same over all streams and steps of a loop."""

    config: DecodingConfig  # every field given
    mask_id: int  # of a masked code, and of the delay layout where no code stands
    generators: Sequence[torch.Generator]  # one per item; the loops draw from them
    rescore: Rescore | None = None
    on_step: OnStep | None = None  # called after every step
    stages: Sequence[Sequence[int]] = ()  # streams that are masked together; (): each by itself
    bars: Sequence[float] = ()  # frames a bar, one per item, 0 without a tempo; (): none has one
