"""Two models share a codec where their decoders and codebooks are the same tensors."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from magnet_cli.checkpoints.compat import same_codec
from magnet_cli.models.encodec import EnCodec
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
    """Sizes say nothing: the golden models' 32 kHz codecs have the same streams and cards."""
    other = golden_model("facebook/musicgen-small").codec
    result = same_codec(music_codec(), other)
    assert not result
    assert any("shapes" in sentence for sentence in result.differences)


def test_nan_is_a_difference(hub_cache: Path) -> None:
    other = music_codec()
    with torch.no_grad():
        other.quantizer.codebooks[0][0, 0] = float("nan")
    assert not same_codec(music_codec(), other)
