"""The temperature of masked decoding falls to a chosen end."""

from __future__ import annotations

import dataclasses

import pytest

from magnet_cli.decoding.iterative import schedule
from magnet_cli.errors import UsageError
from magnet_cli.resolving import resolve, used
from magnet_cli.settings import DECODING_DEFAULTS, DecodingConfig
from tests.models.tiny import tiny_lm

MASKED = tiny_lm("masked").config
FALLING = dataclasses.replace(DECODING_DEFAULTS, temperature=0.8)


def temperatures(steps: int = 4, blocks: int = 1, **changed: object) -> list[float]:
    config = dataclasses.replace(FALLING, **changed)  # type: ignore[arg-type]
    return [step.temperature for step in schedule(config, steps, blocks)]


def test_without_one_it_falls_to_zero_as_in_the_paper() -> None:
    exactly = [0.8 * (3 / 4), 0.8 * (2 / 4), 0.8 * (1 / 4), 0.0]
    assert temperatures() == temperatures(final_temperature=0.0) == exactly


def test_it_falls_evenly_to_the_final_one_in_every_block() -> None:
    block = pytest.approx([0.65, 0.5, 0.35, 0.2])
    both = temperatures(8, 2, final_temperature=0.2)
    assert both[:4] == block
    assert both[4:] == block


def test_it_never_rises_and_stays_constant_unless_it_falls() -> None:
    assert temperatures(final_temperature=1.5) == [0.8] * 4
    assert temperatures(final_temperature=0.2, anneal_temperature=False) == [0.8] * 4


def test_one_that_would_do_nothing_is_refused_and_not_recorded() -> None:
    with pytest.raises(UsageError, match="final_temperature has no effect"):
        resolve(DecodingConfig(final_temperature=0.2, anneal_temperature=False), FALLING, MASKED)
    own = dataclasses.replace(FALLING, final_temperature=0.2)
    falls = resolve(DecodingConfig(), own, MASKED)
    stays = resolve(DecodingConfig(anneal_temperature=False), own, MASKED)
    assert used(falls, "masked", rescored=False)["final_temperature"] == 0.2
    assert "final_temperature" not in used(stays, "masked", rescored=False)
