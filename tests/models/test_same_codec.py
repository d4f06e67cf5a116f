"""Models share a codec if their decoders and codebooks are equal."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from magnet_cli.config import SpectralCodecConfig
from magnet_cli.models.codec import same_codec
from magnet_cli.models.encodec import EnCodec
from magnet_cli.models.spectral_codec import SpectralCodec
from tests.models.tiny import golden_model


def music_codec() -> EnCodec:
    codec = copy.deepcopy(golden_model("facebook/magnet-small-10secs").codec)
    assert isinstance(codec, EnCodec)
    return codec


def test_the_same_codec_in_two_precisions(hub_cache: Path) -> None:
    ours = music_codec()
    assert same_codec(ours, ours)
    half = copy.deepcopy(ours).half().float()
    assert same_codec(ours, half)
    assert same_codec(half, ours)
    assert same_codec(ours, half).differences == ()


def test_the_encoder_does_not_matter(hub_cache: Path) -> None:
    other = music_codec()
    with torch.no_grad():
        for parameter in other.encoder.parameters():
            parameter.zero_()
    assert same_codec(music_codec(), other)


def test_sizes_that_differ_are_said(hub_cache: Path) -> None:
    sound = golden_model("facebook/audio-magnet-small").codec
    result = same_codec(music_codec(), sound)
    assert not result
    assert "The sample rates in Hz differ: 32000 and 16000." in result.differences
    assert "The samples in a frame differ: 640 and 320." in result.differences


def test_one_codebook_row_is_enough(hub_cache: Path) -> None:
    other = music_codec()
    with torch.no_grad():
        other.quantizer.codebooks[2][5] += 1
    result = same_codec(music_codec(), other)
    assert not result
    (difference,) = result.differences
    assert "quantizer.codebooks.2 differs by up to 1" in difference


def test_another_codec_of_the_same_sizes_differs(hub_cache: Path) -> None:
    """Sizes are not enough: the golden models' 32 kHz codecs have the same streams and cards."""
    other = golden_model("facebook/musicgen-small").codec
    result = same_codec(music_codec(), other)
    assert not result
    assert any("shapes" in sentence for sentence in result.differences)


def test_nan_is_a_difference(hub_cache: Path) -> None:
    other = music_codec()
    with torch.no_grad():
        other.quantizer.codebooks[0][0, 0] = float("nan")
    assert not same_codec(music_codec(), other)


def with_settings(codec: EnCodec | SpectralCodec, **settings: Any) -> EnCodec | SpectralCodec:
    """The same tensors with other settings."""
    other = copy.deepcopy(codec)
    other.config = dataclasses.replace(codec.config, **settings)
    return other


def spectral_codec() -> SpectralCodec:
    return SpectralCodec(SpectralCodecConfig(dimension=8, card=16))


@pytest.mark.parametrize(
    "setting",
    [
        {"floor": 5e-2},
        {"mel_weight": 0.0},
        {"linear_hz": 2000.0},
        {"high_bands": 81},
        {"overlap": 2},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_settings_of_the_spectral_codec_that_change_the_sound(setting: dict[str, Any]) -> None:
    """With equal tensors, codes were decoded with levels a hundred times too loud."""
    codec = spectral_codec()
    result = same_codec(codec, with_settings(codec, **setting))
    (difference,) = result.differences
    assert f"settings differ in {next(iter(setting))}" in difference


@pytest.mark.parametrize(
    "setting",
    [{"causal": True}, {"elu_alpha": 0.1}, {"causal": True, "trim_right_ratio": 0.5}],
)
def test_settings_of_encodec_that_change_the_sound(
    hub_cache: Path, setting: dict[str, Any]
) -> None:
    codec = music_codec()
    result = same_codec(codec, with_settings(codec, **setting))
    assert len(result.differences) == len(setting)


@pytest.mark.parametrize(
    "setting",
    [{"smoothing": 2.0}, {"correction": 0.0}, {"phase_iterations": 0}, {"linear_hz": 4000}],
    ids=lambda setting: next(iter(setting)),
)
def test_matters_of_taste_do_not_matter(setting: dict[str, Any]) -> None:
    codec = spectral_codec()
    assert same_codec(codec, with_settings(codec, **setting))


@pytest.mark.parametrize(
    "setting", [{"pad_mode": "zero"}, {"pad_mode": "reflect"}, {"dilation_base": 3}]
)
def test_the_files_of_magnet_and_musicgen_hold_one_codec(
    hub_cache: Path, setting: dict[str, Any]
) -> None:
    """One is set to zero padding and the other to reflection, with the same tensors."""
    magnet, musicgen = music_codec(), golden_model("facebook/musicgen-small").codec
    assert isinstance(musicgen, EnCodec)
    assert (magnet.config.pad_mode, musicgen.config.pad_mode) == ("constant", "reflect")
    assert same_codec(magnet, with_settings(magnet, **setting))
