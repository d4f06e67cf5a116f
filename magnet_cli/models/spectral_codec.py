"""The small codec of the built-in model: residual vector quantization of log magnitudes.

A frame of codes covers `stack` spectral frames. Their band levels, centred and weighted, are split into
`groups` of neighbouring bands. Each group has its own orthogonal basis (principal components) and its own
residual quantizer. The first `groups` streams hold the first code of each group, low bands first; the
others encode the residuals. The decoder inverts the basis and recovers the phases (spectrum.py). On both
sides, small convolutions are added to the linear path; they start at zero, so training starts at the linear
optimum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from magnet_cli.config import SpectralCodecConfig
from magnet_cli.models.codec import AudioCodec
from magnet_cli.models.spectrum import Bands, Spectrum

CHUNK_FRAMES = 512  # 20 s at 25 frames/s
STREAM_CHUNK_FRAMES = 64
PAST_FRAMES = 2  # frames of codes before a chunk whose audio is kept fixed during phase recovery
SEAM_FRAMES = 6  # frames on each side of a loop's seam whose phases are recovered again
# How `steady` averages flickering levels.
REACH = 4  # spectral frames on each side
_SPREAD = 2.5  # spectral frames: sigma of the Gaussian over time
_NEIGHBOURS = 5  # bands over which differences are averaged
AHEAD_FRAMES = 8  # frames of codes after a chunk, so that its last samples are not at an edge


class ContextBlock(nn.Module):
    """A residual branch over [B, T, C], initially zero: a depthwise convolution over time, then an MLP over
    channels."""

    def __init__(self, width: int, hidden: int, kernel_size: int) -> None:
        super().__init__()
        self.time = nn.Conv1d(width, width, kernel_size, padding=kernel_size // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, x: Tensor, share: float = 1.0) -> Tensor:
        """[B, T, C] -> [B, T, C]; the branch has the weight `share`."""
        around = self.time(x.transpose(1, 2)).transpose(1, 2)
        out: Tensor = x + share * self.down(F.gelu(self.up(self.norm(around))))
        return out


class GroupQuantizer(nn.Module):
    """Residual quantizers for each of `groups` slices of a vector; stream k encodes slice k mod groups."""

    def __init__(self, groups: int, n_q: int, card: int, dimension: int) -> None:
        super().__init__()
        self.groups = groups
        self.dimension = dimension  # of a slice
        self.codebooks = nn.ParameterList(torch.zeros(card, dimension) for _ in range(n_q))

    def encode(self, latents: Tensor) -> Tensor:
        """Latents [B, T, groups * dimension] -> codes int64 [B, K, T]."""
        rest = list(latents.split(self.dimension, dim=-1))
        streams = []
        for stream, rows in enumerate(self.codebooks):  # [card, dimension]
            slice_ = rest[stream % self.groups]
            codes = (rows.square().sum(-1) - 2 * slice_ @ rows.T).argmin(-1)  # [B, T]
            rest[stream % self.groups] = slice_ - F.embedding(codes, rows)
            streams.append(codes)
        return torch.stack(streams, dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, K, T] -> latents [B, T, groups * dimension]."""
        slices: list[Tensor] = []
        for stream, rows in enumerate(self.codebooks):
            found = F.embedding(codes[:, stream], rows)
            if stream < self.groups:
                slices.append(found)
            else:
                slices[stream % self.groups] = slices[stream % self.groups] + found
        return torch.cat(slices, dim=-1)


