"""Numbers from files are checked against bounds before anything is built."""

from __future__ import annotations

import dataclasses
import math

import pytest

from magnet_cli.config import CodecConfig, LMConfig, SpectralCodecConfig
from magnet_cli.errors import CheckpointError
from magnet_cli.foreign import bounds
from magnet_cli.foreign.bounds import BOUNDS
from magnet_cli.models.text import T5Config
from magnet_cli.models.word_pieces import WordPieceConfig


@pytest.mark.parametrize(
    "table", [LMConfig, CodecConfig, SpectralCodecConfig, T5Config, WordPieceConfig]
)
def test_every_number_of_a_config_has_a_bound(table: type) -> None:
    """Nor can a new field lack one."""
    for each in dataclasses.fields(table):
        if str(each.type) in ("int", "float"):
            assert each.name in BOUNDS, f"{table.__name__}.{each.name}"


@pytest.mark.parametrize("value", [0, -1, 10**12, 1.0, True, "8", None, [8], math.nan])
def test_what_is_no_width(value: object) -> None:
    with pytest.raises(CheckpointError, match=r"It must be a whole number from 1 to 65,536\."):
        bounds.check_bound("dim", value, "config.json")


def test_numbers_that_are_too_large_together() -> None:
    good = {"spectral_hop": 320, "overlap": 4, "stack": 3, "groups": 4, "dimension": 48}
    bounds.check_codec(good, "x")
    for change in ({"spectral_hop": 65_536, "overlap": 64}, {"groups": 256, "dimension": 65_536}):
        with pytest.raises(CheckpointError, match="x has"):
            bounds.check_codec({**good, **change}, "x")
    with pytest.raises(CheckpointError, match="ratios = 60"):
        bounds.check_codec({"ratios": [2] * 60}, "x")
    with pytest.raises(CheckpointError, match="hop_length"):
        bounds.check_codec({"ratios": [4096, 4096]}, "x")
    with pytest.raises(CheckpointError, match="dilation"):
        bounds.check_codec({"dilation_base": 64, "n_residual_layers": 32}, "x")


def test_layers_are_bounded_by_tensors() -> None:
    bounds.check_counts({"num_layers": 4}, 40, "x")
    with pytest.raises(CheckpointError, match="num_layers = 200, and its weights are 40 tensors"):
        bounds.check_counts({"num_layers": 200}, 40, "x")
