"""From logits to tokens: guidance, repeated bars, temperature, top-k, top-p; one generator per item, always
required.

The generators live on the CPU whatever the device, and each item draws from its own, so that a
seed means the same noise alone, in a batch and on any device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from magnet_cli.errors import MagnetError

# The reference's floor: annealed temperatures reach 0 at the last step.
MIN_TEMPERATURE = 1e-2

# The annealed coefficient ends at 1 up to rounding, where guidance changes nothing.
NO_GUIDANCE = 1e-6

# Music repeats its bars, and where a bar is a whole number of frames its codes repeat with it: in held-out
# clips of the built-in model's kind, a code of the four coarse streams is the same as two bars before in four
# to seven of ten frames, three frames beside that in one of ten. A small model does not see this by itself.
# Bars from a frame to those that it is held against; what is written step by step knows those behind it.
AWAY = (-2, -1, 1, 2)

# Rows that are drawn at once: sorting takes several times the memory of the logits, and a batch of
# long clips has tens of thousands of rows. Rows are independent of each other, so the draws are the same.
ROWS = 2048


def make_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator per item."""
    return [torch.Generator(device="cpu").manual_seed(seed) for seed in seeds]


def uniform_noise(
    generators: Sequence[torch.Generator],
    drawing: Sequence[bool],
    count: int,
    device: torch.device,
) -> Tensor:
    """float32 [B, count] in [0, 1): row b drawn from generator b, zeros where it does not draw."""
    rows = [
        torch.rand(count, generator=generator, dtype=torch.float32, device="cpu")
        if draws
        else torch.zeros(count, dtype=torch.float32, device="cpu")
        for generator, draws in zip(generators, drawing, strict=True)
    ]
    return torch.stack(rows).to(device)


def annealed_coef(mask_rate: float, max_coef: float, min_coef: float) -> float:
    """λ = rate * max + (1 - rate) * min: strong while most is masked, weak at the end.

    The paper, section 3.4 and equation 10.
    """
    return mask_rate * max_coef + (1 - mask_rate) * min_coef


def guidance_matters(coef: float) -> bool:
    """Whether the unconditional half is needed at all."""
    return abs(coef - 1.0) >= NO_GUIDANCE


def coherent(guided: Tensor, cond: Tensor, short: Tensor | None, boost: float) -> Tensor:
    """guided + (cond - short) * boost: towards what only the whole context makes likely.

    Coherence boosting (Malkin, Wang and Jojic, 2022, arXiv 2110.08294): what a short context predicts as
    well counts for less than what only the long one predicts, such as that the beat goes on. Applied to
    guided logits, in the paper to plain ones.
    """
    return guided if short is None else guided + (cond - short) * boost


def guide(cond: Tensor, null: Tensor | None, coef: float) -> Tensor:
    """null + (cond - null) * λ; `cond` alone where there is nothing to guide against."""
    return cond if null is None else null + (cond - null) * coef


def likelier(
    guided: Tensor,
    codes: Tensor,
    streams: Sequence[int],
    asked: Tensor,
    bars: Sequence[float],
    nats: float,
) -> Tensor:
    """Logits of a masked stage, raised for the codes that stand a bar or two from where they are asked, so
    that a rhythm goes on. Nothing is copied: what the model rules out stays out.

    Args:
        guided: float32 [N * G, card], as of `contracts.StageLogits`.
        codes: int64 [B, K, T]; what is not below card is not decided.
        streams: the G of the stage.
        asked: bool [B, T], N of them true.
        bars: frames a bar, of each item; 0: it has no tempo.
        nats: for each time that a code stands there.
    """
    card = guided.shape[-1]
    item, frame = asked.nonzero(as_tuple=True)
    own = codes[:, list(streams)]
    raised = guided.view(len(item), len(streams), card)
    for lags in _lags(bars, AWAY, codes.device):
        place = frame + lags[item]
        there = (place >= 0) & (place < codes.shape[-1]) & (lags[item] != 0)
        found = own[item, :, place.clamp(0, codes.shape[-1] - 1)]  # [N, G]
        raised = _raised(raised, found, there[:, None] & (found < card), nats)
    return raised.view_as(guided)


def likelier_next(guided: Tensor, sequence: Tensor, bars: Sequence[float], nats: float) -> Tensor:
    """Logits [B, K, card] of the step after `sequence`, ids [B, K, S], raised in the same way.

    All streams are as late at every step, so a bar is as many steps as frames.
    """
    card, steps = guided.shape[-1], sequence.shape[-1]
    for lags in _lags(bars, AWAY[:2], sequence.device):
        place = steps + lags
        there = (place >= 0) & (lags != 0)
        index = place.clamp(0, steps - 1)[:, None, None].expand(-1, sequence.shape[1], 1)
        found = sequence.gather(-1, index)[..., 0]  # [B, K]
        guided = _raised(guided, found, there[:, None] & (found < card), nats)
    return guided


