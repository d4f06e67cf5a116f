"""Timed prompts: each frame is guided by a mix of texts, cross-faded where the prompt changes.

Guidance is null + (cond - null) * λ. Around a change, cond is the weighted mean of the logits for both
texts, frame by frame; no waveform is faded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from magnet_cli.decoding.contracts import CausalLogits, Sessions, StageLogits
from magnet_cli.editing.windows import Cue

CROSSFADE = 1.0  # seconds over which one prompt replaces another


def cue_weights(
    cues: Sequence[Cue], start: int, stop: int, frame_rate: float, crossfade: float = CROSSFADE
) -> Tensor:
    """The weight of each prompt at frames `start` up to `stop`.

    A cue fades in over `crossfade` seconds around its start, or less if its neighbours are closer, while the
    one before fades out.

    Returns:
        float32 [cues, frames], with columns that sum to one.
    """
    seconds = (torch.arange(start, stop, dtype=torch.float64, device="cpu") + 0.5) / frame_rate
    starts = [cue.start for cue in cues]
    rises = [torch.ones_like(seconds)]
    for i in range(1, len(cues)):
        room = starts[i] - starts[i - 1]
        if i + 1 < len(cues):
            room = min(room, starts[i + 1] - starts[i])
        width = max(min(crossfade, room), 1e-9)
        share = ((seconds - starts[i]) / width + 0.5).clamp(0, 1)
        rises.append(0.5 - 0.5 * torch.cos(math.pi * share))
    rises.append(torch.zeros_like(seconds))
    stacked = torch.stack(rises)
    return (stacked[:-1] - stacked[1:]).clamp(min=0).float()


class MixedSessions:
    """A model with several texts, mixed for a window (`contracts.Sessions`)."""

    def __init__(
        self, sessions: Sequence[Sessions], weights: Tensor, delays: Sequence[int]
    ) -> None:
        """`weights`: [sessions, T] for the window's frames; `delays`: the model's."""
        self.sessions, self.weights, self.delays = list(sessions), weights, delays

    def causal(self) -> MixedSession:
        """The mixture for autoregressive decoding."""
        return MixedSession([one.causal() for one in self.sessions], self.weights, self.delays)

    def masked(self, prefix_rows: int = 0, context: int | None = None) -> MixedLogits:
        """The mixture for masked decoding, after a prefix of `prefix_rows` rows."""
        masked = [one.masked(prefix_rows, context) for one in self.sessions]
        return MixedLogits(masked, self.weights)


class MixedLogits:
    """Masked sessions with several texts, mixed frame by frame (`contracts.StageLogits`)."""

    def __init__(self, sessions: Sequence[StageLogits], weights: Tensor) -> None:
        """`weights`: [sessions, T] for the window's frames."""
        self.sessions, self.weights = list(sessions), weights

    def __call__(
        self, codes: Tensor, stage: int, positions: Tensor, with_null: bool, end: int
    ) -> tuple[Tensor, Tensor | None]:
        """Codes [B, K, T], positions bool [B, G, T] -> float32 [N, card], conditional and null."""
        weights = self.weights.to(codes.device)
        mixed, null = None, None
        for session, weight in zip(self.sessions, weights, strict=True):
            shares = weight.expand(positions.shape)[positions]  # [N]
            # Skip texts without weight here.
            if not bool((shares > 0).any()):
                continue
            first = mixed is None
            cond, nothing = session(codes, stage, positions, with_null and first, end)
            if first:
                # For a null condition both halves are the same.
                null = cond if with_null and nothing is None else nothing
                mixed = torch.zeros_like(cond)
            mixed = mixed + cond * shares[:, None]
        assert mixed is not None, "the weights of a frame sum to one"
        return mixed, null


class MixedSession:
    """Causal sessions with several texts, mixed step by step (`contracts.CausalLogits`)."""

    def __init__(
        self, sessions: Sequence[CausalLogits], weights: Tensor, delays: Sequence[int]
    ) -> None:
        """`weights`: [sessions, T] by frame; `delays`: determine the frames that a step writes."""
        used = [i for i in range(len(sessions)) if bool((weights[i] > 0).any())]
        self.sessions = [sessions[i] for i in used]
        self.weights, self.delays = weights[used], torch.tensor(list(delays), device="cpu")
        self._read = 0

    def reset(self, steps: int, with_null: bool, short_context: int = 0) -> None:
        """Clear all state; make room for `steps` steps."""
        self._read = 0
        for session in self.sessions:
            session.reset(steps, with_null, short_context)

    def step(self, tokens: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Ids [B, K, n] -> float32 logits [B, K, card] of the next step: conditional, null, short."""
        self._read += tokens.shape[-1]
        # Step 0 has no code; frame t of stream k is at step t + 1 + delays[k].
        frames = (self._read - 1 - self.delays).clamp(0, self.weights.shape[1] - 1)
        shares = self.weights[:, frames].to(tokens.device)  # [sessions, K]
        mixed, null, mixed_short = None, None, None
        for session, share in zip(self.sessions, shares, strict=True):
            cond, nothing, short = session.step(tokens)
            mixed = cond * share[:, None] + (0 if mixed is None else mixed)
            null = nothing if null is None else null
            if short is not None:
                mixed_short = short * share[:, None] + (0 if mixed_short is None else mixed_short)
        assert mixed is not None
        return mixed, null, mixed_short
