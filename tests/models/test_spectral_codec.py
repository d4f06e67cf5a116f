"""The spectral codec: the contract that it shares with EnCodec, its signal processing, its linear path."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from magnet_cli.checkpoints import native
from magnet_cli.config import SpectralCodecConfig
from magnet_cli.errors import CheckpointError
from magnet_cli.models.codec import AudioCodec
from magnet_cli.models.spectral_codec import GroupQuantizer, SpectralCodec
from magnet_cli.models.spectrum import Bands, Spectrum
from tests.models.tiny import TINY_SPECTRAL

TINY = dataclasses.replace(TINY_SPECTRAL, encoder_blocks=1, phase_iterations=6)


@pytest.fixture(scope="module")
def codec() -> SpectralCodec:
    """Random weights, also in the zero branches, so that every part affects the result."""
    return random_codec(TINY)


def random_codec(config: SpectralCodecConfig) -> SpectralCodec:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        made = SpectralCodec(config)
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        made.mean.fill_(1.5)
        torch.nn.init.orthogonal_(made.basis)
    return made.eval()


def sound(samples: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(samples) / TINY.sample_rate
    tone = 0.3 * torch.sin(2 * math.pi * 220 * time)
    return (tone + 0.05 * torch.randn(samples, generator=generator))[None, None]


def test_it_meets_the_contract(codec: AudioCodec) -> None:
    assert codec.frame_rate == 1600 / 32
    assert (codec.channels, codec.n_q, codec.card) == (1, 4, 8)
    for samples, frames in ((320, 10), (321, 11), (1, 1), (0, 0)):
        codes = codec.encode(sound(samples))
        assert codes.shape == (1, 4, frames)
        assert codes.dtype == torch.int64
        audio = codec.decode(codes)
        assert audio.shape == (1, 1, frames * 32)
        assert audio.dtype == torch.float32
        assert torch.isfinite(audio).all()


def test_codes_that_it_cannot_have_made_are_refused(codec: SpectralCodec) -> None:
    with pytest.raises(ValueError, match="codes must be"):
        codec.decode(torch.zeros(1, 3, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"0\.\.7"):
        codec.decode_chunks(torch.full((1, 4, 5), 8))
    with pytest.raises(ValueError, match="audio must be"):
        codec.encode(torch.zeros(1, 2, 64))
    with pytest.raises(ValueError, match="chunk_frames"):
        codec.encode(sound(64), chunk_frames=0)


@settings(max_examples=15, deadline=None)
@given(samples=st.integers(1, 1200), chunk=st.integers(1, 40))
def test_encoding_in_chunks_is_encoding_in_one_pass(samples: int, chunk: int) -> None:
    made = random_codec(TINY)
    whole = made.encode(sound(samples), chunk_frames=10_000)
    assert torch.equal(made.encode(sound(samples), chunk_frames=chunk), whole)


def test_equal_codes_give_equal_sound_bit_for_bit_whoever_is_beside_them(
    codec: SpectralCodec,
) -> None:
    codes = codec.encode(torch.cat([sound(640, seed) for seed in range(3)]))
    together = codec.decode(codes)
    torch.manual_seed(99)  # global random state must not matter
    alone = [codec.decode(codes[i : i + 1]) for i in range(3)]
    assert torch.equal(together, torch.cat(alone))


def test_decoding_in_chunks_gives_as_many_samples_and_nearly_the_same_spectra() -> None:
    made = random_codec(dataclasses.replace(TINY, phase_iterations=30))
    codes = made.encode(sound(1600))
    whole = made.decode(codes)
    pieces = list(made.decode_chunks(codes, 13))
    assert [piece.shape[-1] for piece in pieces] == [13 * 32] * 3 + [11 * 32]
    chunked = torch.cat(pieces, dim=-1)

    def amplitudes(audio: Tensor) -> Tensor:
        spectra = made.spectrum.analyse(torch.nn.functional.pad(audio[:, 0], (24, 24)))
        return made.bands.amplitudes(spectra.abs())

    # Magnitudes are those of one pass; phase recovery leaves both about equally far from them.
    difference = (amplitudes(whole) - amplitudes(chunked)).norm() / amplitudes(whole).norm()
    assert difference < 0.5
    # No click at a seam: the steepest step there is no steeper than elsewhere.
    steps = (chunked[0, 0, 1:] - chunked[0, 0, :-1]).abs()
    seams = torch.tensor([13 * 32 * i - 1 for i in (1, 2, 3)])
    assert steps[seams].max() <= steps.max() * 0.9


def test_a_held_past_stays_and_the_sound_goes_on_from_it() -> None:
    spectrum, bands = Spectrum(16, 4), Bands(1600, 64, 800, 1)
    tone = 0.5 * torch.sin(2 * math.pi * 200 * torch.arange(48 + 16 * 40) / 1600)
    amplitudes = bands.amplitudes(spectrum.analyse(tone[None]).abs())[0]
    past = tone[:200]
    made = spectrum.recover(bands, amplitudes, 200, past)
    assert torch.equal(made[:200], past)
    # The phase is that of the past: the continuation is the tone itself, not the tone at another phase.
    assert torch.cosine_similarity(made[200:264], tone[200:264], dim=0) > 0.95
    free = spectrum.recover(bands, amplitudes, 200)
    assert torch.cosine_similarity(free[200:264], tone[200:264], dim=0) < 0.9


@settings(max_examples=20, deadline=None)
@given(hop=st.sampled_from([8, 16, 20]), overlap=st.integers(2, 5), frames=st.integers(1, 30))
def test_synthesis_undoes_analysis(hop: int, overlap: int, frames: int) -> None:
    spectrum = Spectrum(hop, overlap)
    samples = torch.randn(
        1, 2 * spectrum.margin + frames * hop, generator=torch.Generator().manual_seed(frames)
    )
    spectra = spectrum.analyse(samples)
    assert spectra.shape[1] == frames
    inner = slice(spectrum.margin, spectrum.margin + frames * hop)
    assert torch.allclose(spectrum.synthesise(spectra)[:, inner], samples[:, inner], atol=1e-4)


def test_noise_in_wide_bands_comes_back_as_noise() -> None:
    """Steady noise, that is: not a comb of tones at multiples of the hop's rate, as from phases in step."""
    spectrum, bands = Spectrum(320, 4), Bands(24_000, 1280, 4000, 80)
    noise = torch.randn(320 * 150 + 960, generator=torch.Generator().manual_seed(1)) / 10
    levels = bands.amplitudes(spectrum.analyse(noise[None]).abs())[0].mean(0)
    made = spectrum.recover(bands, levels.expand(150, -1), 32)[spectrum.margin : -spectrum.margin]

    def power(sound: Tensor) -> Tensor:  # of 5.9 Hz each, averaged over the clip
        window = torch.hann_window(4096)
        bins = torch.stft(sound, 4096, 1024, window=window, return_complex=True)
        return bins.abs().square().mean(-1)[800:1800]  # 4.7 to 10.5 kHz

    given, back = power(noise), power(made)
    flatness = [p.log().mean().exp() / p.mean() for p in (given, back)]
    assert flatness[1] > 0.95 * flatness[0]
    assert abs(10 * (back.mean() / given.mean()).log10()) < 1


