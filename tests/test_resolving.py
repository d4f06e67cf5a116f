"""Settings: precedence and refusals."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magnet_cli.errors import UsageError
from magnet_cli.resolving import for_prefix, resolve, used
from magnet_cli.settings import DECODING_DEFAULTS, DecodingConfig
from tests.models.tiny import tiny_lm

MASKED = tiny_lm("masked").config
CAUSAL = tiny_lm("autoregressive").config
HYBRID = tiny_lm("hybrid").config


def test_the_user_wins_over_the_checkpoint_over_the_paper() -> None:
    checkpoint = DecodingConfig(temperature=3.5, top_p=0.8)
    config = resolve(DecodingConfig(temperature=1.0), checkpoint, MASKED)
    assert (config.temperature, config.top_p, config.max_cfg_coef) == (1.0, 0.8, 10.0)
    assert config.span_len == MASKED.span_len
    # The temperature of the first seconds is unknown until the writing model is; so is the context, which is
    # then that model's.
    open_ = [name for name, value in vars(config).items() if value is None]
    writers = ["hybrid_temperature", "hybrid_top_p", "hybrid_top_k"]
    assert open_ == ["subcodes_context", *writers]


def test_the_first_seconds_have_the_writers_temperature_unless_theirs_is_said() -> None:
    writer = DecodingConfig(temperature=0.7, top_k=50)
    given = DecodingConfig(temperature=3.0, top_p=0.5, cfg_coef=2.0, hybrid=1.0)
    config = resolve(given, DecodingConfig(), MASKED)
    prefix = for_prefix(config, writer)
    assert (prefix.temperature, prefix.top_k, prefix.cfg_coef) == (0.7, 50, 2.0)
    said = resolve(DecodingConfig(hybrid_temperature=0.9), DecodingConfig(hybrid=1.0), HYBRID)
    assert for_prefix(said, writer).temperature == 0.9
    assert for_prefix(said, DecodingConfig()).temperature == 0.9
    assert for_prefix(config, DecodingConfig()).temperature == 1.0
    plain = used(said, "hybrid", rescored=False)
    assert "hybrid_temperature" not in plain
    written = used(
        said, "hybrid", rescored=False, hybrid=1.0, prefix=for_prefix(said, DecodingConfig())
    )
    assert (written["hybrid"], written["hybrid_temperature"]) == (1.0, 0.9)


def test_a_hybrid_trained_models_first_seconds_follow_what_is_asked_of_the_rest() -> None:
    habit = DecodingConfig(temperature=0.7, top_p=0.9, hybrid=2.0, hybrid_temperature=0.8)
    plain = for_prefix(resolve(DecodingConfig(), habit, HYBRID), DecodingConfig())
    assert (plain.temperature, plain.top_p, plain.top_k) == (0.8, 0.0, 250)  # its own default
    asked = resolve(DecodingConfig(temperature=1.2, top_p=0.5), habit, HYBRID)
    prefix = for_prefix(asked, DecodingConfig())
    assert (prefix.temperature, prefix.top_p, prefix.top_k) == (1.2, 0.5, 0)
    apart = DecodingConfig(temperature=1.2, top_p=0.5, hybrid_temperature=0.6, hybrid_top_p=0.0)
    prefix = for_prefix(resolve(apart, habit, HYBRID), DecodingConfig())
    assert (prefix.temperature, prefix.top_p, prefix.top_k) == (0.6, 0.0, 250)


@pytest.mark.parametrize(
    ("asked", "top_p", "top_k"),
    [
        ({}, 0.8, 0),
        ({"top_k": 1}, 0.0, 1),  # it affected only the last second
        ({"top_p": 0.5}, 0.5, 0),
        ({"top_p": 0.0}, 0.0, 0),  # off; it turned on the 250 likeliest
        ({"top_k": 0}, 0.8, 0),
        ({"top_k": 5, "top_p": 0.5}, 0.5, 5),
        ({"hybrid_top_k": 7}, 0.0, 7),
        ({"hybrid_top_p": 0.6}, 0.6, 0),
        ({"hybrid_top_p": 0.0}, 0.0, 250),
        ({"hybrid_top_p": 0.6, "hybrid_top_k": 7}, 0.6, 7),
        ({"hybrid_top_k": 7, "top_p": 0.5}, 0.0, 7),
        ({"hybrid_top_p": 0.6, "top_k": 5}, 0.6, 0),
        ({"hybrid_top_p": 0.0, "top_k": 5}, 0.0, 5),
    ],
)
def test_filters_that_are_asked_for_reach_a_hybrid_trained_models_first_seconds(
    asked: dict, top_p: float, top_k: int
) -> None:
    habit = DecodingConfig(top_p=0.9, hybrid_top_p=0.8, hybrid=2.0)
    config = resolve(DecodingConfig(**asked), habit, HYBRID)
    prefix = for_prefix(config, DecodingConfig())
    assert (prefix.top_p, prefix.top_k) == (top_p, top_k)


def test_filters_of_masked_decoding_mean_nothing_to_another_models_first_seconds() -> None:
    for asked in (DecodingConfig(top_k=5, hybrid=1.0), DecodingConfig(top_p=0.0, hybrid=1.0)):
        prefix = for_prefix(resolve(asked, DecodingConfig(), MASKED), DecodingConfig(top_k=50))
        assert (prefix.top_p, prefix.top_k) == (0.0, 50)
    said = resolve(DecodingConfig(hybrid_top_k=3, hybrid=1.0), DecodingConfig(), MASKED)
    assert for_prefix(said, DecodingConfig(top_p=0.7, top_k=0)).top_p == 0.0
    assert for_prefix(said, DecodingConfig(top_p=0.7, top_k=0)).top_k == 3


@pytest.mark.parametrize("field", ["coherence_boost", "frequency_penalty"])
def test_what_is_against_hanging_is_for_what_is_written_step_by_step(field: str) -> None:
    asked = DecodingConfig(**{field: 0.4, "hybrid": 1.0})
    prefix = for_prefix(resolve(asked, DecodingConfig(), MASKED), DecodingConfig())
    assert getattr(prefix, field) == 0.4
    habit = DecodingConfig(**{field: 0.2})
    prefix = for_prefix(resolve(DecodingConfig(), habit, HYBRID), DecodingConfig())
    assert getattr(prefix, field) == 0.2
    assert getattr(resolve(DecodingConfig(), DecodingConfig(), CAUSAL), field) == 0
    with pytest.raises(UsageError, match=f"{field} cannot be used"):
        resolve(DecodingConfig(**{field: 0.4}), DecodingConfig(), MASKED)


def test_autoregressive_models_have_defaults_of_their_own() -> None:
    config = resolve(DecodingConfig(), DecodingConfig(), CAUSAL)
    assert (config.temperature, config.top_k, config.top_p) == (1.0, 250, 0.0)


def test_choosing_one_filter_switches_the_others_default_off() -> None:
    assert resolve(DecodingConfig(top_k=5), DecodingConfig(), MASKED).top_p == 0
    assert resolve(DecodingConfig(top_p=0.5), DecodingConfig(), CAUSAL).top_k == 0
    both = resolve(DecodingConfig(top_k=5, top_p=0.5), DecodingConfig(), MASKED)
    assert (both.top_k, both.top_p) == (5, 0.5)


def test_one_number_of_steps_is_for_all_streams() -> None:
    assert resolve(
        DecodingConfig(decoding_steps=(7,)), DecodingConfig(), MASKED
    ).decoding_steps == ((7,) * MASKED.n_q)


@pytest.mark.parametrize("steps", [(8, 4), (1, 2, 3, 4, 5)])
def test_a_list_of_another_length_is_refused(steps: tuple[int, ...]) -> None:
    """The reference left mask ids in its output for streams without steps."""
    with pytest.raises(UsageError, match="4 streams"):
        resolve(DecodingConfig(decoding_steps=steps), DecodingConfig(), MASKED)


def test_settings_of_another_kind_of_model_are_refused() -> None:
    with pytest.raises(UsageError, match="span_len"):
        resolve(DecodingConfig(span_len=3), DecodingConfig(), CAUSAL)
    with pytest.raises(UsageError, match="cfg_coef"):
        resolve(DecodingConfig(cfg_coef=3.0), DecodingConfig(), MASKED)


@pytest.mark.parametrize(
    "bad",
    [
        {"decoding_steps": ()},
        {"decoding_steps": (0, 1, 1, 1)},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_p": 1.1},
        {"top_k": -1},
        {"hybrid_top_k": -1},
        {"top_k": 2.5},
        {"temperature": "hot"},
        {"decoding_steps": 5},
        {"rescore_streams": 0},
        {"span_len": 0},
        {"span_arrangement": "overlap"},
        {"span_scoring": "min"},
        {"max_cfg_coef": float("inf")},
    ],
)
def test_impossible_values_are_refused_with_what_the_setting_takes(bad: dict) -> None:
    with pytest.raises(UsageError) as error:
        DecodingConfig(**bad)
    (field,) = bad
    assert field in error.value.message
    assert (error.value.hint or "").startswith("It takes ")


@given(temperature=st.none() | st.floats(0, 100), top_k=st.none() | st.integers(0, 99))
def test_over_keeps_what_is_given(temperature: float | None, top_k: int | None) -> None:
    config = DecodingConfig(temperature=temperature, top_k=top_k)
    merged = config.over(DECODING_DEFAULTS)
    want = DECODING_DEFAULTS.temperature if temperature is None else temperature
    assert merged.temperature == want
    assert config.over(merged) == merged


@pytest.mark.parametrize("asked", [{"cfg_coef": 3.0}, {"hybrid_temperature": 0.5}])
def test_settings_of_autoregressive_seconds_need_such_seconds(asked: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="cannot be used with this model") as error:
        resolve(DecodingConfig(**asked), DecodingConfig(hybrid=0.0), HYBRID)
    assert error.value.hint == "Leave it out, or use hybrid."
    for seconds, own in ((2.0, 0.0), (0.0, 0.0), (None, 2.0)):
        made = resolve(DecodingConfig(hybrid=seconds, **asked), DecodingConfig(hybrid=own), HYBRID)
        assert asked.items() <= made.given().items()


@pytest.mark.parametrize("order", ["spread", "blocks"])
@pytest.mark.parametrize("asked", [{"span_scoring": "prod"}, {"score_noise": 2.0}])
def test_who_asks_about_scores_has_spans_decided_by_them(asked: dict[str, Any], order: Any) -> None:
    spread = DecodingConfig(span_order=order)
    assert resolve(DecodingConfig(), spread, MASKED).span_order == order
    assert resolve(DecodingConfig(**asked), spread, MASKED).span_order == "certainty"
    assert resolve(DecodingConfig(), spread, MASKED, rescored=True).span_order == "certainty"
    with pytest.raises(UsageError, match=f"{order} ignores span scores"):
        resolve(DecodingConfig(span_order=order, **asked), DecodingConfig(), MASKED)
    with pytest.raises(UsageError, match="rescorer cannot be used"):
        resolve(spread, DecodingConfig(), MASKED, rescored=True)
