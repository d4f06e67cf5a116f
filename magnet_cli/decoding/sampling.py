"""From logits to tokens: guidance, repeated bars, temperature, top-k, top-p.

Each item has its own generator on the CPU, whatever the device, so that a seed gives the same noise alone, in
a batch and on any device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from magnet_cli.errors import MagnetError
from magnet_cli.settings import DecodingConfig, required

# The reference's floor: annealed temperatures reach 0 at the last step.
MIN_TEMPERATURE = 1e-2

# The annealed coefficient ends at 1 up to rounding, where guidance has no effect.
NO_GUIDANCE = 1e-6

# Rows to sample at once: sorting takes several times the memory of the logits, and a batch of long clips has
# tens of thousands of rows. Rows are independent, so this does not change the result.
ROWS = 2048


def make_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator per item."""
    return [torch.Generator(device="cpu").manual_seed(seed) for seed in seeds]


def uniform_noise(
    generators: Sequence[torch.Generator], drawing: Sequence[bool], count: int, device: torch.device
) -> Tensor:
    """float32 [B, count] in [0, 1): row b from generator b, zeros unless `drawing[b]`."""
    rows = [
        torch.rand(count, generator=generator, dtype=torch.float32, device="cpu")
        if draws
        else torch.zeros(count, dtype=torch.float32, device="cpu")
        for generator, draws in zip(generators, drawing, strict=True)
    ]
    return torch.stack(rows).to(device)


def annealed_coef(mask_rate: float, max_coef: float, min_coef: float) -> float:
    """Annealed guidance λ = rate * max + (1 - rate) * min: strong while most is masked, weak at the end.

    The paper, section 3.4 and equation 10.
    """
    return mask_rate * max_coef + (1 - mask_rate) * min_coef


def guidance_matters(coef: float) -> bool:
    """Whether null logits are needed."""
    return abs(coef - 1.0) >= NO_GUIDANCE


def coherent(guided: Tensor, cond: Tensor, short: Tensor | None, boost: float) -> Tensor:
    """Coherence boosting: guided + (cond - short) * boost.

    Favours what only the full context predicts, such as that the beat continues, over what a short context
    predicts as well (Malkin, Wang and Jojic, 2022, arXiv 2110.08294). Applied to guided logits here, in the
    paper to plain ones.
    """
    return guided if short is None else guided + (cond - short) * boost


def guide(cond: Tensor, null: Tensor | None, coef: float) -> Tensor:
    """Classifier-free guidance: null + (cond - null) * λ, or `cond` if `null` is None."""
    return cond if null is None else null + (cond - null) * coef


def repeats(config: DecodingConfig, bars: Sequence[float]) -> dict[float, float]:
    """Nats for codes that occur some bars away, by that distance in bars; empty if no item has a tempo.

    A small model does not learn that 40 to 70 % of its music's coarse codes equal those two bars before.
    """
    bar, half = required(config.bar_repeat), required(config.half_bar_repeat)
    by_distance = {0.5: half, 1.0: bar, 2.0: bar} if any(bars) else {}
    return {away: nats for away, nats in by_distance.items() if nats}


def likelier(
    guided: Tensor,
    codes: Tensor,
    streams: Sequence[int],
    asked: Tensor,
    bars: Sequence[float],
    nats: Mapping[float, float],
    sections: Tensor | None = None,
) -> Tensor:
    """Raise a masked stage's logits for codes that occur some bars away, so that a rhythm continues.

    Codes that the model rules out remain unlikely.

    Args:
        guided: float32 [N, card], as from `contracts.StageLogits`.
        codes: int64 [B, K, T]; values from card on are undecided.
        streams: the G streams of the stage.
        asked: bool [B, G, T], N of them true.
        bars: frames per bar of each item; 0: no tempo.
        nats: added for an occurrence before or after, by its distance in bars (`repeats`).
        sections: int64 [T], codes of another section do not count; None: all count.
    """
    item, stream, frame = asked.nonzero(as_tuple=True)
    own = codes[:, list(streams)]
    for away in [side * away for away in nats for side in (-1, 1)]:
        lags = _lags(bars, away, codes.device)
        place = frame + lags[item]
        there = (place >= 0) & (place < codes.shape[-1]) & (lags[item] != 0)
        place = place.clamp(0, codes.shape[-1] - 1)
        if sections is not None:
            there &= sections[place] == sections[frame]
        found = own[item, stream, place]  # [N]
        guided = _raised(guided, found, there & (found < guided.shape[-1]), nats[abs(away)])
    return guided


