"""The delay pattern: stream k is written `delays[k]` steps late (MusicGen, section 2.2).

Shared by autoregressive decoding, the rescorer and hybrid training, so that all of them place a
code at the same step. Step 0 holds the special token in every stream; the code of stream k at
frame t stands at step `t + delays[k] + 1`; everything else is special.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class DelayPattern:
    """Where the codes of `len(delays)` streams stand in the sequence that a model reads."""

    delays: tuple[int, ...]

    def __init__(self, delays: Sequence[int]) -> None:
        object.__setattr__(self, "delays", tuple(delays))

    def steps(self, frames: int) -> int:
        """Length of the sequence that holds `frames` frames."""
        return frames + max(self.delays) + 1

    def apply(self, codes: Tensor, special: int) -> Tensor:
        """Codes [B, K, T] -> sequence [B, K, steps(T)], `special` where no code stands."""
        batch, streams, frames = codes.shape
        sequence = codes.new_full((batch, streams, self.steps(frames)), special)
        for k, delay in enumerate(self.delays):
            sequence[:, k, delay + 1 : delay + 1 + frames] = codes[:, k]
        return sequence

    def revert(self, sequence: Tensor, frames: int) -> Tensor:
        """Sequence [B, K, steps(T), ...] -> what stands at the codes' own steps [B, K, T, ...]."""
        return torch.stack(
            [sequence[:, k, d + 1 : d + 1 + frames] for k, d in enumerate(self.delays)], dim=1
        )

    def valid(self, frames: int) -> Tensor:
        """bool [K, steps(T)]: where a code stands."""
        step = torch.arange(self.steps(frames), device="cpu")
        late = torch.tensor(self.delays, device="cpu")[:, None]
        return (step > late) & (step <= late + frames)

    def rows_within(self, rows: int, frames: int) -> Tensor:
        """bool [K, T]: codes that stand in the first `rows` steps (a prefix cut along a diagonal)."""
        frame = torch.arange(frames, device="cpu")
        return frame[None, :] + torch.tensor(self.delays, device="cpu")[:, None] + 1 < rows

    def rows_for(self, frames: int) -> int:
        """Steps that hold `frames` whole frames of every stream."""
        return self.steps(frames)
