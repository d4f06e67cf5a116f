"""Masked decoding: one stream at a time, a few parallel steps each (paper, section 3; Algorithm 1).

Each step masks, guides, samples, scores the spans and masks the least certain ones again. Details that
released checkpoints depend on follow the reference's `_generate_stage`. Three additions: a stage may
be a group of streams, each masked at frames of its own; spans may be decided in an order spread evenly over
time, or block after block, instead of by certainty; and later stages may take the mean instead of a sample.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
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
    likelier,
    nearest_to_mean,
    repeats,
    uniform_noise,
)
from magnet_cli.errors import MagnetError
from magnet_cli.masking import (
    frames_to_spans,
    mask_rates,
    masked_counts,
    spans_to_frames,
    spread_ranks,
    stride1_mask,
    top_mask,
)
from magnet_cli.settings import DecodingConfig, required

Noise = Callable[[int], Tensor]  # draws float32 [B, n] in [0, 1)
# The score of decided spans, below any other, so that they are never masked again.
DECIDED = -1e4


def decode(
    logits: StageLogits, known_codes: Tensor, known_mask: Tensor, decoding: Decoding
) -> Tensor:
    """Decode all unknown codes, stage by stage.

    Args:
        logits: the model.
        known_codes: int64 [B, K, T]; only what `known_mask` marks is read.
        known_mask: bool [B, K, T]; these codes are visible from the start and never changed.
        decoding: see `Decoding`.

    Returns:
        int64 [B, K, T].
    """
    codes = torch.where(known_mask, known_codes, decoding.mask_id)
    stages = decoding.stages or [(stream,) for stream in range(codes.shape[1])]
    for stage, streams in enumerate(stages):
        known = known_mask[:, list(streams)]
        if not bool(known.all()):
            decode_stage(logits, codes, known, stage, stages, decoding)
    return codes


def decode_stage(
    logits: StageLogits,
    codes: Tensor,
    known: Tensor,
    stage: int,
    stages: Sequence[Sequence[int]],
    decoding: Decoding,
) -> None:
    """Decode the G streams of a stage in `codes` [B, K, T], in place; keeps codes `known`, bool [B, G, T].

    Each stream has an order of its own: codes of one frame depend on each other, and are seldom decided at
    the same step.
    """
    config, streams = decoding.config, list(stages[stage])
    nats = repeats(config, decoding.bars)
    sampler = Sampler(required(config.use_sampling), required(config.top_p), required(config.top_k))

    def noise(count: int) -> Tensor:  # [B * G, count]; items with nothing to decode draw none
        each = len(streams) * count
        return uniform_noise(decoding.generators, drawing, each, codes.device).view(-1, count)

    sound = required(config.sound_temperature)
    tempoless = decoding.tempoless or [False] * len(known)
    sounds = torch.tensor(tempoless, device=codes.device)
    steady = sound * sounds.float() if sound else None
    drawing = (~known).flatten(1).any(-1).tolist()
    rows = known.flatten(0, 1)
    # Later stages refine what the first has decided, and need no blocks.
    by_score = config.span_order == "certainty"
    block_len = decoding.block_len if config.span_order == "blocks" and not stage else 0
    by_mean = stage > 0 and config.later_codes == "mean"
    steps = required(config.decoding_steps)[stage]
    spans = Spans(config, rows) if by_score else Spread(config, rows, noise, block_len, steps)
    mask = spans.first_mask().view_as(known)
    for step in schedule(config, steps, spans.blocks):
        later = torch.zeros_like(mask)
        if isinstance(spans, Spread):  # needs no tokens: none sampled
            later = spans.next_mask(step.block, step.next_rate).view_as(known)
        asked = mask & ~later
        codes[:, streams] = codes[:, streams].masked_fill(mask & ~known, decoding.mask_id)
        numbers = noise(known.shape[-1]).view_as(known)
        token_probs = numbers.new_zeros(0)
        # With few frames and many steps, some steps of the spread order have nothing to decide.
        if bool(asked.any()):
            end = spans.end(step.block)
            guiding = not by_mean and guidance_matters(step.cfg_coef)
            cond, null = logits(codes, stage, asked, guiding, end)
            guided = guide(cond, null, step.cfg_coef)
            if nats and not by_mean:
                guided = likelier(
                    guided, codes, streams, asked, decoding.bars, nats, decoding.sections
                )
            last = required(config.temperature) if by_mean else step.temperature
            temperature: float | Tensor = last
            if steady is not None:  # per item, and so for each row
                each = steady.where(steady > 0, last)
                temperature = each[asked.nonzero()[:, 0]]
            tokens, token_probs = sampler(guided, temperature, numbers[asked])
            if by_mean:  # but sounds without a tempo are often noise, whose details are random
                music = ~sounds[asked.nonzero()[:, 0]]
                chosen = asked & ~sounds[:, None, None]
                books = required(decoding.codebooks)
                nearest = nearest_to_mean(guided[music], books, streams, chosen)
                tokens[music], token_probs[music] = nearest
            here = codes[:, streams]
            codes[:, streams] = torch.where(known, here, here.masked_scatter(asked, tokens))
        rescorer_seconds = 0.0
        if step.next_rate is None or isinstance(spans, Spread):
            mask = later
        else:
            probs = torch.ones_like(numbers).masked_scatter(asked, token_probs)
            if decoding.rescore is not None:
                began = time.perf_counter()
                probs = decoding.rescore(codes, streams, probs)
                rescorer_seconds = time.perf_counter() - began
            if config.score_noise:
                scale = config.score_noise * float(step.next_rate)
                probs = disturbed(probs, scale, noise(known.shape[-1]).view_as(known))
            mask = spans.next_mask(probs.view_as(rows), mask.view_as(rows), step.next_rate)
            mask = mask.view_as(known)
        if decoding.on_step is not None:
            decoding.on_step(
                StepEvent(
                    part="masked",
                    stage=stage,
                    stages=len(stages),
                    step=step.number,
                    steps=step.of,
                    mask_rate=step.rate,
                    cfg_coef=1.0 if by_mean else step.cfg_coef,
                    temperature=0.0
                    if by_mean
                    else max(sound * tempoless[0] or step.temperature, MIN_TEMPERATURE),
                    remaining=int((mask & ~known).sum()),
                    rescorer_seconds=rescorer_seconds,
                    streams=tuple(streams),
                    later=sum(required(config.decoding_steps)[stage + 1 :]),
                )
            )


@dataclass(frozen=True)
class Step:
    """The parameters of one step of a stage."""

    number: int  # from 1
    of: int
    block: int  # from 0
    rate: float  # share of the block's open spans that is masked
    next_rate: Tensor | None  # float32 scalar, the block's next rate; None: this is its last step
    cfg_coef: float
    temperature: float


def schedule(config: DecodingConfig, steps: int, blocks: int = 1) -> Iterator[Step]:
    """The steps of a stage: in every block cosine mask rates, with guidance and temperature annealed."""
    number = 0
    for block in range(blocks):
        within = steps // blocks + (block < steps % blocks)
        rates = mask_rates(within)
        for step, rate in enumerate(rates.tolist()):
            number += 1
            temperature = required(config.temperature)
            if config.anneal_temperature:
                final = min(temperature, required(config.final_temperature))
                temperature = final + (temperature - final) * ((within - 1 - step) / within)
            yield Step(
                number=number,
                of=steps,
                block=block,
                rate=rate,
                next_rate=rates[step + 1] if step + 1 < within else None,
                cfg_coef=annealed_coef(
                    rate, required(config.max_cfg_coef), required(config.min_cfg_coef)
                ),
                temperature=temperature,
            )


class Spans:
    """Arrangement and scoring of the spans of one stage; `known` is bool [B, T], a row per stream."""

    blocks = 1

    def __init__(self, config: DecodingConfig, known: Tensor) -> None:
        self.known = known
        self.span_len = required(config.span_len)
        # With one-frame spans both arrangements mask the least certain frames.
        self.stride1 = config.span_arrangement == "stride1" or self.span_len == 1
        self.scoring = required(config.span_scoring)
        # The units of masking: frames under stride1, otherwise spans of the grid that are not entirely
        # known. A partly known span is generated.
        self.open = ~known
        if not self.stride1:
            self.open = ~frames_to_spans(known, self.span_len, True).all(-1)

    def first_mask(self) -> Tensor:
        """The mask of the first step, bool [B, T]: everything open."""
        return self._frames(self.open)

    def end(self, block: int) -> int:
        """The frame before which all decisions of a block are."""
        return self.known.shape[-1]

    def next_mask(self, probs: Tensor, mask: Tensor, rate: Tensor) -> Tensor:
        """Mask the least certain of the spans just predicted: bool [B, T].

        Args:
            probs: float32 [B, T], the probability of each sampled token.
            mask: bool [B, T], frames predicted at this step.
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