def likelier_next(
    guided: Tensor,
    sequence: Tensor,
    bars: Sequence[float],
    nats: Mapping[float, float],
    sections: Tensor | None = None,
) -> Tensor:
    """As `likelier`, for logits [B, K, card] of the step after `sequence`, ids [B, K, S].

    Delays are constant, so a bar has as many steps as frames. Steps count as frames of `sections`: a stream
    changes its section early by its delay.
    """
    card, steps = guided.shape[-1], sequence.shape[-1]
    for away in nats:
        lags = _lags(bars, -away, sequence.device)
        place = steps + lags
        there = (place >= 0) & (lags != 0)
        if sections is not None:
            now, then = (at.clamp(0, len(sections) - 1) for at in (lags * 0 + steps, place))
            there &= sections[now] == sections[then]
        index = place.clamp(0, steps - 1)[:, None, None].expand(-1, sequence.shape[1], 1)
        found = sequence.gather(-1, index)[..., 0]  # [B, K]
        guided = _raised(guided, found, there[:, None] & (found < card), nats[away])
    return guided


def _lags(bars: Sequence[float], away: float, device: torch.device) -> Tensor:
    """Offsets in frames to the position so many bars away, int64 [B]; 0 without a tempo."""
    length = torch.tensor(list(bars), dtype=torch.float64, device="cpu")
    return (length * away).round().long().to(device)


def _raised(logits: Tensor, found: Tensor, there: Tensor, nats: float) -> Tensor:
    """Add `nats` to the logits [..., card] of the ids `found` [...] where `there` is true."""
    ids = found.clamp(max=logits.shape[-1] - 1)[..., None]
    return logits.scatter_add(-1, ids, (there * nats).to(logits)[..., None])


def check_finite(logits: Tensor) -> None:
    """Raise MagnetError if any logit is NaN or infinite."""
    if not bool(torch.isfinite(logits).all()):
        raise MagnetError(
            "The model's output is NaN or infinite.",
            "Try --dtype float32; if that fails, too, the checkpoint is damaged.",
        )


def nearest_to_mean(
    logits: Tensor, codebooks: Tensor, streams: Sequence[int], asked: Tensor
) -> tuple[Tensor, Tensor]:
    """Choose the codes whose vectors are nearest to the mean under the model's probabilities.

    Of all codes, these have the least expected squared error (minimum Bayes risk; Kumar and Byrne, 2004). A
    detail that is drawn but wrong is further from the right one than no detail at all.

    Args:
        logits: float32 [N, card], without guidance.
        codebooks: float32 [K, card, d].
        streams: the G streams of the stage.
        asked: bool [B, G, T], N of them true, in the order of the logits.

    Returns:
        Tokens int64 [N] and the probability of each, float32 [N].
    """
    check_finite(logits)
    tokens = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
    probs = torch.empty_like(logits[:, 0])
    item, place, _ = asked.nonzero(as_tuple=True)
    # One item at a time, so that its rounding does not depend on the others.
    for group in (item * len(streams) + place).unique().tolist():
        rows = item * len(streams) + place == group
        vectors = codebooks[streams[group % len(streams)]]
        likely = logits[rows].softmax(-1)
        nearest = vectors.square().sum(-1) - 2 * (likely @ vectors) @ vectors.T
        tokens[rows] = nearest.argmin(-1)
        probs[rows] = likely.gather(-1, tokens[rows][:, None])[:, 0]
    return tokens, probs


