"""The mask schedule and span masks, one implementation for training and decoding.

Sources: the paper, section 3.1 (spans, the mask schedule; the restricted context of 3.2 is part of the
attention); the reference's `magnet.py` (solver and language model). Counts use float32 as there: at 10 steps,
step 6 has the rate 0.49999997, and of 166 spans 82 are masked, not 83.
"""

from __future__ import annotations

import bisect
import functools
import math

import torch
from torch import Tensor


def mask_rates(steps: int) -> Tensor:
    """float32 [steps]: the share of spans masked at each decoding step, from 1 to ~0."""
    return torch.cos(
        torch.linspace(0, 1, steps, dtype=torch.float32, device="cpu") * (math.pi * 0.5)
    )


def masked_counts(rate: Tensor, counts: Tensor) -> Tensor:
    """Number of `counts` int [B] spans that a rate (float32 scalar) masks: at least one if there is any."""
    wanted = (rate * counts.float()).to(torch.int64)
    return torch.minimum(wanted.clamp(min=1), counts)


def spans_to_frames(spans: Tensor, span_len: int, frames: int) -> Tensor:
    """Repeat each span's value [..., n] at all of its frames: [..., frames]."""
    return spans.repeat_interleave(span_len, dim=-1)[..., :frames]


def frames_to_spans(frames: Tensor, span_len: int, fill: float) -> Tensor:
    """Cut frames [..., T] into spans [..., n, span_len], padding the last with `fill`."""
    missing = -frames.shape[-1] % span_len
    padded = torch.nn.functional.pad(frames, (0, missing), value=fill)
    return padded.unflatten(-1, (-1, span_len))


def top_mask(scores: Tensor, counts: Tensor) -> Tensor:
    """Mark the `counts` [B] highest scores of each row [B, n], the first among equals: bool [B, n]."""
    order = scores.argsort(dim=-1, descending=True, stable=True)
    rank = torch.arange(scores.shape[-1], device=scores.device).expand_as(order)
    return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, order, rank < counts[:, None])


def spread_ranks(open_: Tensor, turn: Tensor) -> Tensor:
    """Rank the open places in an order whose every beginning is spread evenly over them.

    The order is van der Corput's sequence: the numbers with their bits reversed.

    Args:
        open_: bool [B, n], the places to decide.
        turn: float [B] in [0, 1), rotates the order by this share of the open places.

    Returns:
        int64 [B, n], ranks from 0; -1 where a place is not open.
    """
    size = open_.shape[-1]
    bits = max(size - 1, 1).bit_length()
    numbers = torch.arange(1 << bits, device=open_.device)
    reversed_ = torch.zeros_like(numbers)
    for bit in range(bits):
        reversed_ |= ((numbers >> bit) & 1) << (bits - 1 - bit)
    counts = open_.sum(-1, keepdim=True)  # [B, 1]
    # ranks[b, i]: how many of the first i numbers are below the item's count.
    ranks = (reversed_[None] < counts).cumsum(-1) - 1
    of_place = torch.zeros_like(ranks).scatter(-1, reversed_.expand_as(ranks), ranks)
    places = open_.cumsum(-1) - 1  # index among the open places
    turned = (places + (turn[:, None] * counts).floor().long()) % counts.clamp(min=1)
    return of_place.gather(-1, turned.clamp(min=0)).masked_fill(~open_, -1)


def cover(starts: Tensor, span_len: int) -> Tensor:
    """Span starts bool [..., T] -> frames covered bool [..., T], clipped at the right edge."""
    covered = starts.clone()
    for shift in range(1, span_len):
        covered[..., shift:] |= starts[..., :-shift]
    return covered


def stride1_mask(scores: Tensor, targets: Tensor, span_len: int) -> Tensor:
    """Mask the highest-scored overlapping spans, covering about `targets` frames.

    A span's score is the sum over its frames. The number of spans u is found by bisection between
    target // span_len and target - span_len + 1; the mask of the last u tried is the result, as in
    the reference's `_least_probable_span_masking`, here for all items at once.

    Args:
        scores: float [B, T], high for frames to mask.
        targets: int [B], frames to mask, at least one span.
        span_len: frames in a span.

    Returns:
        bool [B, T].
    """
    frames = scores.shape[-1]
    span_len = min(span_len, frames)
    span_scores = scores.unfold(-1, span_len, 1).sum(-1)
    order = span_scores.argsort(dim=-1, descending=True, stable=True)
    # rank[b, s]: rank of the span that starts at s; frames after the last start have none.
    rank = torch.full(scores.shape, frames, dtype=torch.int64, device=scores.device)
    places = torch.arange(order.shape[-1], device=scores.device).expand_as(order)
    rank.scatter_(-1, order, places)

    target = targets.clamp(min=span_len)
    low, high = target // span_len, target - span_len + 1
    # Tensor.round rounds halves to even, as Python's round() does.
    middle = (0.5 * (low + high)).round().to(torch.int64)
    mask = cover(rank < middle[:, None], span_len)
    open_ = (middle > low) & (middle < high)
    while bool(open_.any()):
        tried = cover(rank < middle[:, None], span_len)
        mask = torch.where(open_[:, None], tried, mask)
        above = tried.sum(-1) > target
        high = torch.where(open_ & above, middle, high)
        low = torch.where(open_ & ~above, middle, low)
        middle = torch.where(open_, (0.5 * (low + high)).round().to(torch.int64), middle)
        open_ = open_ & (middle > low) & (middle < high)
    return mask


@functools.lru_cache(maxsize=32)
def span_start_table(frames: int, span_len: int) -> tuple[int, ...]:
    """The fewest span starts that reach each mask rate 0 %, 1 %, ..., 100 % on average.

    u random overlapping spans mask 1 - C(T-L, u) / C(T, u) of the frames (paper, 3.1), here a running product
    of ratios instead of huge binomials.
    """
    rates, unmasked = [0.0], (frames - span_len) / frames
    for u in range(1, frames):
        rates.append(1.0 - unmasked)
        unmasked *= max(frames - span_len - u, 0) / (frames - u)
    return tuple(bisect.bisect_left(rates, percent / 100) for percent in range(101))


def training_mask(rates: Tensor, noise: Tensor, span_len: int) -> Tensor:
    """Random span masks at the given rates (the reference's `_get_mask`).

    Args:
        rates: float [B], mask rates in 0..1.
        noise: float [B, T], uniform; determines where spans start.
        span_len: frames in a span.

    Returns:
        bool [B, T]; at least one span per item.
    """
    frames = noise.shape[-1]
    # argsort instead of ranks, as in the reference; both are uniform.
    places = noise.argsort(dim=-1)
    if span_len <= 1:
        starts = (rates * frames).round().clamp(min=1)
        return places < starts[:, None]
    table = torch.tensor(span_start_table(frames, span_len), device=noise.device)
    starts = table[(rates * 100).round().to(torch.int64).clamp(0, 100)].clamp(min=1)
    return cover(places < starts[:, None], span_len)
