"""The base class of audio codecs, and the comparison of two codecs.

Models can exchange codes only if they have the same codec. Tensors and settings are compared, not names:
MAGNeT's and MusicGen's files contain the same 32 kHz codec in different layouts and precisions. The encoder
is ignored, because only the decoder reads codes.
"""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from magnet_cli.config import CodecConfig, SpectralCodecConfig


class AudioCodec(nn.Module):
    """Audio to codes and back: `n_q` streams of `card` codes at `frame_rate` frames per second.

    Attributes:
        sample_rate: Hz.
        channels: channels of the audio it reads and writes.
        hop_length: samples in a frame; `frame_rate = sample_rate / hop_length`.
        n_q: streams.
        card: codes in each stream.
    """

    quantizer: Any  # with `codebooks`, [card, d] of each stream

    def __init__(self, config: CodecConfig | SpectralCodecConfig) -> None:
        """Take the sizes from `config`."""
        super().__init__()
        self.sample_rate, self.channels = config.sample_rate, config.channels
        self.hop_length, self.n_q, self.card = config.hop_length, config.n_q, config.card

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop_length

    def codebooks(self) -> Tensor:
        """The vector of each code, float32 [K, card, d]."""
        return torch.stack([book.detach().float() for book in self.quantizer.codebooks])

    @abstractmethod
    def encode(self, audio: Tensor) -> Tensor:
        """Audio [B, C, samples] at `sample_rate`, in -1..1 -> codes int64 [B, K, T].

        T = ceil(samples / hop_length); the last frame is padded with silence. Long audio is processed in
        chunks, with the same result as in one pass.
        """

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, K, T] -> audio float32 [B, C, T * hop_length]. Long codes are decoded in chunks.
        Raises ValueError: a code is outside 0..card-1, or K is not `n_q`."""

    def decode_chunks(self, codes: Tensor) -> Iterator[Tensor]:
        """As `decode`, in consecutive chunks [B, C, samples], for writing to disk while decoding.

        A codec should use constant memory here if it can; this default decodes everything at once.
        """
        yield self.decode(codes)

    def decode_loop(self, codes: Tensor, context: int) -> Tensor:
        """Codes [B, K, T] of a loop -> audio [B, C, T * hop_length], as if it repeated forever.

        The last `context` frames are decoded before the loop and the first `context` after it, to give
        convolutions and recurrent state the right context, and then cut off.
        """
        frames = codes.shape[-1]
        places = torch.arange(-context, frames + context, device=codes.device) % frames
        audio = self.decode(codes[..., places])
        return audio[..., context * self.hop_length : (context + frames) * self.hop_length]

    def decode_into(
        self, codes: Tensor, audio: Tensor, regions: Sequence[tuple[int, int]]
    ) -> Tensor:
        """Decode regions of `codes` to fit into `audio`.

        Args:
            codes: int64 [B, K, T]; outside the regions they are those of `audio`.
            audio: float32 [B, C, T * hop_length].
            regions: pairs of first frame and end, in order, not adjacent.

        Returns:
            [B, C, T * hop_length]. This default decodes all codes, so the rest is close to `audio`. A codec
            that chooses phases continues those of `audio`, and returns it unchanged outside the regions.
        """
        return self.decode(codes)

    def joined(self, pieces: Iterable[Tensor], codes: Tensor) -> Tensor:
        """Concatenate the chunks of `decode_chunks`; empty audio if there are none."""
        made = list(pieces)
        if not made:
            return torch.zeros(len(codes), self.channels, 0, device=codes.device)
        return made[0] if len(made) == 1 else torch.cat(made, dim=-1)

    def check_audio(self, audio: Tensor) -> None:
        """Check audio to encode.
        Raises ValueError: it does not have three dimensions, or has another number of channels."""
        if audio.dim() != 3 or audio.shape[1] != self.channels:
            raise ValueError(
                f"audio must be [B, {self.channels}, samples], not {list(audio.shape)}"
            )

    def check_codes(self, codes: Tensor) -> None:
        """Check codes to decode.
        Raises ValueError: the number of streams is wrong, or a code is outside 0..card-1."""
        if codes.dim() != 3 or codes.shape[1] != self.n_q:
            raise ValueError(f"codes must be [B, {self.n_q}, T], not {list(codes.shape)}")
        if codes.numel() and (int(codes.min()) < 0 or int(codes.max()) >= self.card):
            raise ValueError(f"codes must be in 0..{self.card - 1}")


def device_of(module: nn.Module) -> torch.device:
    """The device of a module's parameters or buffers."""
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return torch.device("cpu")


