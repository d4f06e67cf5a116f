"""Tiny seeded models and the golden ones, loaded once."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from magnet_cli.api import Model, load_model
from magnet_cli.config import LMConfig, Modeling, SpectralCodecConfig
from magnet_cli.models.lm import LanguageModel
from magnet_cli.models.transformer import CrossKeys

# 100 frames of spectra a second, 50 of codes: two groups of bands, two streams each.
TINY_SPECTRAL = SpectralCodecConfig(
    sample_rate=1600,
    spectral_hop=16,
    stack=2,
    linear_hz=400,
    high_bands=6,
    floor=1e-3,
    groups=2,
    dimension=6,
    n_q=4,
    card=8,
    latent_blocks=1,
    level_blocks=1,
    kernel_size=3,
    phase_iterations=4,
)


@functools.cache
def golden_model(repo: str) -> Model:
    """A golden checkpoint; the test must use the `hub_cache` fixture."""
    return load_model(repo, device="cpu", dtype="float32", offline=True)


def tiny_lm(modeling: Modeling, seed: int = 0) -> LanguageModel:
    """A language model of 2 layers with weights large enough for different predictions."""
    config = LMConfig(
        dim=32,
        num_heads=4,
        num_layers=2,
        n_q=4,
        card=16,
        modeling=modeling,
        text_dim=8,
        frame_rate=50.0,
        segment_duration=1.0,
        delays=() if modeling == "masked" else (0, 1, 2, 3),
    )
    generator = torch.Generator().manual_seed(seed)
    lm = LanguageModel(config).eval()
    for parameter in lm.parameters():
        torch.nn.init.normal_(parameter, std=0.25, generator=generator)
    return lm.requires_grad_(False)


def stage_hidden(
    lm: LanguageModel, codes: Tensor, stage: int, cross: CrossKeys | None, prefix_rows: int = 0
) -> Tensor:
    """Codes [B, K, T] with masked ones at `mask_id` -> hidden [B, T, dim] of the stage's first stream."""
    rows = lm.rows_hidden(codes, stage, cross, prefix_rows)
    return lm.stream_hidden(rows, lm.config.stage_streams[stage][0], codes.shape[-1])