@dataclass(frozen=True)
class Sampler:
    """Samples tokens from logits."""

    use_sampling: bool
    top_p: float
    top_k: int

    def __call__(
        self, logits: Tensor, temperature: float | Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Sample one token per row.

        Args:
            logits: float32 [N, card], guided.
            temperature: of all rows, or float32 [N]; raised to `MIN_TEMPERATURE` if below.
            noise: float32 [N] in [0, 1); one number per row determines the sample.

        Returns:
            Tokens int64 [N] and the probability of each, float32 [N] (what span scores use).

        Raises:
            MagnetError: the logits are not finite.
        """
        check_finite(logits)
        if isinstance(temperature, Tensor):
            logits, temperature = logits / temperature.clamp(min=MIN_TEMPERATURE)[:, None], 1.0
        parts = [
            self._draw(rows, temperature, numbers)
            for rows, numbers in zip(logits.split(ROWS), noise.split(ROWS), strict=True)
        ]
        return torch.cat([tokens for tokens, _ in parts]), torch.cat([probs for _, probs in parts])

    def _draw(self, logits: Tensor, temperature: float, noise: Tensor) -> tuple[Tensor, Tensor]:
        probs = torch.softmax(logits / max(temperature, MIN_TEMPERATURE), dim=-1)
        if not self.use_sampling:
            tokens = logits.argmax(-1)
            return tokens, probs.gather(-1, tokens[:, None])[:, 0]
        if self.top_k > 0:
            probs = keep_top_k(probs, self.top_k)
        allowed = keep_top_p(probs, self.top_p) if self.top_p > 0 else probs
        tokens = draw(allowed, noise)
        return tokens, probs.gather(-1, tokens[:, None])[:, 0]


def keep_top_k(probs: Tensor, k: int) -> Tensor:
    """Keep the k most likely tokens and all that tie with the last, renormalised: [..., card]."""
    kth = probs.topk(min(k, probs.shape[-1]), dim=-1).values[..., -1:]
    kept = probs * (probs >= kth)
    return kept / kept.sum(-1, keepdim=True)


def keep_top_p(probs: Tensor, p: float) -> Tensor:
    """Keep tokens in descending order until the sum before one exceeds p, renormalised: [..., card].

    Among equal tokens the first are kept. Only the values are sorted; the smallest one kept determines which
    tokens are kept.
    """
    ordered = _falling(probs)
    kept = (ordered.cumsum(-1) - ordered <= p).sum(-1, keepdim=True)
    smallest = ordered.gather(-1, kept - 1)
    chosen = probs >= smallest
    # More tokens equal the smallest than are kept.
    if not torch.equal(chosen.sum(-1, keepdim=True), kept):
        tie = probs == smallest
        more = chosen.sum(-1, keepdim=True) - kept
        chosen &= ~tie | (tie.cumsum(-1) <= tie.sum(-1, keepdim=True) - more)
    allowed = probs * chosen
    return allowed / allowed.sum(-1, keepdim=True)


def _falling(probs: Tensor) -> Tensor:
    """Sort the values of each row in descending order."""
    if probs.device.type == "cpu":  # numpy sorts with SIMD, twenty times as fast as torch
        return torch.from_numpy(np.sort(probs.numpy(), axis=-1)).flip(-1)
    return probs.sort(dim=-1, descending=True).values


def draw(probs: Tensor, noise: Tensor) -> Tensor:
    """Inverse-transform sampling: probs [N, card] (need not sum to 1), noise [N] -> tokens [N]."""
    sums = probs.cumsum(-1)
    total = sums[:, -1:]
    tokens = torch.searchsorted(sums, noise[:, None] * total, right=True)
    # If rounding makes noise * total equal the total: the last token with nonzero probability.
    return torch.minimum(tokens, (sums < total).sum(-1, keepdim=True))[:, 0]


def disturbed(probs: Tensor, scale: float, noise: Tensor) -> Tensor:
    """Add noise to the probabilities that spans are scored by.

    log p + scale * Gumbel noise (MaskGIT's choice temperature; Chang et al., 2022, and its released code),
    mapped to 0..1 by a logistic function, which keeps the order.

    Args:
        probs: float32 [...], above 0.
        scale: 0 keeps the order; larger values make it more random.
        noise: like probs, uniform in [0, 1).
    """
    tiny = torch.finfo(probs.dtype).tiny
    eps = torch.finfo(probs.dtype).eps
    gumbel = -(-noise.clamp(eps, 1 - eps).log()).log()
    return torch.sigmoid(probs.clamp(min=tiny).log() + scale * gumbel)