def test_a_sines_magnitude_is_its_amplitude() -> None:
    spectrum = Spectrum(16, 4)
    tone = 0.25 * torch.sin(2 * math.pi * 200 * torch.arange(1000) / 1600)
    assert spectrum.analyse(tone[None]).abs()[0, 10].max() == pytest.approx(0.25, abs=0.005)


@pytest.mark.parametrize(("linear_hz", "high_bands"), [(400, 6), (800, 3), (100, 40)])
def test_bands_partition_the_bins_and_gains_set_their_amplitudes(
    linear_hz: float, high_bands: int
) -> None:
    bands = Bands(1600, 64, linear_hz, high_bands)
    assert sum(bands.sizes) == 33
    magnitudes = torch.rand(5, 33, generator=torch.Generator().manual_seed(0)) + 0.01
    wanted = torch.rand(5, bands.count, generator=torch.Generator().manual_seed(1))
    scaled = magnitudes * bands.gains(magnitudes, wanted)
    assert torch.allclose(bands.amplitudes(scaled), wanted, atol=1e-5)
    assert torch.allclose(bands.amplitudes(bands.spread_evenly(wanted)), wanted, atol=1e-6)
    power = bands.wide(4).sum()
    assert power == 33  # every bin counts once


def test_the_quantizer_takes_the_nearest_rows_group_by_group() -> None:
    """Compared with a slow, obvious version."""
    quantizer = GroupQuantizer(groups=2, n_q=4, card=5, dimension=3)
    generator = torch.Generator().manual_seed(0)
    for rows in quantizer.codebooks:
        rows.data.copy_(torch.randn(5, 3, generator=generator))
    latents = torch.randn(1, 7, 6, generator=generator)
    codes = quantizer.encode(latents)
    for frame in range(7):
        for group in range(2):
            rest = latents[0, frame, 3 * group : 3 * group + 3]
            for stream in (group, group + 2):
                distances = [(rest - row).square().sum() for row in quantizer.codebooks[stream]]
                best = int(torch.stack(distances).argmin())
                assert codes[0, stream, frame] == best
                rest = rest - quantizer.codebooks[stream][best]
            decoded = quantizer.decode(codes)[0, frame, 3 * group : 3 * group + 3]
            assert torch.allclose(
                latents[0, frame, 3 * group : 3 * group + 3] - decoded, rest, atol=1e-5
            )


