"""Benchmarks: passes are counted exactly, and sampling steps changes only estimates."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from magnet_cli.api import Model
from magnet_cli.config import Modeling
from magnet_cli.errors import CheckpointError, UsageError
from magnet_cli.evaluation import bench, shapes
from magnet_cli.evaluation.bench import Plan, Supply, Way, measure, parse_way
from magnet_cli.evaluation.stopwatch import Watch
from magnet_cli.evaluation.timings import Row, overtaking
from magnet_cli.models.parts import Parts
from magnet_cli.models.transformer import Attention
from magnet_cli.request import make_request
from tests.cli.conftest import SMALL
from tests.models.tiny import golden_model, tiny_lm

FRAMES = 10  # 0.2 s
SECONDS = 0.2


def parts(modeling: Modeling) -> Parts:
    """A tiny model with golden's codec, and random vectors for texts."""
    codec = golden_model(SMALL).codec
    lm = tiny_lm(modeling)
    lm.config = dataclasses.replace(lm.config, card=codec.card)
    config = lm.config
    return shapes.random_parts(modeling, config, "float32", torch.device("cpu"), codec)


def supply(modeling: Modeling = "masked", partner: bool = True) -> Supply:
    return Supply(
        lambda dtype: parts(modeling), (lambda dtype: parts("autoregressive")) if partner else None
    )


def plan(*ways: str, **more: object) -> Plan:
    settings = {"duration": SECONDS, "steps": (4, 2, 2, 2), "repeats": 1, **more}
    return Plan(tuple(map(parse_way, ways)) or None, ("float32",), **settings)  # type: ignore[arg-type]


# Masked: two passes a step, but one at the last of each stage, where guidance is 1. Step by step: two for
# each of 10 frames and 3 steps of delay. A hybrid's 5 frames take 5 + 3 steps. A rescorer reads after each
# step but a stage's last.
MASKED = 2 * (4 + 2 + 2 + 2) - 4
PASSES = {
    "masked": MASKED,
    "autoregressive": 2 * (FRAMES + 3),
    "hybrid:0.1": 2 * (5 + 3) + MASKED,
    "rescorer": MASKED + 3 + 1 + 1 + 1,
}


@pytest.mark.usefixtures("hub_cache")
def test_passes_are_exact_for_every_way_and_batch() -> None:
    said: list[tuple[int, int]] = []
    found = bench.bench(
        "tiny", supply(), plan(*PASSES, batches=(1, 3)), lambda *run: said.append(run)
    )
    assert {(row.way, row.batch): row.passes for row in found.rows} == {
        (way, batch): passes for way, passes in PASSES.items() for batch in (1, 3)
    }
    assert said == [(done, 16) for done in range(1, 17)]  # each row warmed up and measured
    assert all(row.clip == SECONDS and len(row.seconds) == 1 for row in found.rows)
    assert found.codec > 0


@pytest.mark.usefixtures("hub_cache")
def test_a_hybrid_trained_model_goes_all_ways_alone() -> None:
    found = bench.bench("tiny", supply("hybrid", partner=False), plan(*PASSES))
    # Its prefix is read once for each text, guided and not.
    assert {row.way: row.passes for row in found.rows} == {
        **PASSES,
        "hybrid:0.1": PASSES["hybrid:0.1"] + 2,
    }
    # A partner that is given is used by all ways but the first.
    given = supply("hybrid")
    loaded: list[str] = []

    def partner(dtype: str) -> Parts:
        loaded.append("partner")
        return parts("autoregressive")

    def asked(dtype: str) -> Parts:
        loaded.append("asked")
        return given.asked(dtype)

    bench.bench("tiny", Supply(asked, partner), plan("autoregressive", "rescorer", "masked"))
    assert loaded == ["asked", "partner", "asked"]


@pytest.mark.usefixtures("hub_cache")
def test_a_sample_counts_as_many_passes_and_leaves_the_model_as_it_was() -> None:
    for modeling, way in (("masked", "masked"), ("autoregressive", "autoregressive")):
        model = Model(parts(modeling))  # type: ignore[arg-type]
        request = make_request(model.parts, ["rain"], seeds=[1], frames=FRAMES)
        before = model.decode(request)
        whole, sampled = measure(model, request), measure(model, request, 1)
        assert whole.passes == sampled.passes, way
        assert 0 < sampled.seconds < 100 * whole.seconds
        assert "forward" not in vars(model.lm.transformer)
        assert torch.equal(model.decode(request), before)