def _lags(bars: Sequence[float], away: Sequence[int], device: torch.device) -> list[Tensor]:
    """Frames to the same place of each bar, int64 [B]; 0 where there is no tempo."""
    length = torch.tensor(list(bars), dtype=torch.float64, device="cpu")
    return [(length * many).round().long().to(device) for many in away]


def _raised(logits: Tensor, found: Tensor, there: Tensor, nats: float) -> Tensor:
    """Logits [..., card] with those of the ids `found` [...] higher, where `there` is true."""
    ids = found.clamp(max=logits.shape[-1] - 1)[..., None]
    return logits.scatter_add(-1, ids, (there * nats).to(logits)[..., None])


@dataclass(frozen=True)
class Sampler:
    """How a token is drawn from logits."""

    use_sampling: bool
    top_p: float
    top_k: int

    def __call__(self, logits: Tensor, temperature: float, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draw one token a row.

        Args:
            logits: float32 [N, card], guided.
            temperature: not below `MIN_TEMPERATURE` in effect.
            noise: float32 [N] in [0, 1); one number a row decides the draw.

        Returns:
            Tokens int64 [N] and the probability of each, float32 [N] (what span scores use).

        Raises:
            MagnetError: the logits are not finite.
        """
        if not bool(torch.isfinite(logits).all()):
            raise MagnetError(
                "The model's output is not a number.",
                "Try --dtype float32; if it stays, the checkpoint is damaged.",
            )
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
    """The k most likely tokens, with all that tie with the last of them, renormalised. [..., card]."""
    kth = probs.topk(min(k, probs.shape[-1]), dim=-1).values[..., -1:]
    kept = probs * (probs >= kth)
    return kept / kept.sum(-1, keepdim=True)


def keep_top_p(probs: Tensor, p: float) -> Tensor:
    """Tokens in falling order until the sum before one exceeds p, renormalised. [..., card].

    Of tokens that tie, the first in order are kept. Only values are sorted: which tokens are kept follows
    from the smallest of them.
    """
    ordered = _falling(probs)
    kept = (ordered.cumsum(-1) - ordered <= p).sum(-1, keepdim=True)
    smallest = ordered.gather(-1, kept - 1)
    chosen = probs >= smallest
    if not torch.equal(
        chosen.sum(-1, keepdim=True), kept
    ):  # more tie with the smallest than are kept
        tie = probs == smallest
        more = chosen.sum(-1, keepdim=True) - kept
        chosen &= ~tie | (tie.cumsum(-1) <= tie.sum(-1, keepdim=True) - more)
    allowed = probs * chosen
    return allowed / allowed.sum(-1, keepdim=True)


def _falling(probs: Tensor) -> Tensor:
    """The values of each row, largest first."""
    if (
        probs.device.type == "cpu"
    ):  # numpy sorts by vector instructions, torch takes twenty times as long
        return torch.from_numpy(np.sort(probs.numpy(), axis=-1)).flip(-1)
    return probs.sort(dim=-1, descending=True).values


def draw(probs: Tensor, noise: Tensor) -> Tensor:
    """Inverse-transform sampling: probs [N, card] (need not sum to 1), noise [N] -> tokens [N]."""
    sums = probs.cumsum(-1)
    total = sums[:, -1:]
    tokens = torch.searchsorted(sums, noise[:, None] * total, right=True)
    # Rounding can put noise * total at the total itself: the last token that has any probability.
    return torch.minimum(tokens, (sums < total).sum(-1, keepdim=True))[:, 0]


def disturbed(probs: Tensor, scale: float, noise: Tensor) -> Tensor:
    """Probabilities for span scores, when the choice of spans is left to chance in part.

    log p + scale * Gumbel noise (MaskGIT's choice temperature; Chang et al., 2022, and its released
    code), brought back into 0..1 by a logistic function, which keeps the order.

    Args:
        probs: float32 [...], above 0.
        scale: 0 keeps the order; the larger, the nearer to a random one.
        noise: like probs, uniform in [0, 1).
    """
    tiny = torch.finfo(probs.dtype).tiny
    eps = torch.finfo(probs.dtype).eps
    gumbel = -(-noise.clamp(eps, 1 - eps).log()).log()
    return torch.sigmoid(probs.clamp(min=tiny).log() + scale * gumbel)
