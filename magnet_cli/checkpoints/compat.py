"""Do two models share a codec? Only then do the codes of one mean the same to the other.

Tensors are compared, not names: MAGNeT's and MusicGen's files hold the same 32 kHz codec in
different layouts and precisions. The encoder does not matter, as codes are read by the decoder.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from magnet_cli.models.codec import AudioCodec

# The same tensor stored once in float16 and once in float32, under weight norm or folded, differs
# by about this much of its largest element.
ROUNDING = 2e-3


@dataclass(frozen=True)
class CodecComparison:
    """True where two codecs read the same codes alike; else it says what differs."""

    differences: tuple[str, ...]  # sentences

    def __bool__(self) -> bool:
        return not self.differences


def same_codec(a: AudioCodec, b: AudioCodec) -> CodecComparison:
    """Compare what two codecs make of codes: sizes, codebooks, decoder; up to half precision."""
    differences = []
    if type(a) is not type(b):
        differences.append(f"One is {type(a).__name__}, the other {type(b).__name__}.")
    for field, words in (
        ("sample_rate", "sample rates in Hz"),
        ("hop_length", "samples in a frame"),
        ("channels", "numbers of channels"),
        ("n_q", "numbers of streams"),
        ("card", "numbers of codes in a stream"),
    ):
        ours, theirs = getattr(a, field), getattr(b, field)
        if ours != theirs:
            differences.append(f"The {words} differ: {ours} and {theirs}.")
    if not differences:
        differences = _compared(_decoding_tensors(a), _decoding_tensors(b))
    return CodecComparison(tuple(differences))


def _decoding_tensors(codec: AudioCodec) -> dict[str, Tensor]:
    return {
        name: tensor
        for name, tensor in codec.state_dict().items()
        if not name.startswith("encoder.")
    }


def _compared(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    differences = []
    for name in sorted(a.keys() ^ b.keys()):
        differences.append(f"Only one has {name}.")
    for name in a.keys() & b.keys():
        ours, theirs = a[name].detach().float().cpu(), b[name].detach().float().cpu()
        if ours.shape != theirs.shape:
            shapes = f"{list(ours.shape)} and {list(theirs.shape)}"
            differences.append(f"The shapes of {name} differ: {shapes}.")
            continue
        if not ours.numel():
            continue
        apart = (ours - theirs).abs()
        largest = torch.maximum(ours.abs().max(), theirs.abs().max())
        # Written so that a NaN is a difference, too.
        if not bool(apart.max() <= ROUNDING * largest):
            share = (apart > ROUNDING * largest).float().mean()
            differences.append(
                f"{name} differs by up to {apart.max():.3g} (its largest element is "
                f"{largest:.3g}), in {share:.0%} of its elements."
            )
    return sorted(differences)
