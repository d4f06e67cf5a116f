"""Masked decoding: one stream at a time, a few parallel steps each (paper, section 3; Algorithm 1).

Each step reads: mask, guide, sample, score the spans, mask the least certain ones again. Details
that released checkpoints depend on follow the reference's `_generate_stage`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from magnet_cli.decoding.contracts import CodeProbs, Decoding, Rescore, StageLogits, StepEvent
from magnet_cli.decoding.sampling import (
    MIN_TEMPERATURE,
    Sampler,
    annealed_coef,
    disturbed,
    guidance_matters,
    guide,
    uniform_noise,
)
from magnet_cli.errors import MagnetError
from magnet_cli.masking import (
    frames_to_spans,
    mask_rates,
    masked_counts,
    spans_to_frames,
    stride1_mask,
    top_mask,
)
from magnet_cli.settings import DecodingConfig, required

# A span that is decided never competes for being masked again: below any score.
DECIDED = -1e4


def decode(
    logits: StageLogits, known_codes: Tensor, known_mask: Tensor, decoding: Decoding
) -> Tensor:
    """Fill in every code that is not known, stream by stream.

    Args:
        logits: the model.
        known_codes: int64 [B, K, T]; only what `known_mask` marks is read.
        known_mask: bool [B, K, T]; these codes are seen from the start, never masked, never changed.
        decoding: see `Decoding`.

    Returns:
        int64 [B, K, T].
    """
    codes = torch.where(known_mask, known_codes, decoding.mask_id)
    for stage in range(codes.shape[1]):
        if not bool(known_mask[:, stage].all()):
            decode_stage(logits, codes, known_mask[:, stage], stage, decoding)
    return codes


def decode_stage(
    logits: StageLogits, codes: Tensor, known: Tensor, stage: int, decoding: Decoding
) -> None:
    """Fill in one stream of `codes` [B, K, T], in place; `known` bool [B, T] says what stays."""
    config = decoding.config
    sampler = Sampler(required(config.use_sampling), required(config.top_p), required(config.top_k))
    spans = Spans(config, known)
    drawing = spans.open.any(-1).tolist()  # an item with nothing to decide draws no noise
    mask = spans.first_mask()
    for step in schedule(config, stage):
        hide(codes, stage, mask & ~known, decoding.mask_id)
        guided = guided_logits(logits, codes, stage, mask, step.cfg_coef)
        noise = uniform_noise(decoding.generators, drawing, codes.shape[-1], codes.device)
        tokens, token_probs = sampler(guided, step.temperature, noise[mask])
        write(codes, stage, mask, known, tokens)
        rescorer_seconds = 0.0
        if step.next_rate is None:
            mask = torch.zeros_like(mask)
        else:
            probs = torch.ones_like(noise).masked_scatter(mask, token_probs)
            if decoding.rescore is not None:
                began = time.perf_counter()
                probs = decoding.rescore(codes, stage, probs)
                rescorer_seconds = time.perf_counter() - began
            if config.score_noise:
                noise = uniform_noise(decoding.generators, drawing, codes.shape[-1], codes.device)
                probs = disturbed(probs, config.score_noise * float(step.next_rate), noise)
            mask = spans.next_mask(probs, mask, step.next_rate)
        if decoding.on_step is not None:
            decoding.on_step(
                StepEvent(
                    part="masked",
                    stage=stage,
                    stages=codes.shape[1],
                    step=step.number,
                    steps=step.of,
                    mask_rate=step.rate,
                    cfg_coef=step.cfg_coef,
                    temperature=max(step.temperature, MIN_TEMPERATURE),
                    remaining=int((mask & ~known).sum()),
                    rescorer_seconds=rescorer_seconds,
                )
            )


@dataclass(frozen=True)
class Step:
    """What a step of a stream goes by."""

    number: int  # from 1
    of: int
    rate: float  # the share of the open spans that is masked at it
    next_rate: Tensor | None  # float32 scalar, the share to mask for the next; None: the last step
    cfg_coef: float
    temperature: float


def schedule(config: DecodingConfig, stage: int) -> Iterator[Step]:
    """The steps of a stream: mask rates by a cosine, guidance and temperature annealed with them."""
    steps = required(config.decoding_steps)[stage]
    rates = mask_rates(steps)
    for step in range(steps):
        rate = float(rates[step])
        temperature = required(config.temperature)
        if config.anneal_temperature:
            temperature *= (steps - 1 - step) / steps
        yield Step(
            number=step + 1,
            of=steps,
            rate=rate,
            next_rate=rates[step + 1] if step + 1 < steps else None,
            cfg_coef=annealed_coef(
                rate, required(config.max_cfg_coef), required(config.min_cfg_coef)
            ),
            temperature=temperature,
        )


def hide(codes: Tensor, stage: int, mask: Tensor, mask_id: int) -> None:
    """Put the mask id where `mask` bool [B, T] is true, in place."""
    codes[:, stage] = codes[:, stage].masked_fill(mask, mask_id)


def guided_logits(
    logits: StageLogits, codes: Tensor, stage: int, mask: Tensor, coef: float
) -> Tensor:
    """float32 [N, card] at the N masked positions, guided where guidance changes anything."""
    cond, null = logits(codes, stage, mask, guidance_matters(coef))
    return guide(cond, null, coef)


def write(codes: Tensor, stage: int, mask: Tensor, known: Tensor, tokens: Tensor) -> None:
    """Write what was drawn [N] for the masked positions, in place; what is known stays."""
    sampled = codes[:, stage].masked_scatter(mask, tokens)
    codes[:, stage] = torch.where(known, codes[:, stage], sampled)


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


def rescoring(code_probs: CodeProbs, weight: float, streams: Sequence[int]) -> Rescore | None:
    """What mixes a rescorer's opinion of the sampled codes into the span scores.

    After each step but a stream's last, the completed stream is read once, in parallel, by a causal
    model; w * p + (1 - w) * p_rescorer takes the place of p where spans are scored (the paper, "Model
    rescorer"). Sampling itself is not touched, only which spans are masked again; no draw is made.

    Args:
        code_probs: the rescorer.
        weight: the model's share w, 0..1; at 1 there is nothing to ask the rescorer.
        streams: the streams to rescore.

    Returns:
        None at weight 1.
    """
    if weight == 1:
        return None

    def rescore(codes: Tensor, stage: int, probs: Tensor) -> Tensor:
        if stage not in streams:
            return probs
        opinion = code_probs(codes, stage)
        if not bool(torch.isfinite(opinion).all()):
            raise MagnetError(
                "The rescorer's output is not a number.",
                "Try --dtype float32; if it stays, its checkpoint is damaged.",
            )
        mixed = weight * probs + (1 - weight) * opinion
        # Scores take the logarithm: a code that the rescorer holds impossible stays a number.
        return mixed.clamp(min=torch.finfo(mixed.dtype).tiny)

    return rescore
