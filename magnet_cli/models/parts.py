"""A loaded checkpoint: its networks, and what is known of it. Nothing here decodes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from magnet_cli.config import LMConfig, Modeling
from magnet_cli.models.codec import AudioCodec
from magnet_cli.models.lm import LanguageModel
from magnet_cli.models.text import TextEncoder
from magnet_cli.settings import DecodingConfig


@dataclass(frozen=True)
class Parts:
    """A model in memory, and what is known of it."""

    name: str
    repo: str | None  # on the hub
    revision: str | None  # the commit
    licence: str | None  # of the weights, as an SPDX id; None: not known
    kind: str | None  # music or sound
    lm: LanguageModel
    codec: AudioCodec
    text_encoder: TextEncoder
    text_encoder_name: str | None  # of the T5 it was trained with, for instance `t5-base`
    defaults: DecodingConfig  # every field given, span_len too

    @property
    def lm_config(self) -> LMConfig:
        """The language model's shape."""
        return self.lm.config

    @property
    def modeling(self) -> Modeling:
        """masked (MAGNeT), autoregressive (MusicGen, AudioGen) or hybrid (both)."""
        return self.lm.config.modeling

    @property
    def device(self) -> torch.device:
        """Where the language model is."""
        return self.lm.out_norm.weight.device

    @property
    def dtype(self) -> str:
        """Precision of the language model: float32, float16 or bfloat16."""
        return str(self.lm.out_norm.weight.dtype).removeprefix("torch.")