# Difference, relative to the largest element, of a tensor stored in float16 and in float32, with weight norm
# or folded.
ROUNDING = 2e-3

# Settings that do not change the meaning of codes. Padding is audible only in a clip's first and last frames,
# and MusicGen's and MAGNeT's files differ in it for the same codec.
_NO_MATTER: dict[type, set[str]] = {
    CodecConfig: {"pad_mode"},
    SpectralCodecConfig: {"encoder_blocks", "correction", "smoothing", "phase_iterations"},
}


@dataclass(frozen=True)
class CodecComparison:
    """True if two codecs decode the same codes alike; otherwise lists the differences."""

    differences: tuple[str, ...]  # sentences

    def __bool__(self) -> bool:
        return not self.differences


def same_codec(a: AudioCodec, b: AudioCodec) -> CodecComparison:
    """Compare two codecs' sizes, settings, codebooks and decoders.

    Ignores differences by half-precision rounding, and in settings that do not change the meaning of codes.
    """
    differences = []
    if type(a) is not type(b):
        differences.append(f"One is {type(a).__name__}, the other {type(b).__name__}.")
    for field, words in (
        ("sample_rate", "sample rates in Hz"),
        ("hop_length", "samples in a frame"),
        ("channels", "numbers of channels"),
        ("n_q", "numbers of streams"),
        ("card", "numbers of codes in a stream"),
    ):
        ours, theirs = getattr(a, field), getattr(b, field)
        if ours != theirs:
            differences.append(f"The {words} differ: {ours} and {theirs}.")
    if not differences:
        mine, others = _settings(a), _settings(b)
        differences = [
            f"The settings differ in {name}: {mine.get(name)} and {others.get(name)}."
            for name in sorted(mine.keys() | others.keys())
            if not _equal(mine.get(name), others.get(name))
        ]
        differences += _compared(_decoding_tensors(a), _decoding_tensors(b))
    return CodecComparison(tuple(differences))


def _settings(codec: AudioCodec) -> dict[str, Any]:
    """The settings that change the meaning of codes, in a form that can be compared."""
    config: Any = getattr(codec, "config", None)
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        return {}
    settings = dataclasses.asdict(config)
    if isinstance(config, CodecConfig):
        settings["ratios"] = tuple(config.ratios)
        if config.n_residual_layers < 2:  # the first layer's dilation is 1, whatever the base
            del settings["dilation_base"]
    return {
        name: value
        for name, value in settings.items()
        if name not in _NO_MATTER.get(type(config), ())
    }


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-6)
    return bool(a == b)


def _decoding_tensors(codec: AudioCodec) -> dict[str, Tensor]:
    return {
        name: tensor
        for name, tensor in codec.state_dict().items()
        if not name.startswith("encoder.")
    }


def _compared(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    differences = [f"Only one has {name}." for name in sorted(a.keys() ^ b.keys())]
    for name in a.keys() & b.keys():
        ours, theirs = a[name].detach().float().cpu(), b[name].detach().float().cpu()
        if ours.shape != theirs.shape:
            shapes = f"{list(ours.shape)} and {list(theirs.shape)}"
            differences.append(f"The shapes of {name} differ: {shapes}.")
            continue
        if not ours.numel():
            continue
        apart = (ours - theirs).abs()
        largest = torch.maximum(ours.abs().max(), theirs.abs().max())
        # Written so that a NaN is a difference, too.
        if not bool(apart.max() <= ROUNDING * largest):
            share = (apart > ROUNDING * largest).float().mean()
            differences.append(
                f"{name} differs by up to {apart.max():.3g} (its largest element is "
                f"{largest:.3g}), in {share:.0%} of its elements."
            )
    return sorted(differences)
