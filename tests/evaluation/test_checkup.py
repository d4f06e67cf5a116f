"""The model check finds what is wrong with a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from magnet_cli.api import Model, load_model
from magnet_cli.evaluation.checkup import check_model
from tests.cli.conftest import SMALL


@pytest.fixture(params=[SMALL, "facebook/musicgen-small"])
def model(request: pytest.FixtureRequest, hub_cache: Path) -> Model:
    return load_model(request.param, offline=True)


def test_a_sound_model_passes(model: Model) -> None:
    findings = list(check_model(model))
    assert [each.name for each in findings] == ["weights", "sizes", "codec", "text", "logits"]
    assert all(each.good for each in findings), findings


def spoil_weights(model: Model) -> None:
    with torch.no_grad():
        next(model.lm.parameters()).view(-1)[0] = torch.nan


def spoil_head(model: Model) -> None:
    with torch.no_grad():
        model.lm.out_norm.weight.fill_(torch.inf)


def spoil_sizes(model: Model) -> None:
    model.lm.config = dataclasses.replace(model.lm.config, frame_rate=60.0)


def spoil_codec(model: Model) -> None:
    decode = model.codec.decode
    model.codec.decode = lambda codes: decode(codes) * torch.nan  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_weights, {"weights": "has NaN or infinite values"}),
        (spoil_head, {"weights": "has NaN or infinite values", "logits": "is NaN or infinite"}),
        (spoil_sizes, {"sizes": "60 frames a second"}),
        (spoil_codec, {"codec": "sound has NaN or infinite values"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_wrong_is_found(
    hub_cache: Path, spoil: Callable[[Model], None], said: dict[str, str]
) -> None:
    model = load_model(SMALL, offline=True)
    spoil(model)
    bad = {each.name: each.what for each in check_model(model) if not each.good}
    for name, what in said.items():
        assert what in bad[name], bad
