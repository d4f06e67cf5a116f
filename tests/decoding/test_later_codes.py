"""Codes of later stages by the mean of what the model expects."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from magnet_cli.api import load_model
from magnet_cli.decoding import iterative
from magnet_cli.decoding.contracts import Decoding, StepEvent
from magnet_cli.decoding.sampling import make_generators, nearest_to_mean
from magnet_cli.errors import MagnetError
from magnet_cli.models.codec import AudioCodec
from magnet_cli.settings import DECODING_DEFAULTS, DecodingConfig, SpanOrder

CARD, STREAMS, FRAMES = 7, 4, 20
STAGES = ((0, 1), (2, 3))
BOOKS = torch.randn(STREAMS, CARD, 3, generator=torch.Generator().manual_seed(5))
MEAN = dataclasses.replace(
    DECODING_DEFAULTS, decoding_steps=(4, 3), span_len=1, later_codes="mean", max_cfg_coef=3.0
)


def slow(logits: Tensor, vectors: Tensor) -> int:
    """The code with the least expected squared error, by its definition."""
    likely = logits.softmax(-1)
    errors = [(likely * (vectors - vector).square().sum(-1)).sum() for vector in vectors]
    return int(torch.stack(errors).argmin())


def test_the_code_has_the_least_expected_squared_error() -> None:
    chance = torch.Generator().manual_seed(1)
    asked = torch.rand(3, 2, FRAMES, generator=chance) < 0.6
    logits = 2 * torch.randn(int(asked.sum()), CARD, generator=chance)
    tokens, probs = nearest_to_mean(logits, BOOKS, (2, 3), asked)
    places = asked.nonzero()[:, 1].tolist()
    wanted = [slow(row, BOOKS[2 + place]) for row, place in zip(logits, places, strict=True)]
    assert tokens.tolist() == wanted
    torch.testing.assert_close(probs, logits.softmax(-1).gather(-1, tokens[:, None])[:, 0])
    assert tokens.tolist() != logits.argmax(-1).tolist()
    with pytest.raises(MagnetError, match="NaN or infinite"):
        nearest_to_mean(logits * float("nan"), BOOKS, (2, 3), asked)


@pytest.mark.parametrize("order", ["certainty", "spread", "blocks"])
def test_only_later_stages_take_the_mean_and_need_no_null_pass(order: SpanOrder) -> None:
    table = torch.randn(CARD + 1, CARD, generator=torch.Generator().manual_seed(0))
    asked: list[tuple[int, bool]] = []
    events: list[StepEvent] = []

    def logits(
        codes: Tensor, stage: int, at: Tensor, with_null: bool, end: int
    ) -> tuple[Tensor, Tensor | None]:
        asked.append((stage, with_null))
        near = table[codes[:, [0, 1]].roll(1, -1)[at]]
        return near, torch.zeros_like(near) if with_null else None

    def made(config: DecodingConfig, known: Tensor, seed: int = 3) -> Tensor:
        decoding = Decoding(
            dataclasses.replace(config, span_order=order),
            CARD,
            make_generators([seed]),
            on_step=events.append,
            stages=STAGES,
            codebooks=BOOKS,
        )
        return iterative.decode(logits, torch.ones_like(known, dtype=torch.int64), known, decoding)

    nothing = torch.zeros(1, STREAMS, FRAMES, dtype=torch.bool)
    by_mean = made(MEAN, nothing)
    assert {with_null for stage, with_null in asked if stage == 1} == {False}
    assert True in {with_null for stage, with_null in asked if stage == 0}
    told = {(event.stage, event.cfg_coef, event.temperature) for event in events}
    assert {each for each in told if each[0] == 1} == {(1, 1.0, 0.0)}
    sampled = made(dataclasses.replace(MEAN, later_codes="sampled"), nothing)
    assert torch.equal(by_mean[:, :2], sampled[:, :2])
    assert not torch.equal(by_mean[:, 2:], sampled[:, 2:])
    if order != "certainty":  # what the first stage has decided is all that these logits depend on
        near = table[by_mean[:, [0, 1]].roll(1, -1)]
        wanted = [[slow(row, BOOKS[2 + k]) for row in near[0, k]] for k in range(2)]
        assert by_mean[0, 2:].tolist() == wanted
    known = nothing.clone()
    known[0, 2, 4:9] = True
    kept = made(MEAN, known)
    assert kept[known].tolist() == [1] * 5


def test_sounds_without_a_tempo_are_sampled_at_their_temperature() -> None:
    table = torch.randn(CARD + 1, CARD, generator=torch.Generator().manual_seed(0))

    def logits(
        codes: Tensor, stage: int, at: Tensor, with_null: bool, end: int
    ) -> tuple[Tensor, None]:
        return table[codes[:, [0, 1]].roll(1, -1)[at]], None

    def made(seeds: list[int], tempoless: tuple[bool, ...], **settings: object) -> Tensor:
        config = dataclasses.replace(MEAN, decoding_steps=(3, 1), **settings)  # type: ignore[arg-type]
        nothing = torch.zeros(len(seeds), STREAMS, FRAMES, dtype=torch.bool)
        decoding = Decoding(
            dataclasses.replace(config, span_order="spread"),
            CARD,
            make_generators(seeds),
            stages=STAGES,
            codebooks=BOOKS,
            tempoless=tempoless,
        )
        return iterative.decode(logits, nothing.long(), nothing, decoding)

    both = made([1, 2], (True, False), sound_temperature=0.8)
    steady = {"temperature": 0.8, "anneal_temperature": False}
    sampled = made([1], (), later_codes="sampled", max_cfg_coef=1.0, **steady)
    assert torch.equal(both[:1], sampled)
    assert torch.equal(both[1:], made([2], ()))
    assert not torch.equal(both[:1, 2:], made([1], (), **steady)[:, 2:])
    # Without a temperature of their own, they have the clip's, which does not fall here.
    falling = made([1], (True,), sound_temperature=0.0, temperature=0.8, max_cfg_coef=1.0)
    assert not torch.equal(falling[:, 2:], made([1], (), temperature=0.8, max_cfg_coef=1.0)[:, 2:])


def test_the_built_in_models_codes_do_not_depend_on_their_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nano = load_model(None, offline=True)
    read: list[int] = []
    books = AudioCodec.codebooks
    monkeypatch.setattr(AudioCodec, "codebooks", lambda codec: read.append(1) or books(codec))
    config = DecodingConfig(decoding_steps=(4, 1, 1), later_codes="mean")
    both = nano.generate(["piano", "rain"], config, seeds=[1, 2], frames=50).codes
    alone = [
        nano.generate([prompt], config, seeds=[seed], frames=50).codes[0]
        for prompt, seed in (("piano", 1), ("rain", 2))
    ]
    assert torch.equal(both[0], alone[0])
    assert torch.equal(both[1], alone[1])
    assert len(read) == 3
    sampled = dataclasses.replace(config, later_codes="sampled")
    other = nano.generate(["piano", "rain"], sampled, seeds=[1, 2], frames=50).codes
    assert torch.equal(other[:, :4], both[:, :4])
    assert not torch.equal(other[:, 4:], both[:, 4:])
    assert len(read) == 3  # not needed
