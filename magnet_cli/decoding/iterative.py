"""Masked decoding: one stream at a time, a few parallel steps each (paper, section 3; Algorithm 1).

Each step reads: predict the masked positions, guide, sample, score the spans, mask the least
certain ones again. The loop knows no model: it is handed a function from codes to logits.
Details that released checkpoints depend on follow the reference's `_generate_stage`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from magnet_cli.decoding.events import OnStep, StepEvent
from magnet_cli.decoding.guidance import annealed_coef, guidance_matters, guide
from magnet_cli.decoding.sampling import MIN_TEMPERATURE, Sampler, disturbed, uniform_noise
from magnet_cli.masking import (
    frames_to_spans,
    mask_rates,
    masked_counts,
    spans_to_frames,
    stride1_mask,
    top_mask,
)
from magnet_cli.settings import DecodingConfig, required

# (codes [B, K, T] with masked ones at the mask id, stage, positions bool [B, T], with_null)
#   -> float32 logits [N, card] at the N true positions in row-major order, conditional and null.
StageLogits = Callable[[Tensor, int, Tensor, bool], tuple[Tensor, Tensor | None]]

# (codes [B, K, T] complete at the stage, stage, probabilities [B, T]) -> probabilities [B, T] that
# the spans are scored by instead, another model's opinion mixed in.
Rescore = Callable[[Tensor, int, Tensor], Tensor]

# A span that is decided never competes for being masked again: below any score.
DECIDED = -1e4


class Spans:
    """How the spans of one stage are laid and scored; `known` is bool [B, T]."""

    def __init__(self, config: DecodingConfig, known: Tensor) -> None:
        self.known = known
        self.span_len = required(config.span_len)
        # With one-frame spans both arrangements are the same: the least certain frames.
        self.stride1 = config.span_arrangement == "stride1" or self.span_len == 1
        self.scoring = required(config.span_scoring)
        # What masking counts in: frames under stride1, otherwise spans of the grid that are not
        # wholly known. A span that straddles known frames is generated.
        self.open = ~known
        if not self.stride1:
            self.open = ~frames_to_spans(known, self.span_len, True).all(-1)

    def first_mask(self) -> Tensor:
        """bool [B, T]: what the first step predicts: everything open."""
        return self._frames(self.open)

    def next_mask(self, probs: Tensor, mask: Tensor, rate: Tensor) -> Tensor:
        """The least certain of the spans that were just predicted, bool [B, T].

        Args:
            probs: float32 [B, T], the probability of each sampled token.
            mask: bool [B, T], what was predicted at this step.
            rate: float32 scalar, the share of the open spans to mask.
        """
        counts = masked_counts(rate, self.open.sum(-1))
        if self.stride1:
            scores = (-probs.log()).masked_fill(~mask, DECIDED)
            return stride1_mask(scores, counts, self.span_len) & ~self.known
        spans = frames_to_spans(probs, self.span_len, 0.0 if self.scoring == "max" else 1.0)
        scores = 1 - spans.amax(-1) if self.scoring == "max" else (-spans.log()).sum(-1)
        decided = ~frames_to_spans(mask, self.span_len, False).any(-1)
        return self._frames(top_mask(scores.masked_fill(decided, DECIDED), counts))

    def _frames(self, spans: Tensor) -> Tensor:
        if self.stride1:
            return spans
        return spans_to_frames(spans, self.span_len, self.known.shape[-1])


def decode(
    logits: StageLogits,
    known_codes: Tensor,
    known_mask: Tensor,
    *,
    config: DecodingConfig,
    mask_id: int,
    generators: Sequence[torch.Generator],
    rescore: Rescore | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Fill in every code that is not known, stream by stream.

    Args:
        logits: the model, see `StageLogits`.
        known_codes: int64 [B, K, T]; only what `known_mask` marks is read.
        known_mask: bool [B, K, T]; these codes are seen from the start, never masked, never changed.
        config: every field given.
        mask_id: the id of a masked code.
        generators: one per item.
        rescore: see `Rescore`.
        on_step: called after every step.

    Returns:
        int64 [B, K, T].
    """
    codes = torch.where(known_mask, known_codes, mask_id)
    for stage in range(codes.shape[1]):
        if not bool(known_mask[:, stage].all()):
            codes = _decode_stage(
                logits,
                codes,
                known_mask[:, stage],
                stage,
                config,
                mask_id,
                generators,
                rescore,
                on_step,
            )
    return codes


def _decode_stage(
    logits: StageLogits,
    codes: Tensor,
    known: Tensor,
    stage: int,
    config: DecodingConfig,
    mask_id: int,
    generators: Sequence[torch.Generator],
    rescore: Rescore | None,
    on_step: OnStep | None,
) -> Tensor:
    steps = required(config.decoding_steps)[stage]
    sampler = Sampler(required(config.use_sampling), required(config.top_p), required(config.top_k))
    spans = Spans(config, known)
    drawing = spans.open.any(-1).tolist()  # an item with nothing to decide draws no noise
    rates = mask_rates(steps)
    mask = spans.first_mask()
    for step in range(steps):
        rate = float(rates[step])
        coef = annealed_coef(rate, required(config.max_cfg_coef), required(config.min_cfg_coef))
        temperature = required(config.temperature)
        if config.anneal_temperature:
            temperature *= (steps - 1 - step) / steps

        codes[:, stage] = codes[:, stage].masked_fill(mask & ~known, mask_id)
        cond, null = logits(codes, stage, mask, guidance_matters(coef))
        noise = uniform_noise(generators, drawing, codes.shape[-1], codes.device)
        tokens, token_probs = sampler(guide(cond, null, coef), temperature, noise[mask])

        sampled = codes[:, stage].masked_scatter(mask, tokens)
        codes[:, stage] = torch.where(known, codes[:, stage], sampled)
        rescorer_seconds = 0.0
        if step + 1 < steps:
            probs = torch.ones_like(noise).masked_scatter(mask, token_probs)
            if rescore is not None:
                started = time.perf_counter()
                probs = rescore(codes, stage, probs)
                rescorer_seconds = time.perf_counter() - started
            if config.score_noise:
                noise = uniform_noise(generators, drawing, codes.shape[-1], codes.device)
                probs = disturbed(probs, config.score_noise * float(rates[step + 1]), noise)
            mask = spans.next_mask(probs, mask, rates[step + 1])
        else:
            mask = torch.zeros_like(mask)
        if on_step is not None:
            on_step(
                StepEvent(
                    part="masked",
                    stage=stage,
                    stages=codes.shape[1],
                    step=step + 1,
                    steps=steps,
                    mask_rate=rate,
                    cfg_coef=coef,
                    temperature=max(temperature, MIN_TEMPERATURE),
                    remaining=int((mask & ~known).sum()),
                    rescorer_seconds=rescorer_seconds,
                )
            )
    return codes
