"""Measures of a codec's audio, as pure functions of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

WINDOWS = (256, 512, 1024, 2048)  # samples; of the multi-resolution distance
_SILENCE = 1e-3  # amplitude below which differences fade out


def spectral_distance(reference: Tensor, other: Tensor, windows: Sequence[int] = WINDOWS) -> float:
    """Mean absolute difference of log magnitudes, over several window lengths.

    Args:
        reference: samples [N], at any one rate.
        other: samples [N] at the same rate.
        windows: lengths of the Hann windows; each hop is a quarter of one.

    Returns:
        Nepers (1 is 8.7 dB); 0 for equal sounds. Levels below -60 dB of full scale hardly count.

    Raises ValueError: the sounds differ in length, or are shorter than half the longest window.
    """
    if reference.shape != other.shape or reference.dim() != 1:
        raise ValueError(f"sounds must be [N] both, not {reference.shape} and {other.shape}")
    total = 0.0
    for window in windows:
        shape = torch.hann_window(window, dtype=reference.dtype, device=reference.device)
        levels = [
            torch.stft(sound, window, window // 4, window=shape, return_complex=True).abs()
            / (window / 4)  # a sine's magnitude is its amplitude
            for sound in (reference, other)
        ]
        first, second = (torch.log(level + _SILENCE) for level in levels)
        total += float((first - second).abs().mean())
    return total / len(windows)


def rank_agreement(reference: Tensor, other: Tensor, among: int = 1) -> float:
    """How often the first choice on the reference is among the `among` first choices on the other.

    Args:
        reference: scores [N, tags], one row a sound.
        other: scores [N, tags] of the same sounds made another way.

    Raises ValueError: the shapes differ, or there is no sound.
    """
    if reference.shape != other.shape or len(reference) == 0:
        raise ValueError(f"scores must be [N, tags] both, not {reference.shape} and {other.shape}")
    first = reference.argmax(-1, keepdim=True)
    return float((other.topk(among, dim=-1).indices == first).any(-1).double().mean())


def note_scores(
    reference: Sequence[tuple[float, int]],
    heard: Sequence[tuple[float, int]],
    tolerance: float = 0.05,
) -> tuple[float, float]:
    """Precision and recall of notes: equal pitch, and onsets within `tolerance` seconds; each counts once.

    Args:
        reference: (onset in seconds, MIDI pitch) of the notes played.
        heard: the same for the notes heard.

    Returns:
        Precision and recall; 1 if there was nothing to get wrong.
    """
    free: dict[int, list[float]] = {}
    for onset, pitch in sorted(reference):
        free.setdefault(pitch, []).append(onset)
    hits = 0
    for onset, pitch in sorted(heard):
        near = [other for other in free.get(pitch, []) if abs(other - onset) <= tolerance]
        if near:
            free[pitch].remove(min(near, key=lambda other: abs(other - onset)))
            hits += 1
    return hits / len(heard) if heard else 1.0, hits / len(reference) if reference else 1.0


def modulation_depth(sound: Tensor, sample_rate: int, frequency: float) -> float:
    """The modulation of a steady sound's loudness at one frequency, from 0 (none) to 1 (full).

    Args:
        sound: samples [N].
        frequency: Hz, well below `sample_rate`; a codec's frame rate, to find a buzz.
    """
    power = sound.double().square()
    time = torch.arange(len(power), dtype=torch.float64, device=power.device) / sample_rate
    turn = torch.polar(torch.ones_like(time), -2 * torch.pi * frequency * time)
    window = torch.hann_window(len(power), dtype=torch.float64, device=power.device)
    swing = 2 * (power * window * turn).sum().abs() / (power * window).sum().clamp(min=1e-30)
    return float(swing)