@pytest.mark.usefixtures("hub_cache")
def test_a_sample_of_a_sequence_is_spread_over_it() -> None:
    """Later steps see more, so the first few would be too fast."""
    model = parts("autoregressive")
    watch = Watch(4, torch.device("cpu"))
    timed: list[int] = []
    network = model.lm.transformer
    forward = network.forward
    network.forward = lambda x, a, c, cache: timed.append(cache.length) or forward(x, a, c, cache)
    cache = network.new_cache(1, 100, model.lm.out_norm.weight)
    with watch.over(model.lm):
        for _ in range(100):
            network(torch.zeros(1, 1, 32), Attention.causal(), None, cache)
    assert timed == [0, 25, 50, 75]
    assert watch.passes == 100


def test_a_way_is_read() -> None:
    assert parse_way(" hybrid:2") == Way("hybrid", 2.0)
    assert parse_way("hybrid:2").name == "hybrid:2"


@pytest.mark.parametrize("text", ["", "hybrid", "hybrid:", "hybrid:0", "hybrid:x", "masked:1", "x"])
def test_other_ways_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no decoding method"):
        parse_way(text)


@pytest.mark.usefixtures("hub_cache")
def test_a_way_that_a_model_cannot_go_is_refused() -> None:
    with pytest.raises(UsageError, match="--partner"):
        bench.bench("tiny", supply(partner=False), plan("rescorer"))
    with pytest.raises(UsageError, match="is autoregressive"):
        bench.bench("tiny", supply("autoregressive", partner=False), plan("masked"))
    with pytest.raises(UsageError, match="has no partner"):
        bench.bench("tiny", supply("autoregressive"), plan("autoregressive"))
    found = bench.bench("tiny", supply(partner=False), plan())
    assert [row.way for row in found.rows] == ["masked"]


@pytest.mark.usefixtures("hub_cache")
def test_all_ways_are_checked_before_the_first_is_measured() -> None:
    said: list[int] = []
    with pytest.raises(UsageError, match="rescorer needs"):
        bench.bench(
            "tiny", supply(partner=False), plan("masked", "rescorer"), lambda *run: said.append(1)
        )
    assert not said


@pytest.mark.usefixtures("hub_cache")
def test_what_was_measured_before_an_interruption_is_kept() -> None:
    def interrupt(done: int, total: int) -> None:
        if done == when:
            raise error

    for error in (KeyboardInterrupt(), CheckpointError("cut"), RuntimeError("out of memory")):
        when = 3  # the second way is warming up
        found = bench.bench("tiny", supply(), plan("masked", "rescorer"), interrupt)
        assert found.interrupted is error
        assert [row.way for row in found.rows] == ["masked"]
        assert found.record()["interrupted"] is True
        when = 1
        with pytest.raises(type(error)):
            bench.bench("tiny", supply(), plan("masked"), interrupt)


def row(way: str, batch: int, seconds: tuple[float, ...]) -> Row:
    return Row(way, "float32", batch, 10.0, 96, 10**9, seconds)


def test_figures_of_a_row() -> None:
    made = row("masked", 4, (30.0, 20.0, 50.0))
    assert (made.median, made.quartiles) == (30.0, (25.0, 40.0))
    assert (made.clips_a_minute, made.times_real_time) == (8.0, 40 / 30)
    assert row("masked", 1, (2.0,)).quartiles == (2.0, 2.0)


def test_where_autoregression_overtakes() -> None:
    masked = [row("masked", batch, (10.0 * batch,)) for batch in (1, 2, 4)]

    def said(*seconds: float) -> str:
        written = [
            row("autoregressive", batch, (each,))
            for batch, each in zip((1, 2, 4), seconds, strict=True)
        ]
        (sentence,) = overtaking([*masked, *written])
        return sentence

    assert "overtakes masked between batch 2 and 4" in said(30, 30, 30)
    assert "from batch 1 on" in said(5, 5, 5)
    assert "masked makes more clips a minute than autoregressive up to batch 4" in said(99, 99, 99)
    assert "slower again at 4" in said(99, 5, 99)
    assert overtaking(masked) == []


def test_a_shape_has_the_sizes_of_what_was_released() -> None:
    config = shapes.lm_config(shapes.find_shape("small"), "masked", 10.0)
    with torch.device("meta"):
        lm = shapes.LanguageModel(config)
    assert sum(each.numel() for each in lm.parameters()) == 420_371_456
    assert config.segment_frames == 500
    with pytest.raises(UsageError, match="small or medium"):
        shapes.find_shape("huge")