class SpectralCodec(AudioCodec):
    """Encodes and decodes mono audio as log magnitudes; see the module's docstring.

    Decoding is deterministic: equal codes give equal audio, whatever else is in the batch.
    """

    mean: Tensor
    weight: Tensor
    basis: Tensor

    def __init__(self, config: SpectralCodecConfig) -> None:
        super().__init__(config)
        self.config = config
        self.spectrum = Spectrum(config.spectral_hop, config.overlap)
        self.bands = Bands(
            config.sample_rate, self.spectrum.n_fft, config.linear_hz, config.high_bands
        )
        bands = self.bands.count
        width = bands * config.stack
        weight = self.bands.mel_width.pow(config.mel_weight)
        self.register_buffer("weight", weight / weight.square().mean().sqrt(), persistent=False)
        self.register_buffer("mean", torch.zeros(bands))  # of the levels
        latent = config.groups * config.dimension
        # Not torch.eye: on the meta device, where checkpoints are built, it imports torch._dynamo.
        self.register_buffer("basis", torch.zeros(width, latent).fill_diagonal_(1))

        def blocks(count: int, channels: int) -> nn.Sequential:
            hidden = channels * config.block_width
            made = (ContextBlock(channels, hidden, config.kernel_size) for _ in range(count))
            return nn.Sequential(*made)

        self.encoder = blocks(config.encoder_blocks, latent)
        self.quantizer = GroupQuantizer(config.groups, config.n_q, config.card, config.dimension)
        self.latent_decoder = blocks(config.latent_blocks, latent)
        self.level_decoder = blocks(config.level_blocks, bands)

    # ------------------------------------------------------------------ parts, also used in training

    def levels(self, padded: Tensor) -> Tensor:
        """Samples [B, margin + N * spectral_hop + margin] -> weighted, centred band levels [B, N, bands]."""
        amplitudes = self.bands.amplitudes(self.spectrum.analyse(padded).abs())
        return (torch.log1p(amplitudes / self.config.floor) - self.mean) * self.weight

    def project(self, levels: Tensor) -> Tensor:
        """Levels [B, T * stack, bands] -> latents [B, T, groups * dimension], by the linear path only."""
        return levels.reshape(len(levels), -1, len(self.basis)) @ self.basis

    def restore(self, latents: Tensor, share: float = 1.0) -> Tensor:
        """Quantized latents [B, T, groups * dimension] -> levels [B, T * stack, bands].

        The convolutions are trained on squared errors and so lean towards the mean of what a code can stand
        for; at full strength (`share` 1) they make the audio dull.
        """
        for block in self.latent_decoder:
            latents = block(latents, share)
        stacked = latents @ self.basis.T
        levels = stacked.reshape(len(stacked), -1, self.bands.count)
        for block in self.level_decoder:
            levels = block(levels, share)
        return levels

    def amplitudes(self, levels: Tensor) -> Tensor:
        """Weighted, centred levels [B, N, bands] -> amplitudes [B, N, bands]."""
        compressed = (levels / self.weight + self.mean).clamp(min=0, max=12)
        return torch.expm1(compressed) * self.config.floor

    # --------------------------------------------------------------------------------------- encoding

    @torch.no_grad()
    def encode(self, audio: Tensor, chunk_frames: int = CHUNK_FRAMES) -> Tensor:
        """Audio [B, 1, samples] -> codes int64 [B, K, ceil(samples / hop_length)].
        Raises ValueError: not three dimensions, or more than one channel."""
        self.check_audio(audio)
        _check_chunk(chunk_frames)
        frames = -(-audio.shape[-1] // self.hop_length)
        margin = self.spectrum.margin
        missing = frames * self.hop_length - audio.shape[-1]
        padded = F.pad(audio[:, 0].to(self.basis.dtype), (margin, margin + missing))
        context = self.config.encoder_blocks * (self.config.kernel_size // 2)
        codes = []
        for start in range(0, frames, chunk_frames):
            stop = min(frames, start + chunk_frames)
            low, high = max(0, start - context), min(frames, stop + context)
            part = padded[:, low * self.hop_length : high * self.hop_length + 2 * margin]
            latents = self.encoder(self.project(self.levels(part)))[:, start - low : stop - low]
            codes.append(self.quantizer.encode(latents))
        if not codes:
            return torch.zeros(len(audio), self.n_q, 0, dtype=torch.int64, device=audio.device)
        return torch.cat(codes, dim=-1)

    # --------------------------------------------------------------------------------------- decoding

    def decode(self, codes: Tensor, chunk_frames: int = CHUNK_FRAMES) -> Tensor:
        """Codes [B, K, T] -> audio float32 [B, 1, T * hop_length].
        Raises ValueError: a code is outside 0..card-1, or K is not `n_q`."""
        return self.joined(self.decode_chunks(codes, chunk_frames), codes)

    def decode_chunks(
        self, codes: Tensor, chunk_frames: int = STREAM_CHUNK_FRAMES
    ) -> Iterator[Tensor]:
        """As `decode`, in consecutive chunks [B, 1, up to chunk_frames * hop_length].

        The magnitudes equal those of a single pass. The phases depend on more than the nearby codes: each
        chunk continues the phases of the previous one, so the audio sounds like a single pass but differs
        in its samples.
        """
        self.check_codes(codes)  # now, not at the first chunk
        _check_chunk(chunk_frames)
        return self._decode_chunks(codes, chunk_frames)

    @torch.no_grad()
    def _decode_chunks(self, codes: Tensor, chunk_frames: int) -> Iterator[Tensor]:
        frames = codes.shape[-1]
        past: list[Tensor] = []
        for start in range(0, frames, chunk_frames):
            stop = min(frames, start + chunk_frames)
            low = max(0, start - PAST_FRAMES)
            high = min(frames, stop + AHEAD_FRAMES)
            # One item at a time: batched products round differently, which phases would amplify.
            whole = [
                self._sound(item, low, high, past[index] if past else None)
                for index, item in enumerate(codes.split(1))
            ]
            margin = self.spectrum.margin
            begin = margin + (start - low) * self.hop_length
            end = begin + (stop - start) * self.hop_length
            # What the next chunk starts with: its outer margin and its past frames.
            keep = end - min(PAST_FRAMES, stop) * self.hop_length - margin
            past = [sound[keep:end] for sound in whole]
            yield torch.stack([sound[begin:end] for sound in whole])[:, None].float()

    @torch.no_grad()
    def decode_loop(self, codes: Tensor, context: int) -> Tensor:
        """As `AudioCodec.decode_loop`; the audio at the seam is in phase with both sides."""
        frames = codes.shape[-1]
        audio = super().decode_loop(codes, context)
        # Rotated by half, the loop has its seam in the middle, between unrelated phases.
        half, reach = frames // 2, min(SEAM_FRAMES, frames // 4)
        turned = audio.roll(half * self.hop_length, -1)
        closed = self.decode_into(codes.roll(half, -1), turned, [(half - reach, half + reach)])
        return closed.roll(-half * self.hop_length, -1)

    @torch.no_grad()
    def decode_into(
        self, codes: Tensor, audio: Tensor, regions: Sequence[tuple[int, int]]
    ) -> Tensor:
        """As `AudioCodec.decode_into`: returns `audio` with new regions that continue its phases."""
        self.check_codes(codes)
        margin, hop, frames = self.spectrum.margin, self.hop_length, codes.shape[-1]
        made = audio.to(self.basis.dtype, copy=True)
        for start, stop in regions:
            low, high = max(0, start - PAST_FRAMES), min(frames, stop + PAST_FRAMES)
            begin, end = margin + (start - low) * hop, margin + (stop - low) * hop
            for item in range(len(codes)):
                padded = F.pad(made[item, 0], (margin, margin))
                around = padded[low * hop : high * hop + 2 * margin]
                past = around[:begin] if start > 0 else None
                future = around[end:] if stop < frames else None
                sound = self._sound(codes[item : item + 1], low, high, past, future)
                made[item, 0, start * hop : stop * hop] = sound[begin:end]
        return made.float()

    def _sound(
        self, codes: Tensor, low: int, high: int, past: Tensor | None, future: Tensor | None = None
    ) -> Tensor:
        """Codes [1, K, T], frames low..high -> samples [margin + (high - low) * hop_length + margin]."""
        latent_reach = self.config.latent_blocks * (self.config.kernel_size // 2)
        level_reach = self.config.level_blocks * (self.config.kernel_size // 2)
        reach = latent_reach + -(-(level_reach + REACH) // self.config.stack)
        first, last = max(0, low - reach), min(codes.shape[-1], high + reach)
        latents = self.quantizer.decode(codes[..., first:last])
        config = self.config
        amplitudes = self.amplitudes(self.restore(latents, config.correction))[0]
        amplitudes = steady(amplitudes, config.floor, config.smoothing)
        amplitudes = amplitudes[(low - first) * config.stack : (high - first) * config.stack]
        return self.spectrum.recover(self.bands, amplitudes, config.phase_iterations, past, future)


def _check_chunk(chunk_frames: int) -> None:
    if chunk_frames < 1:
        raise ValueError(f"chunk_frames must be 1 or more, not {chunk_frames}")


def steady(amplitudes: Tensor, floor: float, tolerance: float) -> Tensor:
    """Average amplitudes [N, bands] over up to `REACH` similar frames on each side.

    Codes are chosen frame by frame, so steady sound flickers between neighbouring codes, which buzzes at
    the frame rate. This bilateral filter in time (Tomasi and Manduchi, 1998) averages similar frames and
    leaves others, onsets above all, unchanged. It averages amplitudes, not levels: the mean of a logarithm
    would make noise softer.

    Args:
        floor: a negligible amplitude; frames are compared by log(1 + amplitude / floor).
        tolerance: the difference, in nepers, at which a frame has the weight 1 / sqrt(e). 0: no change.
    """
    if tolerance <= 0:
        return amplitudes
    frames = len(amplitudes)
    levels = torch.log1p(amplitudes / floor)
    total, weights = torch.zeros_like(levels), torch.zeros_like(levels)
    # The outermost frames are repeated beyond the ends.
    around_levels, around = (_repeat_ends(x) for x in (levels, amplitudes))
    for lag in range(2 * REACH + 1):
        other = around_levels[lag : lag + frames]
        difference = F.avg_pool1d(
            (other - levels).square()[:, None],
            _NEIGHBOURS,
            stride=1,
            padding=_NEIGHBOURS // 2,
            count_include_pad=False,
        )[:, 0]
        nearness = math.exp(-((lag - REACH) ** 2) / (2 * _SPREAD**2))
        weight = torch.exp(-difference / (2 * tolerance**2)) * nearness
        total += weight * around[lag : lag + frames]
        weights += weight
    return total / weights


def _repeat_ends(x: Tensor) -> Tensor:
    """[N, bands] -> [REACH + N + REACH, bands]."""
    return torch.cat([x[:1].expand(REACH, -1), x, x[-1:].expand(REACH, -1)])
