"""What a decoding loop tells while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class StepEvent:
    """One step is done."""

    part: Literal["masked", "autoregressive", "codec"]
    stage: int  # the stream that is decoded; 0 where all are
    stages: int
    step: int  # from 1
    steps: int
    mask_rate: float  # share of the spans that was masked at this step
    cfg_coef: float  # guidance, λ
    temperature: float
    remaining: int  # positions of the stage still to be decided, over the batch
    rescorer_seconds: float = 0.0  # spent in the rescorer at this step


OnStep = Callable[[StepEvent], None]