class Spread:
    """Decides spans in an order spread evenly over time; `known` is bool [B, T], a row per stream.

    Codes decoded in one step are sampled independently, and frames that are far apart are nearly independent
    (the Halton scheduler: Besnier et al., 2025, arXiv 2503.17076; in one dimension van der Corput's sequence,
    here rotated randomly for each stream of an item). Scores are not used. Under stride1 the grid of the
    spans starts at a random frame. Blocks of `block_len` frames (0: all) are decided one after another, each
    in such an order and in its share of the `steps` (block diffusion: Arriola et al., 2025, arXiv
    2503.09573); frames after it are not computed, unless codes of them are known. With fewer steps than
    blocks the blocks are longer.
    """

    def __init__(
        self, config: DecodingConfig, known: Tensor, noise: Noise, block_len: int, steps: int
    ) -> None:
        span_len, frames = required(config.span_len), known.shape[-1]
        turn, start = noise(2).unbind(-1)
        first = (start * (span_len if config.span_arrangement == "stride1" else 0)).floor().long()
        places = (torch.arange(frames, device=known.device) + first[:, None]) // span_len
        # The same number of blocks for every item: it may not depend on the others of a batch.
        count = -(-frames // span_len)
        size = max(block_len // span_len, -(-count // steps)) if block_len else count
        self.blocks = -(-count // size)
        block_of = torch.arange(int(places.max()) + 1, device=known.device) // size
        block_of = block_of.clamp(max=self.blocks - 1)
        spans = known.new_zeros(len(known), len(block_of))
        open_ = spans.scatter_reduce(-1, places, ~known, "amax")
        of_each = block_of == torch.arange(self.blocks, device=known.device)[:, None]
        self._counts = (open_[:, None] & of_each).sum(-1)  # [B, blocks]
        ranks = torch.zeros(open_.shape, dtype=torch.int64, device=known.device)
        for inside in of_each:
            ranks = torch.where(inside, spread_ranks(open_ & inside, turn), ranks)
        # The block of each frame, and the rank of its span in the order of the block, from 0; -1: known.
        self._block, self._size = block_of[places], size * span_len
        self._ranks = ranks.gather(-1, places).masked_fill(known, -1)

    def first_mask(self) -> Tensor:
        """The mask of the first step, bool [B, T]: everything open."""
        return self._ranks >= 0

    def end(self, block: int) -> int:
        """The frame before which all decisions of a block are, the same for every item."""
        frames = self._block.shape[-1]
        return frames if block + 1 == self.blocks else min((block + 1) * self._size, frames)

    def next_mask(self, block: int, rate: Tensor | None) -> Tensor:
        """Later blocks, and the spans of a block still masked at a mask rate (None: 0): bool [B, T]."""
        later = self._block > block
        if rate is not None:
            count = self._counts[:, block]
            decided = count - masked_counts(rate, count)
            later |= (self._block == block) & (self._ranks >= decided[:, None])
        return later & (self._ranks >= 0)


def rescoring(code_probs: CodeProbs, weight: float, streams: Sequence[int]) -> Rescore | None:
    """Return a function that mixes a rescorer's probabilities of the sampled codes into the span scores.

    After each step except a stream's last, a causal model reads the completed stream once, in parallel;
    w * p + (1 - w) * p_rescorer replaces p in the span scores (the paper, "Model rescorer"). This changes
    which spans are masked again, not the sampling; no random numbers are drawn.

    Args:
        code_probs: the rescorer.
        weight: the model's weight w, 0..1; at 1 the rescorer is not needed.
        streams: the streams to rescore.

    Returns:
        None at weight 1.
    """
    if weight == 1:
        return None

    def rescore(codes: Tensor, stage_streams: Sequence[int], probs: Tensor) -> Tensor:
        asked = [stream in streams for stream in stage_streams]
        if not any(asked):
            return probs
        opinion = code_probs(codes, stage_streams)
        if not bool(torch.isfinite(opinion).all()):
            raise MagnetError(
                "The rescorer's output is NaN or infinite.",
                "Try --dtype float32; if that fails, too, its checkpoint is damaged.",
            )
        mixed = weight * probs + (1 - weight) * opinion
        # The scores' logarithm must stay finite for codes whose probability is 0.
        mixed = mixed.clamp(min=torch.finfo(mixed.dtype).tiny)
        return torch.where(torch.tensor(asked, device=probs.device)[:, None], mixed, probs)

    return rescore
