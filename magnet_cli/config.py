"""What a checkpoint is: the sizes of its language model and of its codec. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Modeling = Literal["masked", "autoregressive", "hybrid"]


@dataclass(frozen=True)
class LMConfig:
    """The language model: one transformer over `n_q` streams (reference.md, Model)."""

    dim: int  # width of the transformer
    num_heads: int
    num_layers: int
    n_q: int  # streams
    card: int  # codes in each stream; the id `card` is the mask (or special) token
    modeling: Modeling  # masked: MAGNeT; autoregressive: MusicGen, AudioGen; hybrid: both ways
    text_dim: int  # width of the text encoder's output, projected to `dim`
    frame_rate: float  # frames per second of the codec
    segment_duration: float  # seconds the model was trained on
    hidden_scale: int = 4  # feed-forward width over dim
    subcodes_context: int = 5  # frames that streams > 0 see on each side, where masked
    span_len: int = 3  # frames in a masked span
    delays: tuple[int, ...] = ()  # steps by which each stream is late, where autoregressive
    stages: tuple[tuple[int, ...], ...] = ()  # streams that are masked together; (): each by itself

    @property
    def stage_streams(self) -> tuple[tuple[int, ...], ...]:
        """The streams of each masked stage, in the order of decoding."""
        return self.stages or tuple((stream,) for stream in range(self.n_q))

    @property
    def mask_id(self) -> int:
        """The id of a masked token; also the special token of the delay pattern."""
        return self.card

    @property
    def segment_frames(self) -> int:
        """Frames in a segment."""
        return round(self.segment_duration * self.frame_rate)


@dataclass(frozen=True)
class CodecConfig:
    """EnCodec as the released checkpoints have it (reference.md; audiocraft's seanet.py)."""

    sample_rate: int
    channels: int
    ratios: tuple[int, ...]  # upsampling of the decoder, outermost last; hop = their product
    n_filters: int
    dimension: int  # width of the latent that is quantized
    n_q: int
    card: int
    lstm_layers: int = 2
    n_residual_layers: int = 1
    kernel_size: int = 7
    residual_kernel_size: int = 3
    last_kernel_size: int = 7
    dilation_base: int = 2
    compress: int = 2
    causal: bool = False
    pad_mode: str = "constant"
    true_skip: bool = True  # identity shortcut in residual blocks, not a convolution
    trim_right_ratio: float = 1.0
    elu_alpha: float = 1.0

    @property
    def hop_length(self) -> int:
        """Samples in a frame."""
        hop = 1
        for ratio in self.ratios:
            hop *= ratio
        return hop
