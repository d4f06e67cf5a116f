"""Models of released sizes with random weights, to measure speed without a download."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from magnet_cli.checkpoints.building import blank
from magnet_cli.config import CodecConfig, LMConfig, Modeling
from magnet_cli.errors import UsageError
from magnet_cli.models.codec import AudioCodec
from magnet_cli.models.encodec import EnCodec
from magnet_cli.models.lm import LanguageModel
from magnet_cli.models.parts import Parts
from magnet_cli.models.precision import INT8, check_room, make_int8, pack, pick_dtype
from magnet_cli.models.text import TextEncoder
from magnet_cli.settings import AUTOREGRESSIVE_DEFAULTS, DECODING_DEFAULTS, DecodingConfig

TEXT_LENGTH = 16  # tokens of a prompt, typical of captions
_FRAME_RATE = 50.0


@dataclass(frozen=True)
class Shape:
    """The sizes of a transformer, shared by MAGNeT and MusicGen of one name."""

    dim: int
    num_heads: int
    num_layers: int


# MusicGen (arXiv 2306.05284, section 3.1) and the released configs: magnet-small, musicgen-small, ...
SHAPES = {"small": Shape(1024, 16, 24), "medium": Shape(1536, 24, 48)}

# EnCodec of the released music models at 32 kHz.
_CODEC = CodecConfig(
    sample_rate=32_000, channels=1, ratios=(8, 5, 4, 4), n_filters=64, dimension=128, n_q=4, card=2048
)  # fmt: skip


def find_shape(name: str) -> Shape:
    """The shape of a name. Raises UsageError if there is none."""
    if name not in SHAPES:
        raise UsageError(f"There is no shape {name!r}.", f"--shape takes {' or '.join(SHAPES)}.")
    return SHAPES[name]


def lm_config(shape: Shape, modeling: Modeling, seconds: float) -> LMConfig:
    """The config of a language model over EnCodec's four streams, with segments of `seconds`."""
    return LMConfig(
        **dataclasses.asdict(shape),
        n_q=_CODEC.n_q,
        card=_CODEC.card,
        modeling=modeling,
        text_dim=768,
        frame_rate=_FRAME_RATE,
        segment_duration=seconds,
        delays=() if modeling == "masked" else (0, 1, 2, 3),
    )


def random_lm(config: LMConfig, dtype: str, device: torch.device) -> LanguageModel:
    """A language model with random weights.

    Args:
        dtype: as of `load_parts`.

    Raises:
        UsageError: the dtype is unknown or not available on this device, or memory is too small.
    """
    with blank():
        lm = LanguageModel(config)
    if dtype == INT8 and device.type != "cpu":
        raise UsageError(f"int8 runs on a CPU, not on {device.type}.", "Add --device cpu.")
    kept = torch.float32 if dtype == INT8 else pick_dtype(dtype, device, config.parameters)
    # int8 is quantised from full weights, so memory must hold those.
    check_room("this shape", config, str(kept).removeprefix("torch."), device)
    lm.to(kept).to_empty(device=device)
    _fill(lm)
    if dtype == INT8:
        make_int8(lm)
        pack(lm)
    return lm.eval().requires_grad_(False)


def random_parts(
    name: str, config: LMConfig, dtype: str, device: torch.device, codec: AudioCodec
) -> Parts:
    """A language model with random weights, its codec, and a text encoder that returns noise."""
    defaults = AUTOREGRESSIVE_DEFAULTS if config.modeling == "autoregressive" else DECODING_DEFAULTS
    return Parts(
        name=name,
        lm=random_lm(config, dtype, device),
        codec=codec,
        text_encoder=_Noise(config.text_dim).to(device),
        defaults=DecodingConfig(span_len=config.span_len).over(defaults),
    )


def random_codec(device: torch.device) -> AudioCodec:
    """The EnCodec of the released music models in float32, with random weights."""
    with blank():
        codec = EnCodec(_CODEC)
    codec.to_empty(device=device)
    _fill(codec)
    return codec.eval().requires_grad_(False)


@torch.no_grad()
def _fill(module: nn.Module) -> None:
    """Fill matrices with one repeated block of noise: drawing a billion numbers takes half a minute."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1_000_003, generator=generator).mul_(0.02)
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1:
            block = noise.to(parameter.device, parameter.dtype)
            for part in parameter.view(-1).split(len(block)):
                part.copy_(block[: len(part)])
        else:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)


class _Noise(TextEncoder):
    """A text encoder that returns the same noise for every text; a real one takes little time."""

    noise: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        generator = torch.Generator().manual_seed(1)
        self.register_buffer("noise", torch.randn(TEXT_LENGTH, width, generator=generator))

    def encode(self, text: str) -> Tensor:
        """As `TextEncoder.encode`."""
        return self.noise if text else self.noise[:0]
