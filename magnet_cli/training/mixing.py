"""Mixed pairs of clips, as AudioGen was trained with (arXiv 2209.15352, section 3.4)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from magnet_cli.data.manifests import Clip
from magnet_cli.training.batches import keyed_generator


def mixed_pairs(
    clips: int, share: float, most: float, seed: int
) -> Iterator[tuple[int, int, float]]:
    """Two different clips and a signal-to-noise ratio in dB, for each pair to mix.

    Args:
        clips: how many there are.
        share: of pairs, for each clip.
        most: ratios are drawn from -most to most.
    """
    if clips < 2:
        return
    generator = keyed_generator(seed, "mix")
    for _ in range(round(share * clips)):
        first, second = torch.randperm(clips, generator=generator)[:2].tolist()
        spread = float(torch.rand((), generator=generator)) * 2 - 1
        yield first, second, spread * most


def mix(a: Tensor, b: Tensor, snr: float) -> Tensor:
    """Two sounds [C, N], [C, M] as one of the longer's length, a louder than b by `snr` dB.

    The sum is scaled to the level of a, and below clipping (AudioGen, section 3.4).
    """
    length = max(a.shape[1], b.shape[1])
    a, b = (torch.nn.functional.pad(x, (0, length - x.shape[1])) for x in (a, b))
    level_a, level_b = (x.square().mean().sqrt().clamp(min=1e-5) for x in (a, b))
    both = a + b * (level_a / level_b) * 10 ** (-snr / 20)
    both = both * (level_a / both.square().mean().sqrt().clamp(min=1e-5))
    return both / both.abs().max().clamp(min=1.0)


def joined_captions(a: Clip, b: Clip) -> tuple[str, ...]:
    """The captions of a mixed pair: both texts, in either order."""
    count = max(len(a.captions), len(b.captions))
    return tuple(
        dict.fromkeys(
            f"{a.captions[i % len(a.captions)]} and {b.captions[i % len(b.captions)]}"
            for i in range(count)
        )
    )
