"""Configurations of a checkpoint's language model and codec. Imports no torch."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

from magnet_cli.errors import CheckpointError, UsageError
from magnet_cli.fields import cannot_be, panel, shown
from magnet_cli.foreign.bounds import BOUNDS

# Precisions of a loaded language model, besides auto.
PRECISIONS = ("float32", "float16", "bfloat16", "int8")

Modeling = Literal["masked", "autoregressive", "hybrid"]


def no_dtype(name: str) -> UsageError:
    """The error for an unknown dtype."""
    return UsageError(
        f"There is no dtype {name!r}.", f"--dtype takes auto, {', '.join(PRECISIONS)}."
    )


@dataclass(frozen=True)
class LMConfig:
    """Sizes of the language model, a transformer over `n_q` streams (docs/reference.md, Model)."""

    dim: int  # width of the transformer
    num_heads: int
    num_layers: int
    n_q: int  # streams
    card: int  # codes in each stream; the id `card` is the mask (or special) token
    modeling: Modeling  # masked: MAGNeT; autoregressive: MusicGen, AudioGen; hybrid: both ways
    text_dim: int  # width of the text encoder's output, projected to `dim`
    frame_rate: float  # frames per second of the codec
    segment_duration: float  # seconds of a training segment
    hidden_scale: int = 4  # feed-forward width over dim
    subcodes_context: int = 5  # masked: frames on each side that streams > 0 attend to; -1: all
    span_len: int = 3  # frames in a masked span
    delays: tuple[int, ...] = ()  # autoregressive: steps by which each stream is delayed
    stages: tuple[tuple[int, ...], ...] = ()  # the streams of each stage; (): one per stage
    # Frames per beat of the tempi to draw from if a prompt has none; (): none is drawn.
    tempi: tuple[float, ...] = ()
    # Each frame's position in its bar is an input, where the tempo is known.
    bar_position: bool = False

    @property
    def stage_streams(self) -> tuple[tuple[int, ...], ...]:
        """The streams of each masked stage, in the order of decoding."""
        return self.stages or tuple((stream,) for stream in range(self.n_q))

    @property
    def mask_id(self) -> int:
        """The id of a masked token; also the special token of the delay pattern."""
        return self.card

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        embeddings = self.n_q * (self.card + 1) * self.dim + (self.text_dim + 1) * self.dim
        block = (8 + 2 * self.hidden_scale) * self.dim**2 + 6 * self.dim  # matrices and norms
        return embeddings + self.num_layers * block + 2 * self.dim + self.n_q * self.card * self.dim

    @property
    def segment_frames(self) -> int:
        """Frames in a segment."""
        return round(self.segment_duration * self.frame_rate)


@dataclass(frozen=True)
class CodecConfig:
    """EnCodec as the released checkpoints have it (docs/reference.md; audiocraft's seanet.py)."""

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
        return math.prod(self.ratios)


_sizes = panel("Sizes of a new codec")


@dataclass(frozen=True)
class SpectralCodecConfig:
    """The spectral codec. The defaults are the built-in model's first; its codec now has 12 streams of 96
    components (recipes/nano/README.md, Codec)."""

    sample_rate: int = 24_000
    spectral_hop: int = 320  # samples between spectral frames
    overlap: int = 4  # hops in a window
    stack: int = 3  # spectral frames in a frame of codes
    linear_hz: float = 4000.0  # below, each bin is a band
    high_bands: int = 80  # mel bands above
    floor: float = 5e-4  # amplitude; levels are log(1 + amplitude / floor)
    mel_weight: float = 0.5  # bands are weighted by their width in mel to this power
    groups: int = _sizes("Groups of neighbouring bands, coded separately.", 4)
    dimension: int = _sizes("Principal components of each group.", 48)
    n_q: int = _sizes("Streams, a multiple of the groups.", 8)
    card: int = _sizes("Codes in each stream.", 1024)
    encoder_blocks: int = 0  # convolutional blocks over latents before the quantizer
    latent_blocks: int = 2  # over latents after it
    level_blocks: int = 2  # over levels of spectral frames
    block_width: int = 2  # hidden channels of a block over its channels
    kernel_size: int = 7  # of a block, in frames
    correction: float = 0.5  # scale of what the trained convolutions add to the linear path
    # Nepers; frames that differ by less are averaged (models/spectral_codec.py).
    smoothing: float = 0.15
    phase_iterations: int = 32
    channels: int = 1

    def __post_init__(self) -> None:
        check_config(self)

    @property
    def hop_length(self) -> int:
        """Samples in a frame of codes."""
        return self.spectral_hop * self.stack


def need_of_codec(
    config: CodecConfig | SpectralCodecConfig, holds: bool, field: str, takes: str
) -> None:
    """Raise CheckpointError unless `holds`, naming the setting `field` and the values it takes."""
    if not holds:
        raise CheckpointError(
            f"The codec's {field} is {getattr(config, field)!r}.", f"It must be {takes}."
        )


def check_config(config: SpectralCodecConfig) -> None:
    """Check the settings. Raises CheckpointError: one is invalid; the message names it."""
    need = partial(need_of_codec, config)
    for field in ("sample_rate", "spectral_hop", "stack", "groups", "dimension", "card"):
        need(getattr(config, field) >= 1, field, "1 or more")
    for field in ("encoder_blocks", "latent_blocks", "level_blocks", "phase_iterations"):
        need(getattr(config, field) >= 0, field, "0 or more")
    whole = config.n_q >= config.groups and config.n_q % config.groups == 0
    need(whole, "n_q", "a multiple of groups")
    need(config.spectral_hop % 2 == 0, "spectral_hop", "even")
    need(config.overlap >= 2, "overlap", "2 or more")
    need(
        0 < config.linear_hz <= config.sample_rate / 2, "linear_hz", "within the sound's bandwidth"
    )
    need(config.high_bands >= 1, "high_bands", "1 or more")
    need(config.floor > 0, "floor", "above 0")
    need(config.smoothing >= 0, "smoothing", "0 or more")
    need(0 <= config.correction <= 1, "correction", "from 0 to 1")
    need(config.kernel_size % 2 == 1, "kernel_size", "odd")
    need(config.block_width >= 1, "block_width", "1 or more")
    need(config.channels == 1, "channels", "1")


_COUNTS = ("dim", "num_heads", "num_layers", "n_q", "card", "text_dim", "hidden_scale", "span_len")


def check_lm(config: LMConfig, source: str | None) -> LMConfig:
    """Check a configuration whose fields may hold anything; returns it with floats as such.

    Args:
        source: the file that it was read from, for messages; None: settings of a new model.

    Raises CheckpointError, or UsageError for a new model: a field is invalid; the message names it.
    """

    def need(holds: bool, field: str, takes: str) -> None:
        if not holds and source is None:
            raise cannot_be(field, getattr(config, field), takes)
        if not holds:
            raise CheckpointError(
                f"{source} is damaged: the language model's {field} is "
                f"{shown(getattr(config, field))}.",
                f"It must be {takes}.",
            )

    for field in (*_COUNTS, "subcodes_context", "frame_rate", "segment_duration"):
        need(BOUNDS[field].holds(getattr(config, field)), field, BOUNDS[field].takes)
    frames = BOUNDS["segment_frames"]
    need(frames.holds(config.segment_frames), "segment_duration", f"{frames.takes} in frames")
    modelings = get_args(Modeling)
    known = isinstance(config.modeling, str) and config.modeling in modelings
    need(known, "modeling", f"one of {', '.join(modelings)}")
    need(config.dim % config.num_heads == 0, "num_heads", f"a divisor of dim, {config.dim}")
    delays = config.delays
    late = BOUNDS["delay"]
    whole = isinstance(delays, tuple) and all(map(late.holds, delays))
    fitting = whole and len(delays) in (0, config.n_q)
    need(fitting, "delays", f"{late.takes} for each of {config.n_q} streams")
    stages = config.stages
    listed = isinstance(stages, tuple) and all(isinstance(stage, tuple) for stage in stages)
    streams = [stream for stage in stages for stream in stage] if listed else []
    listed = listed and all(type(stream) is int for stream in streams)
    in_order = listed and all(stages) and streams in ([], list(range(config.n_q)))
    need(in_order, "stages", f"lists of streams that together are 0 to {config.n_q - 1}, in order")
    tempi = config.tempi
    need(isinstance(tempi, tuple) and len(tempi) <= 64, "tempi", "a list of up to 64 numbers")
    need(all(map(BOUNDS["beat"].holds, tempi)), "tempi", f"each {BOUNDS['beat'].takes}, in frames")
    return dataclasses.replace(
        config, frame_rate=float(config.frame_rate), segment_duration=float(config.segment_duration)
    )
