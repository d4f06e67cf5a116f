"""The temperature of clips without a tempo does not fall."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from magnet_cli.api import Model, load_model
from magnet_cli.decoding import iterative
from magnet_cli.decoding.contracts import Decoding, StepEvent
from magnet_cli.decoding.sampling import Sampler, make_generators
from magnet_cli.editing.pieces import Direction, Filler
from magnet_cli.request import GenerationRequest, make_request
from magnet_cli.settings import DECODING_DEFAULTS, DecodingConfig, SpanOrder

CARD, FRAMES = 9, 30
FALLING = dataclasses.replace(
    DECODING_DEFAULTS, decoding_steps=(6, 6), span_len=1, temperature=0.8, max_cfg_coef=1.0
)
ORDERS: tuple[SpanOrder, ...] = ("certainty", "spread", "blocks")


def made(
    config: DecodingConfig, tempoless: tuple[bool, ...], seeds: tuple[int, ...] = (1, 2)
) -> tuple[Tensor, list[float]]:
    """Codes of two streams, and the temperatures reported, for logits that depend on what is decided."""
    table = torch.randn(CARD + 1, CARD, generator=torch.Generator().manual_seed(0))
    reported: list[float] = []

    def logits(
        codes: Tensor, stage: int, at: Tensor, with_null: bool, end: int
    ) -> tuple[Tensor, None]:
        before = codes[:, [stage]].roll(1, -1)
        return table[before[at]], None

    def on_step(event: StepEvent) -> None:
        reported.append(event.temperature)

    decoding = Decoding(
        config, CARD, make_generators(seeds), on_step=on_step, tempoless=tempoless, block_len=10
    )
    codes = torch.zeros(len(seeds), 2, FRAMES, dtype=torch.int64)
    return iterative.decode(logits, codes, codes > 0, decoding), reported


@pytest.mark.parametrize("order", ORDERS)
def test_only_sounds_keep_it(order: SpanOrder) -> None:
    """Each item as it is alone; those with a tempo as without the setting."""
    falling = dataclasses.replace(FALLING, span_order=order)
    config = dataclasses.replace(falling, sound_temperature=1.2)
    constant = dataclasses.replace(falling, temperature=1.2, anneal_temperature=False)
    both, reported = made(config, (True, False))
    sound, all_steps = made(constant, (), (1,))
    assert torch.equal(both[:1], sound)
    assert torch.equal(both[1:], made(falling, (), (2,))[0])
    assert reported == all_steps == [1.2] * 12
    assert torch.equal(made(config, (False, False))[0], made(falling, ())[0])
    assert torch.equal(made(config, ())[0], made(falling, ())[0])
    assert torch.equal(made(falling, (True, True))[0], made(falling, ())[0])  # 0: as others
    assert not torch.equal(sound, made(falling, (), (1,))[0])


def test_rows_are_drawn_at_their_own_temperature() -> None:
    chance = torch.Generator().manual_seed(3)
    logits, noise = torch.randn(5000, CARD, generator=chance), torch.rand(5000, generator=chance)
    each = torch.tensor([0.0, 0.5, 1.0, 3.0, 0.9]).repeat(1000)
    sampler = Sampler(True, 0.9, 0)
    tokens, probs = sampler(logits, each, noise)
    for temperature in each.unique().tolist():
        rows = each == temperature
        want = sampler(logits[rows], temperature, noise[rows])
        assert torch.equal(tokens[rows], want[0])
        assert torch.equal(probs[rows], want[1])


@pytest.fixture(scope="module")
def nano() -> Model:
    return load_model(None, device="cpu", dtype="float32", offline=True)


def request(nano: Model, *prompts: str | None, **settings: object) -> GenerationRequest:
    config = DecodingConfig(**{"sound_temperature": 1.0, **settings})  # type: ignore[arg-type]
    return make_request(nano.parts, prompts, config=config, seeds=[1] * len(prompts), frames=25)


def test_a_sound_is_what_has_no_tempo(nano: Model) -> None:
    """By the prompt, or as the model draws it; of an edit, too, whose sound may be of another tempo."""
    prompts = ("footsteps", "techno with drums", "footsteps, 100 bpm", None, "")
    want = (True, False, False, False, False)
    assert request(nano, *prompts).tempoless == want
    assert request(nano, *prompts, bar_repeat=0.0, half_bar_repeat=0.0).tempoless == want
    known = torch.zeros(1, nano.n_q, 10, dtype=torch.int64)
    config = DecodingConfig(sound_temperature=1.0)
    begun = [
        make_request(
            nano.parts, [p], config=config, seeds=[1], frames=25, prompt_codes=known
        ).tempoless
        for p in prompts[:2]
    ]
    assert begun == [(True,), (False,)]
    filler = Filler(nano, Direction.of("footsteps", 1, config=config), 600, bars=[48.0])
    assert filler.request.tempoless == (True,)


def test_without_a_tempo_head_a_prompt_without_bpm_is_a_sound_only_if_sounds_are_asked_for(
    nano: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else `later_codes` would depend on whether bars are repeated."""
    of_mean = {"sound_temperature": 0.0, "later_codes": "mean"}
    assert request(nano, "footsteps", **of_mean, bar_repeat=0.0).tempoless == (True,)
    monkeypatch.setitem(nano.lm._modules, "tempo", None)
    for bar_repeat in (0.0, 2.0):
        assert request(nano, "footsteps", **of_mean, bar_repeat=bar_repeat).tempoless == ()
    assert request(nano, "footsteps", later_codes="mean").tempoless == (True,)


def test_what_the_user_says_of_the_temperature_is_for_sounds_too(nano: Model) -> None:
    parts = dataclasses.replace(
        nano.parts, defaults=dataclasses.replace(nano.defaults, sound_temperature=1.0)
    )

    def resolved(**given: object) -> float | None:
        config = DecodingConfig(**given)  # type: ignore[arg-type]
        return make_request(parts, ["rain"], config=config, frames=25).config.sound_temperature

    assert resolved() == resolved(top_p=0.5) == 1.0
    assert resolved(temperature=0.5) == resolved(anneal_temperature=True) == 0.0
    assert resolved(temperature=0.5, sound_temperature=0.7) == 0.7
