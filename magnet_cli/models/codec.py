"""The contract that every audio codec meets, and the one thing all share: chunks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn


class AudioCodec(nn.Module):
    """Audio to codes and back: `n_q` streams of `card` codes at `frame_rate` frames per second.

    Attributes:
        sample_rate: Hz.
        channels: channels of the audio it reads and writes.
        hop_length: samples in a frame; `frame_rate = sample_rate / hop_length`.
        n_q: streams.
        card: codes in each stream.
    """

    sample_rate: int
    channels: int
    hop_length: int
    n_q: int
    card: int

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop_length

    @abstractmethod
    def encode(self, audio: Tensor) -> Tensor:
        """Audio [B, C, samples] at `sample_rate`, in -1..1 -> codes int64 [B, K, T].

        T = ceil(samples / hop_length): what is missing of the last frame counts as silence.
        Long audio is processed in chunks; the result is that of one pass.
        """

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, K, T] -> audio float32 [B, C, T * hop_length]. Long codes are decoded in chunks.

        Raises:
            ValueError: a code is outside 0..card-1, or K is not `n_q`.
        """

    def decode_chunks(self, codes: Tensor) -> Iterator[Tensor]:
        """As `decode`, in consecutive pieces [B, C, samples] that joined are all of it.

        For sound that goes to disk as it is made. A codec that can keeps its memory flat in the
        length; this default decodes everything at once.
        """
        yield self.decode(codes)

    def decode_loop(self, codes: Tensor, context: int) -> Tensor:
        """Codes [B, K, T] of a loop -> audio [B, C, T * hop_length], as if it had gone on forever.

        The loop's end is decoded before its beginning and its beginning after its end, `context`
        frames each, so that convolutions and recurrent state know where they come from and go to;
        then that is cut off.
        """
        frames = codes.shape[-1]
        places = torch.arange(-context, frames + context, device=codes.device) % frames
        audio = self.decode(codes[..., places])
        return audio[..., context * self.hop_length : (context + frames) * self.hop_length]

    def decode_into(
        self, codes: Tensor, audio: Tensor, regions: Sequence[tuple[int, int]]
    ) -> Tensor:
        """What `codes` say in place of `audio` in some regions.

        Args:
            codes: int64 [B, K, T]; outside the regions they are those of `audio`.
            audio: float32 [B, C, T * hop_length].
            regions: frames from, up to; in order, apart.

        Returns:
            [B, C, T * hop_length]. Here, the codes decoded: outside the regions nearly `audio`. A
            codec that chooses phases goes on from `audio` in phase, and returns it outside.
        """
        return self.decode(codes)

    def check_codes(self, codes: Tensor) -> None:
        """Refuse codes that this codec cannot have made.

        Raises:
            ValueError: wrong number of streams, or a code outside 0..card-1.
        """
        if codes.dim() != 3 or codes.shape[1] != self.n_q:
            raise ValueError(f"codes must be [B, {self.n_q}, T], not {list(codes.shape)}")
        if codes.numel() and (int(codes.min()) < 0 or int(codes.max()) >= self.card):
            raise ValueError(f"codes must be in 0..{self.card - 1}")


def device_of(module: nn.Module) -> torch.device:
    """The device that a module's parameters (or buffers) are on."""
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return torch.device("cpu")
