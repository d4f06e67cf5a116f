"""Parts: the contents of a loaded checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from magnet_cli.models.codec import AudioCodec
from magnet_cli.models.lm import LanguageModel
from magnet_cli.models.text import TextEncoder
from magnet_cli.settings import DecodingConfig


@dataclass(frozen=True)
class Parts:
    """The networks of a model, with its metadata."""

    name: str
    lm: LanguageModel
    codec: AudioCodec
    text_encoder: TextEncoder
    defaults: DecodingConfig  # resolved, if the model was loaded to generate
    repo: str | None = None  # on the hub
    revision: str | None = None  # the commit
    licence: str | None = None  # of the weights, as an SPDX id; None: not known
    kind: str | None = None  # music or sound
    text_encoder_name: str | None = None  # of the T5 it was trained with, for instance `t5-base`
    loras: tuple[Mapping[str, Any], ...] = ()  # merged into the lm: file, scale, weights (an id)
