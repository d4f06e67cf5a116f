"""Autoregressive decoding in the delay pattern (MusicGen, section 2.2; audiocraft's `LMModel.generate`), of a
whole clip or of its first frames, which masked stages then continue (the MAGNeT paper, "Hybrid-MAGNeT").

The loop is independent of the model: it calls a session, which caches earlier steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from magnet_cli.decoding import iterative
from magnet_cli.decoding.contracts import CausalLogits, Decoding, Layout, StageLogits, StepEvent
from magnet_cli.decoding.sampling import (
    MIN_TEMPERATURE,
    Sampler,
    coherent,
    guidance_matters,
    guide,
    likelier_next,
    repeats,
    uniform_noise,
)
from magnet_cli.settings import DecodingConfig, required

# Autoregressive decoding can get stuck for two reasons. A model that attends mostly to its last second keeps
# repeating it: coherence boosting contrasts the full context with the short one.
SHORT_CONTEXT = 15  # steps: 0.6 s at 25 frames a second
# And a held code becomes its own likeliest successor: a frequency penalty lowers its logit once it has been
# held longer than in most music.
PENALTY_WINDOW = 50  # frames: 2 s at 25 a second
PENALTY_FREE = 30  # occurrences of a code in them without penalty


def decode(
    session: CausalLogits,
    known_codes: Tensor,
    known_mask: Tensor,
    decoding: Decoding,
    *,
    pattern: Layout,
    rows: int | None = None,
) -> Tensor:
    """Decode the codes autoregressively; known codes are kept, and read at their step.

    Args:
        session: the model.
        known_codes: int64 [B, K, T]; only what `known_mask` marks is read.
        known_mask: bool [B, K, T].
        decoding: its config's `use_sampling`, `temperature`, `top_k`, `top_p`, `cfg_coef`,
            `coherence_boost`, `frequency_penalty` and repeats are used, without annealing.
        pattern: layout of the codes in the sequence.
        rows: decode only this many steps of the sequence (hybrid decoding); default all.

    Returns:
        int64 [B, K, T]; the mask id beyond `rows`.
    """
    config, special = decoding.config, decoding.mask_id
    batch, streams, frames = known_codes.shape
    total = pattern.steps(frames) if rows is None else min(rows, pattern.steps(frames))
    sampler = Sampler(required(config.use_sampling), required(config.top_p), required(config.top_k))
    temperature = max(required(config.temperature), MIN_TEMPERATURE)
    coef = required(config.cfg_coef)
    boost, penalty = required(config.coherence_boost), required(config.frequency_penalty)
    nats = repeats(config, decoding.bars)

    sequence = pattern.apply(torch.where(known_mask, known_codes, special), special)
    real = pattern.valid(frames).to(sequence.device)  # [K, S]
    open_ = pattern.apply((~known_mask).long(), 0).bool()  # [B, K, S]
    # All steps before the first one to decode are read in one call.
    start = int(open_.any(0).any(0).long().argmax()) if bool(open_.any()) else total
    start = min(max(start, 1), total)
    session.reset(total, guidance_matters(coef), SHORT_CONTEXT if boost else 0)
    read = 0
    for step in range(start, total):
        cond, null, short = session.step(sequence[:, :, read:step])
        read = step
        guided = coherent(guide(cond, null, coef), cond, short, boost)
        if penalty:
            before = sequence[:, :, max(0, step - PENALTY_WINDOW) : step]
            guided = guided - penalty * too_often(before, guided.shape[-1])
        if nats:
            guided = likelier_next(
                guided, sequence[..., :step], decoding.bars, nats, decoding.sections
            )
        drawing = open_[:, :, step].any(-1).tolist()
        noise = uniform_noise(decoding.generators, drawing, streams, sequence.device)
        tokens, _ = sampler(guided.flatten(0, 1), temperature, noise.flatten())
        write = open_[:, :, step] & real[:, step]
        sequence[:, :, step] = torch.where(write, tokens.view(batch, streams), sequence[:, :, step])
        if decoding.on_step is not None:
            decoding.on_step(
                StepEvent(
                    part="autoregressive",
                    stage=0,
                    stages=1,
                    step=step,
                    steps=total - 1,
                    mask_rate=0.0,
                    cfg_coef=coef,
                    temperature=temperature,
                    remaining=int(open_[:, :, step + 1 : total].sum()),
                )
            )
    return pattern.revert(sequence, frames)


def too_often(before: Tensor, card: int) -> Tensor:
    """Number of occurrences of each code in the last steps in excess of `PENALTY_FREE`.

    This is the frequency penalty of language models (a token's logit falls with its number of occurrences),
    over a window, and with a number of occurrences exempt.

    Args:
        before: ids [B, K, n], the last steps; ids from `card` on are not codes.
        card: codes per stream.

    Returns:
        float32 [B, K, card].
    """
    shape = (*before.shape[:2], card + 1)
    counts = torch.zeros(shape, dtype=torch.float32, device=before.device)
    counts.scatter_add_(-1, before.clamp(max=card), torch.ones_like(before, dtype=counts.dtype))
    return (counts[..., :card] - PENALTY_FREE).clamp(min=0)


@dataclass(frozen=True)
class Prefix:
    """The part of a hybrid clip that is decoded autoregressively."""

    pattern: Layout  # of the model that decodes it
    frames: int  # minimum whole frames of every stream
    diagonal: bool  # True: keep all codes of its steps, also later frames of less delayed streams

    @property
    def rows(self) -> int:
        """Steps of the delay layout, including the special one."""
        return self.pattern.steps(self.frames)

    def kept(self, frames: int) -> Tensor:
        """The codes that the masked stages keep, bool [K, T], for a clip of `frames` frames."""
        kept = self.pattern.rows_within(self.rows if self.diagonal else 0, frames)
        if not self.diagonal:
            kept[:, : self.frames] = True
        return kept


def decode_hybrid(
    session: CausalLogits,
    logits: StageLogits,
    known_codes: Tensor,
    known_mask: Tensor,
    decoding: Decoding,
    *,
    prefix: Prefix,
    prefix_config: DecodingConfig,
) -> Tensor:
    """Hybrid decoding: decode a prefix autoregressively, then the rest by masked stages around it.

    There are two variants. A hybrid-trained model continues its own rows: all codes in the first steps of the
    delay layout are kept, a prefix cut along the diagonal, as in training. A masked model has no delay
    layout: another model decodes the prefix, of which whole frames are kept.

    Each item's generator draws K numbers for each autoregressive step that has a code to decode, then the
    numbers of the masked stages.

    Args:
        session: the model that decodes the prefix.
        logits: the model that decodes the rest; it must lay out `prefix.rows` itself.
        known_codes: int64 [B, K, T]; only what `known_mask` marks is read.
        known_mask: bool [B, K, T]; these codes are kept, in the prefix, too.
        decoding: for the rest; the prefix draws from the same generators.
        prefix_config: settings of the prefix.

    Returns:
        int64 [B, K, T].
    """
    behind = sum(required(decoding.config.decoding_steps))

    def on_step(event: StepEvent) -> None:
        if decoding.on_step is not None:
            decoding.on_step(replace(event, later=behind))

    written = decode(
        session,
        known_codes,
        known_mask,
        replace(decoding, config=prefix_config, on_step=on_step),
        pattern=prefix.pattern,
        rows=prefix.rows,
    )
    kept = known_mask | prefix.kept(known_mask.shape[-1]).to(known_mask.device)
    codes = torch.where(known_mask, known_codes, written)
    return iterative.decode(logits, codes, kept, decoding)
