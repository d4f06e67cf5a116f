"""Parts: a loaded checkpoint, from its name to its networks. Nothing here decodes."""

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
    """The networks of a model, and what is known of it."""

    name: str
    lm: LanguageModel
    codec: AudioCodec
    text_encoder: TextEncoder
    defaults: DecodingConfig  # of a model that was loaded to generate: every field given
    repo: str | None = None  # on the hub
    revision: str | None = None  # the commit
    licence: str | None = None  # of the weights, as an SPDX id; None: not known
    kind: str | None = None  # music or sound
    text_encoder_name: str | None = None  # of the T5 it was trained with, for instance `t5-base`

    @property
    def lm_config(self) -> LMConfig:
        """Sizes of the language model."""
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
