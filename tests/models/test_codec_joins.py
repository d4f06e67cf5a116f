"""Joining decoded audio with other audio: loops and regions, for codecs that choose phases."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from magnet_cli.config import SpectralCodecConfig
from magnet_cli.models.codec import AudioCodec
from magnet_cli.models.spectral_codec import SpectralCodec

RATE, HOP, FRAMES = 8000, 160, 60


def chord(frames: int = FRAMES) -> Tensor:
    """Three steady tones, [1, 1, samples], with whole periods in a second."""
    seconds = torch.arange(frames * HOP) / RATE
    tones = [0.2 * torch.sin(2 * math.pi * f * seconds + f) for f in (210.0, 530.0, 1490.0)]
    return torch.stack(tones).sum(0)[None, None]


@pytest.fixture(scope="module")
def codec() -> SpectralCodec:
    """A codec that encodes the chord's frames exactly, except for phases."""
    config = SpectralCodecConfig(
        sample_rate=RATE,
        spectral_hop=80,
        stack=2,
        high_bands=1,
        groups=1,
        dimension=322,
        n_q=1,
        card=FRAMES,
    )
    codec = SpectralCodec(config).eval()
    margin = codec.spectrum.margin
    with torch.no_grad():
        padded = torch.nn.functional.pad(chord()[:, 0], (margin, margin))
        latents = codec.project(codec.levels(padded))[0]
        codec.quantizer.codebooks[0].copy_(latents)
    return codec.requires_grad_(False)


def likeness(one: Tensor, other: Tensor) -> float:
    return float((one * other).sum() / (one.norm() * other.norm()))


def test_a_region_meets_what_is_around_it_in_phase(codec: SpectralCodec) -> None:
    audio = chord()
    codes = codec.encode(audio)
    made = codec.decode_into(codes, audio, [(20, 32), (40, 45)])
    outside = torch.ones(FRAMES * HOP, dtype=torch.bool)
    outside[20 * HOP : 32 * HOP] = outside[40 * HOP : 45 * HOP] = False
    assert torch.equal(made[..., outside], audio[..., outside])
    plain = codec.decode(codes)
    for edge in (slice(20 * HOP, 21 * HOP), slice(31 * HOP, 32 * HOP), slice(44 * HOP, 45 * HOP)):
        assert likeness(made[..., edge], audio[..., edge]) > 0.8
        assert likeness(made[..., edge], audio[..., edge]) > likeness(
            plain[..., edge], audio[..., edge]
        )


@pytest.mark.parametrize("region", [(0, 10), (50, 60), (0, 60)])
def test_regions_at_the_ends(codec: SpectralCodec, region: tuple[int, int]) -> None:
    audio = chord()
    made = codec.decode_into(codec.encode(audio), audio, [region])
    assert made.shape == audio.shape
    assert bool(torch.isfinite(made).all())
    start, stop = (edge * HOP for edge in region)
    assert torch.equal(made[..., :start], audio[..., :start])
    assert torch.equal(made[..., stop:], audio[..., stop:])


def test_a_loop_goes_on_in_phase(codec: SpectralCodec) -> None:
    codes = codec.encode(chord())[..., 5:55]  # a second: whole periods
    loop = codec.decode_loop(codes, 10)[0, 0]
    cut = AudioCodec.decode_loop(codec, codes, 10)[0, 0]
    assert loop.shape == cut.shape == (50 * HOP,)

    def bend(samples: Tensor) -> float:
        """The sharpest bend of the waveform at the seam, relative to that in the middle."""
        across = torch.cat([samples[-40:], samples[:40]])
        inside = samples[20 * HOP : 30 * HOP]
        return float(across.diff(n=2).abs().max() / inside.diff(n=2).abs().max())

    assert bend(loop) < 1.3
    assert bend(loop) < bend(cut)
