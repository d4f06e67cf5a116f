"""EnCodec (Défossez et al., 2022, arXiv 2210.13438): the codec of the released checkpoints.

SEANet to a latent at the frame rate, a residual vector quantizer to codes, and back. Weight norm is
folded into the weights when a checkpoint is loaded (checkpoints/encodec.py), so none is here.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from magnet_cli.config import CodecConfig, need_of_codec
from magnet_cli.models import seanet
from magnet_cli.models.codec import AudioCodec

# Frames processed at once, all items of a batch together: 40 s at 50 frames/s, about 1 GB at the
# released size. A single segment of a released model is one pass, as in the reference.
FRAMES_AT_ONCE = 2000
LEAST_CHUNK = 50  # with shorter chunks, processing their context again costs too much
STREAM_CHUNK = 250  # frames per chunk of `decode_chunks`: 5 s


class ResidualVectorQuantizer(nn.Module):
    """Each stream encodes the residual of the streams before it, as the nearest row of its codebook."""

    def __init__(self, n_q: int, card: int, dimension: int) -> None:
        super().__init__()
        self.codebooks = nn.ParameterList(torch.zeros(card, dimension) for _ in range(n_q))

    def encode(self, latent: Tensor) -> Tensor:
        """Latent [B, dimension, T] -> codes int64 [B, K, T]."""
        rest = latent.transpose(1, 2)  # [B, T, dimension]
        streams = []
        for rows in self.codebooks:  # [card, dimension]
            # Squared distance, expanded in the reference's order, so that near-ties round the same way.
            distance = rest.pow(2).sum(-1, keepdim=True) - 2 * rest @ rows.t() + rows.pow(2).sum(-1)
            codes = distance.argmin(dim=-1)  # [B, T]
            rest = rest - F.embedding(codes, rows)
            streams.append(codes)
        return torch.stack(streams, dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, K, T] -> latent [B, dimension, T]."""
        latent = F.embedding(codes[:, 0], self.codebooks[0])  # [B, T, dimension]
        for stream in range(1, len(self.codebooks)):
            latent += F.embedding(codes[:, stream], self.codebooks[stream])
        return latent.transpose(1, 2)


class EnCodec(AudioCodec):
    """EnCodec, for inference.

    Encoding and decoding run in chunks of `chunk_frames` frames (None: FRAMES_AT_ONCE divided by the batch
    size), with the result of one pass up to rounding; memory beyond input and result depends on the chunk,
    not on the length. Raises CheckpointError: the config is invalid.
    """

    def __init__(self, config: CodecConfig) -> None:
        check_config(config)
        super().__init__(config)
        self.config = config
        self.encoder = seanet.encoder(config)
        self.decoder = seanet.decoder(config)
        self.quantizer = ResidualVectorQuantizer(config.n_q, config.card, config.dimension)

    @torch.no_grad()
    def encode(self, audio: Tensor, chunk_frames: int | None = None) -> Tensor:
        """Audio [B, C, samples] -> codes int64 [B, K, ceil(samples / hop_length)].
        Raises ValueError: not three dimensions, or not the codec's number of channels."""
        self.check_audio(audio)
        chunk_frames = _chunk(chunk_frames, len(audio))
        dtype = self.quantizer.codebooks[0].dtype
        pieces = self.encoder.pieces(
            lambda part: audio[..., part.start : part.stop].to(dtype), audio.shape[-1], chunk_frames
        )
        codes = [self.quantizer.encode(latent) for latent in pieces]
        if not codes:
            return torch.zeros(len(audio), self.n_q, 0, dtype=torch.int64, device=audio.device)
        return torch.cat(codes, dim=-1)

    def decode(self, codes: Tensor, chunk_frames: int | None = None) -> Tensor:
        """Codes [B, K, T] -> audio float32 [B, C, T * hop_length].
        Raises ValueError: a code is outside 0..card-1, or K is not `n_q`."""
        return self.joined(self.decode_chunks(codes, chunk_frames), codes)

    def decode_chunks(
        self, codes: Tensor, chunk_frames: int | None = STREAM_CHUNK
    ) -> Iterator[Tensor]:
        """As `decode`, in consecutive pieces [B, C, up to chunk_frames * hop_length]."""
        self.check_codes(codes)  # now, not at the first piece
        return self._decode_chunks(codes, _chunk(chunk_frames, len(codes)))

    @torch.no_grad()
    def _decode_chunks(self, codes: Tensor, chunk_frames: int) -> Iterator[Tensor]:
        pieces = self.decoder.pieces(
            lambda part: self.quantizer.decode(codes[..., part.start : part.stop]),
            codes.shape[-1],
            chunk_frames * self.hop_length,
        )
        for audio in pieces:
            yield audio.float().contiguous()


def check_config(config: CodecConfig) -> None:
    """Check the settings. Raises CheckpointError: one is invalid; the message names it."""
    need = partial(need_of_codec, config)
    for field in ("sample_rate", "channels", "n_filters", "dimension", "n_q", "card"):
        need(getattr(config, field) >= 1, field, "1 or more")
    for field in ("kernel_size", "residual_kernel_size", "last_kernel_size", "dilation_base"):
        need(getattr(config, field) >= 1, field, "1 or more")
    for field in ("lstm_layers", "n_residual_layers"):
        need(getattr(config, field) >= 0, field, "0 or more")
    need(len(config.ratios) > 0 and min(config.ratios) >= 1, "ratios", "whole numbers from 1")
    need(1 <= config.compress <= config.n_filters, "compress", "from 1 to n_filters")
    modes = ("constant", "zero", "reflect", "replicate")
    need(config.pad_mode in modes, "pad_mode", f"one of {', '.join(modes)}")
    ratio = config.trim_right_ratio
    need(0 <= ratio <= 1, "trim_right_ratio", "from 0 to 1")
    need(config.causal or ratio == 1, "trim_right_ratio", "1 where the codec is not causal")


def _chunk(frames: int | None, batch: int) -> int:
    if frames is None:
        return max(FRAMES_AT_ONCE // max(batch, 1), LEAST_CHUNK)
    if frames < 1:
        raise ValueError(f"chunk_frames must be 1 or more, not {frames}")
    return frames
