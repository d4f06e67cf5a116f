"""A tiny model for fast editing tests: a segment of one second at 8 kHz."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from magnet_cli.api import Model
from magnet_cli.config import CodecConfig, Modeling
from magnet_cli.models.encodec import EnCodec
from magnet_cli.models.parts import Parts
from magnet_cli.models.text import TextEncoder
from magnet_cli.settings import DecodingConfig
from tests.models.tiny import tiny_lm

SAMPLE_RATE, HOP, FRAME_RATE, SEGMENT = 8000, 160, 50.0, 50

# Few steps, on which these tests do not depend.
FAST = DecodingConfig(decoding_steps=(3, 2, 2, 2))


class Letters(TextEncoder):
    """A text encoder with one random row per letter."""

    width = 8

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.rows = torch.nn.Parameter(torch.randn(128, 8, generator=generator) * 3)

    def encode(self, text: str) -> Tensor:
        """One text -> float32 [L, 8]."""
        return self.rows[[ord(letter) % 128 for letter in text]].detach()


@functools.cache
def tiny_model(modeling: Modeling = "masked", channels: int = 1) -> Model:
    """A model of random weights: 4 streams of 16 codes, 50 frames/s, a segment of 50 frames."""
    lm = tiny_lm(modeling, seed=3)
    codec = EnCodec(
        CodecConfig(
            sample_rate=SAMPLE_RATE,
            channels=channels,
            ratios=(8, 5, 4),
            n_filters=2,
            dimension=8,
            n_q=4,
            card=16,
            lstm_layers=1,
        )
    ).eval()
    generator = torch.Generator().manual_seed(7)
    for parameter in codec.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    codec.requires_grad_(False)
    return Model(
        Parts(
            lm=lm,
            codec=codec,
            text_encoder=Letters(),
            defaults=DecodingConfig(),
            name=f"tiny-{modeling}",
            repo=None,
            revision=None,
            licence="MIT",
            kind="music",
            text_encoder_name=None,
        )
    )


def codes_of(frames: int, seed: int = 0) -> Tensor:
    """Random codes int64 [1, 4, frames]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 16, (1, 4, frames), generator=generator)
