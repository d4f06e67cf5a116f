"""Autoregressive decoding in the delay pattern (MusicGen, section 2.2; audiocraft's `LMModel.generate`): a
whole clip, or its first frames, which masked stages then continue (the MAGNeT paper, "Hybrid-MAGNeT").

The loop knows no model: it is given a session that takes steps and remembers them.
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
    uniform_noise,
)
from magnet_cli.settings import DecodingConfig, required

# Writing step by step may get stuck, for two reasons. A model that reads its last second more than all
# before it goes on as that second was: coherence boosting contrasts the two.
SHORT_CONTEXT = 15  # steps: 0.6 s at 25 frames a second
# And a held code becomes its own likeliest successor: a frequency penalty makes it less likely, once it has
# been held longer than in most music.
PENALTY_WINDOW = 50  # frames: 2 s at 25 a second
PENALTY_FREE = 30  # times a code may stand in them


def decode(
    session: CausalLogits,
    known_codes: Tensor,
    known_mask: Tensor,
    decoding: Decoding,
    *,
    pattern: Layout,
    rows: int | None = None,
) -> Tensor:
    """Write the codes step by step; what is known is kept and read when its step comes.

    Args:
        session: the model.
        known_codes: int64 [B, K, T]; only what `known_mask` marks is read.
        known_mask: bool [B, K, T].
        decoding: of its config `use_sampling`, `temperature`, `top_k`, `top_p`, `cfg_coef`,
            `coherence_boost` and `frequency_penalty` are read, not annealed.
        pattern: where codes stand in the sequence.
        rows: write only this many steps of the sequence (hybrid decoding); default all.

    Returns:
        int64 [B, K, T]; what lies past `rows` is the mask id.
    """
    config, special = decoding.config, decoding.mask_id
    batch, streams, frames = known_codes.shape
    total = pattern.steps(frames) if rows is None else min(rows, pattern.steps(frames))
    sampler = Sampler(required(config.use_sampling), required(config.top_p), required(config.top_k))
    temperature = max(required(config.temperature), MIN_TEMPERATURE)
    coef = required(config.cfg_coef)
    boost, penalty = required(config.coherence_boost), required(config.frequency_penalty)
    repeat = required(config.bar_repeat)

    sequence = pattern.apply(torch.where(known_mask, known_codes, special), special)
    real = pattern.valid(frames).to(sequence.device)  # [K, S]
    open_ = pattern.apply((~known_mask).long(), 0).bool()  # [B, K, S]
    # Steps before the first open one are read in one go.
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
        if repeat and any(decoding.bars):
            guided = likelier_next(guided, sequence[..., :step], decoding.bars, repeat)
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
    """How many times more than `PENALTY_FREE` each code occurs in the last steps.

    A frequency penalty as language models are sampled with (the logit of a token falls with its number of
    occurrences), over a window, and without a penalty for what is usual.

    Args:
        before: ids [B, K, n], the last steps; ids from `card` on are not codes.
        card: codes of a stream.

    Returns:
        float32 [B, K, card].
    """
    shape = (*before.shape[:2], card + 1)
    counts = torch.zeros(shape, dtype=torch.float32, device=before.device)
    counts.scatter_add_(-1, before.clamp(max=card), torch.ones_like(before, dtype=counts.dtype))
    return (counts[..., :card] - PENALTY_FREE).clamp(min=0)


@dataclass(frozen=True)
class Prefix:
    """What is written autoregressively."""

    pattern: Layout  # of the model that writes it
    frames: int  # whole frames of every stream, at least
    diagonal: bool  # True: keep all codes of its steps, also those of streams that run ahead

    @property
    def rows(self) -> int:
        """Steps of the delay layout, the special one included."""
        return self.pattern.steps(self.frames)

    def kept(self, frames: int) -> Tensor:
        """bool [K, T] of a clip of `frames` frames: the codes that are fixed when the masked stages
        begin."""
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
    """Hybrid decoding: write the prefix, then fill in the rest by masked stages with the prefix fixed.

    Two ways, with one difference. A hybrid-trained model continues its own rows: everything in the
    first steps of the delay layout is kept, a prefix cut along the diagonal, as in training. A masked model
    has no delay layout: another model writes, and whole frames of it are kept.

    Each item's generator is drawn from in this order: K numbers for each autoregressive step that has
    a code to write, then what the masked stages draw.

    Args:
        session: the model that writes the prefix.
        logits: the model that fills in the rest; it must lay out `prefix.rows` itself.
        known_codes: int64 [B, K, T]; only what `known_mask` marks is read.
        known_mask: bool [B, K, T]; these codes stay as they are, in the prefix too.
        decoding: of the rest; the prefix draws from the same generators.
        prefix_config: of the prefix, in place of the rest's.

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
