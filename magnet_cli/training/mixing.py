"""Mixed pairs of clips, as in AudioGen's training (arXiv 2209.15352, section 3.4)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from magnet_cli.data.manifests import Clip
from magnet_cli.training.batches import keyed_generator


def mixed_pairs(
    clips: int, share: float, most: float, seed: int
) -> Iterator[tuple[int, int, float]]:
    """Yield two different clips and a signal-to-noise ratio in dB for each pair to mix.

    Args:
        clips: number of clips.
        share: pairs per clip.
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
    """Mix [C, N] and [C, M] to the longer length, with a louder than b by `snr` dB.

    The sum is scaled to the level of a, without clipping (AudioGen, section 3.4).
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