def test_fresh_branches_leave_the_linear_path_alone() -> None:
    made = SpectralCodec(TINY)
    torch.nn.init.orthogonal_(made.basis)
    latents = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(made.encoder(latents), latents)
    linear = (latents @ made.basis.T).reshape(2, 10, -1)
    assert torch.equal(made.restore(latents), linear)
    assert torch.allclose(made.project(linear), latents, atol=1e-5)


def test_a_tone_comes_back_in_tune_when_nothing_is_quantized_away() -> None:
    """Levels through `amplitudes` and phase recovery: the spectral peak stays in place."""
    made = SpectralCodec(dataclasses.replace(TINY, linear_hz=800, high_bands=1))
    tone = 0.5 * torch.sin(2 * math.pi * 237 * torch.arange(1600 + 48) / 1600)
    levels = made.levels(tone[None])
    amplitudes = made.amplitudes(levels)[0]
    window = torch.hann_window(1600)
    for iterations in (0, 30):  # from the first phases on, though 237 Hz is between two bins
        back = made.spectrum.recover(made.bands, amplitudes, iterations)[24:-24]
        assert abs(int(torch.fft.rfft(back * window).abs().argmax()) - 237) <= 1


GPU = "meta"  # represents a device that is neither the CPU nor CUDA


class AppleGPU(TorchDispatchMode):
    """Refuses what torch refuses on an Apple GPU: float64, also when copying from there."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
        if any(x.device.type == GPU for x in tensors):
            assert not any(x.dtype == torch.float64 for x in tensors), f"float64 in {func}"
        return result


def test_sound_is_recovered_where_there_is_no_float64() -> None:
    """`--device auto` selects an Apple GPU if there is one, and the built-in model could not decode there.

    Fake tensors have a device and cannot be mixed with another's, but hold no numbers: this tests what is
    computed on the GPU, not the result.
    """
    with FakeTensorMode(), AppleGPU():
        spectrum = Spectrum(16, 3)
        bands = Bands(TINY.sample_rate, spectrum.n_fft, TINY.linear_hz, TINY.high_bands)
        for module in (spectrum, bands):
            for name, buffer in module.named_buffers():
                setattr(module, name, torch.empty_like(buffer, device=GPU))
        made = spectrum.recover(bands, torch.rand(9, bands.count, device=GPU), 2)
    assert (made.device.type, made.dtype) == (GPU, torch.float32)


def test_files_give_the_same_codec_back(codec: SpectralCodec, tmp_path: Path) -> None:
    native.save_part(tmp_path / "codec", codec)
    loaded = native.load_codec(tmp_path / "codec")
    assert isinstance(loaded, SpectralCodec)
    assert loaded.config == codec.config
    audio = sound(640)
    assert torch.equal(loaded.encode(audio), codec.encode(audio))
    assert torch.equal(loaded.decode(codec.encode(audio)), codec.decode(codec.encode(audio)))


@pytest.mark.parametrize(
    "change",
    [
        {"spectral_hop": 15},
        {"overlap": 1},
        {"kernel_size": 4},
        {"n_q": 3},
        {"linear_hz": 900.0},
        {"floor": 0.0},
        {"card": 0},
        {"channels": 2},
    ],
)
def test_settings_that_cannot_be_built_are_named(change: dict[str, float]) -> None:
    with pytest.raises(CheckpointError, match=next(iter(change))):
        dataclasses.replace(TINY, **change)  # type: ignore[arg-type]
