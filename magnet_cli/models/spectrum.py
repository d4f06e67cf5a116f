"""Short-time spectra, frequency bands and phase recovery: the signal processing of the spectral codec.

A spectral frame covers `hop` samples and is centred on them, so N frames are exactly N * hop samples. The
window is a whole number of hops, so overlap-add takes only a few additions.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MOMENTUM = 0.99  # of fast Griffin-Lim (Perraudin et al., 2013)


class Spectrum(nn.Module):
    """The short-time Fourier transform of mono audio; the magnitude of a sine is its amplitude."""

    window: Tensor

    def __init__(self, hop: int, overlap: int) -> None:
        super().__init__()
        self.hop = hop
        self.overlap = overlap  # hops per window
        self.n_fft = hop * overlap
        # Explicitly on the CPU: checkpoints are built on the meta device, and no file contains the window.
        window = torch.hann_window(self.n_fft, dtype=torch.float32, device="cpu")
        self.register_buffer("window", window, persistent=False)
        # The magnitude of a full-scale sine is half the sum of the window.
        self.scale = self.n_fft / 4
        self.margin = (self.n_fft - hop) // 2  # samples of the outer frames beyond the signal

    def analyse(self, padded: Tensor) -> Tensor:
        """Samples [B, margin + N * hop + margin] -> complex spectra [B, N, bins]."""
        frames = padded.unfold(-1, self.n_fft, self.hop)
        return torch.fft.rfft(frames * (self.window / self.scale))

    def synthesise(self, spectra: Tensor, envelope: Tensor | None = None) -> Tensor:
        """Complex spectra [B, N, bins] -> samples [B, margin + N * hop + margin], by least squares.

        `envelope`: that of N frames, if already computed.
        """
        pieces = torch.fft.irfft(spectra, self.n_fft) * (self.window * self.scale)
        if envelope is None:
            envelope = self._envelope(pieces.shape[1])
        return self._overlap_add(pieces) / envelope

    def _overlap_add(self, pieces: Tensor) -> Tensor:
        """[B, N, n_fft] -> [B, (N + overlap - 1) * hop]."""
        count = pieces.shape[1]
        hops = pieces.unflatten(-1, (self.overlap, self.hop))
        total = pieces.new_zeros(len(pieces), count + self.overlap - 1, self.hop)
        for lag in range(self.overlap):
            total[:, lag : lag + count] += hops[:, :, lag]
        return total.flatten(1)

    def _envelope(self, count: int) -> Tensor:
        """The sum of the squared windows, clamped above zero for the outermost samples."""
        squares = self.window.square().expand(1, count, -1)
        return self._overlap_add(squares).clamp(min=1e-4)

    def recover(
        self,
        bands: Bands,
        amplitudes: Tensor,
        iterations: int,
        past: Tensor | None = None,
        future: Tensor | None = None,
    ) -> Tensor:
        """Synthesise audio with these band amplitudes, by fast Griffin-Lim from integrated phases.

        The spectral shape within a band of several bins is not constrained: noise keeps its uneven
        spectrum, while the level of the band is right. Such bands start from random phases: their flat
        spectra have no peaks, and in step from hop to hop they would sound as a comb of tones.

        Args:
            bands: the bands of `amplitudes`.
            amplitudes: [N, bands], as `bands.amplitudes(analyse(...))`.
            iterations: each makes the spectra more consistent.
            past: samples [P] that the result starts with (margin included), such as audio already played.
                They are kept fixed, so the new audio continues them in phase.
            future: samples [F] that the result ends with (margin included), kept fixed likewise.

        Returns:
            Samples [margin + N * hop + margin]; deterministic, bit for bit.
        """
        magnitudes = bands.spread_evenly(amplitudes)
        phases = self._first_phases(magnitudes).to(magnitudes.dtype)
        wide = phases[:, bands.linear :]
        chance = torch.Generator("cpu").manual_seed(0)
        turns = torch.rand(wide.shape, generator=chance, dtype=torch.float32, device="cpu")
        wide.copy_(2 * math.pi * turns)
        estimate = torch.polar(magnitudes, phases)
        before = torch.zeros_like(estimate)
        envelope = self._envelope(len(estimate))
        held = 0 if past is None else len(past)
        for round_ in range(iterations + 1):
            sound = self.synthesise(estimate[None], envelope)[0]
            if past is not None:
                sound[:held] = past
            if future is not None:
                sound[len(sound) - len(future) :] = future
            if round_ == iterations:
                break
            spectra = self.analyse(sound[None])[0]
            estimate = torch.sub(spectra, before, alpha=MOMENTUM / (1 + MOMENTUM))
            gains = bands.gains(magnitudes_of(estimate), amplitudes)
            torch.view_as_real(estimate).mul_(gains[..., None])  # complex products are slower
            before = spectra
        return sound

    def _first_phases(self, magnitudes: Tensor) -> Tensor:
        """Initial phases [N, bins]: steady partials at the peaks of the magnitudes (Beauregard et al.,
        2015).

        Each bin belongs to the nearest peak, advances at the frequency given by a parabola through the
        peak's log magnitudes, and alternates in sign around it as the window's transform does. So partials
        start in tune; phases elsewhere do not matter.
        """
        if magnitudes.device.type not in ("cpu", "cuda"):
            # Phases accumulate in float64, which Apple's GPUs do not have.
            return self._first_phases(magnitudes.cpu()).to(magnitudes.device)
        level = magnitudes.clamp(min=1e-6).log()
        below = F.pad(level, (1, 0), value=-99)[:, :-1]
        above = F.pad(level, (0, 1), value=-99)[:, 1:]
        peak = (level >= below) & (level > above)
        bend = (below - 2 * level + above).clamp(max=-1e-6)
        offset = (0.5 * (below - above) / bend).clamp(-0.5, 0.5)
        bins = torch.arange(level.shape[1], device=level.device).expand_as(level)
        nowhere = torch.full_like(bins, -(10**6))
        left = torch.where(peak, bins, nowhere).cummax(1).values
        right = -torch.where(peak, -bins, nowhere).flip(1).cummax(1).values.flip(1)
        owner = torch.where(bins - left <= right - bins, left, right).clamp(0, level.shape[1] - 1)
        frequency = (bins + offset).gather(1, owner)  # in bins
        turns = (frequency.double() * self.hop / self.n_fft).cumsum(0).remainder(1)
        odd = ((bins - owner) % 2).to(level)
        return (2 * math.pi * turns).to(level) + math.pi * odd


def magnitudes_of(spectra: Tensor) -> Tensor:
    """Complex [...] -> magnitudes [...], in a fifth of the time of `abs`; inexact for tiny values (1e-19)."""
    return (spectra.real.square() + spectra.imag.square()).sqrt_()


class Bands(nn.Module):
    """Frequency bands: single bins up to `linear_hz`, then `high_bands` bands of equal width on the mel
    scale."""

    pool: Tensor
    owner: Tensor
    mel_width: Tensor

    def __init__(self, sample_rate: int, n_fft: int, linear_hz: float, high_bands: int) -> None:
        super().__init__()
        bins = n_fft // 2 + 1
        step = sample_rate / n_fft
        self.linear = min(bins, round(linear_hz / step))
        low_edge, high_edge = _mel(self.linear * step), _mel(bins * step)
        edges = [low_edge + (high_edge - low_edge) * i / high_bands for i in range(high_bands + 1)]
        cuts = [round(700 * math.expm1(edge / 1127) / step) for edge in edges]
        spans = [(bin_, bin_ + 1) for bin_ in range(self.linear)]
        spans += [(low, high) for low, high in itertools.pairwise(cuts) if high > low]
        self.count = len(spans)
        pool = torch.zeros(
            bins - self.linear, self.count - self.linear, dtype=torch.float32, device="cpu"
        )
        for band, (low, high) in enumerate(spans[self.linear :]):
            pool[low - self.linear : high - self.linear, band] = 1 / (high - low)
        self.sizes = [high - low for low, high in spans]  # bins per band
        width = [_mel(high * step) - _mel(low * step) for low, high in spans]
        self.register_buffer("pool", pool, persistent=False)  # averages over the high bands
        self.register_buffer("owner", pool.argmax(dim=-1), persistent=False)  # of each high bin
        self.register_buffer(
            "mel_width", torch.tensor(width, dtype=torch.float32, device="cpu"), persistent=False
        )

    def wide(self, count: int) -> Tensor:
        """A matrix [bands, count] that sums band powers into `count` wide bands of equal mel width."""
        middle = self.mel_width.cumsum(0) - self.mel_width / 2
        index = (middle / self.mel_width.sum() * count).long().clamp(max=count - 1)
        sizes = torch.tensor(self.sizes, device="cpu").to(self.mel_width)
        return F.one_hot(index, count) * sizes[:, None]

    def amplitudes(self, magnitudes: Tensor) -> Tensor:
        """Magnitudes [..., bins] -> mean magnitude per band [..., bands]."""
        low, high = magnitudes[..., : self.linear], magnitudes[..., self.linear :]
        return torch.cat([low, high @ self.pool], dim=-1)

    def spread_evenly(self, amplitudes: Tensor) -> Tensor:
        """Amplitudes [..., bands] -> magnitudes [..., bins], constant within each band."""
        low, high = amplitudes[..., : self.linear], amplitudes[..., self.linear :]
        return torch.cat([low, high[..., self.owner]], dim=-1)

    def gains(self, magnitudes: Tensor, amplitudes: Tensor) -> Tensor:
        """The factors [..., bins] that give magnitudes [..., bins] the band amplitudes [..., bands]."""
        return self.spread_evenly(amplitudes / self.amplitudes(magnitudes).clamp(min=1e-9))


def _mel(hz: float) -> float:
    """O'Shaughnessy's mel scale."""
    return 1127 * math.log1p(hz / 700)
