"""Confidence intervals have their nominal coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest

from magnet_cli.evaluation.statistics import (
    Estimate,
    crowd_estimate,
    difference_p,
    extrapolate,
    holm,
    jackknife,
    mean_estimate,
    wilson,
)

ROUNDS = 250
# 95 % of 250 rounds, give or take three standard errors of a share.
AS_OFTEN = (0.95 - 3 * math.sqrt(0.95 * 0.05 / ROUNDS), 1.0)


def share_held(estimates: list[Estimate], truth: float) -> float:
    return sum(one.holds(truth) for one in estimates) / len(estimates)


def test_the_mean_of_skewed_figures_is_held_as_often_as_said() -> None:
    rng = np.random.default_rng(0)
    found = [mean_estimate(rng.gamma(2.0, 1.0, 40), 500, seed=i) for i in range(ROUNDS)]
    assert share_held(found, 2.0) >= 0.9  # forty draws of so skewed a figure
    # The mean of a skewed sample is more often too small, so there is more room above it.
    assert sum(one.high - one.value > one.value - one.low for one in found) > 0.9 * ROUNDS


def test_the_mean_of_plain_figures_is_held_as_often_as_said_even_of_twelve() -> None:
    rng = np.random.default_rng(1)
    found = [mean_estimate(rng.normal(1.0, 2.0, 12), 500, seed=i) for i in range(ROUNDS)]
    assert AS_OFTEN[0] <= share_held(found, 1.0)


def test_the_order_of_files_does_not_matter() -> None:
    values = np.random.default_rng(2).normal(size=30)
    assert mean_estimate(values) == mean_estimate(values[::-1])


def test_few_clips_have_no_interval_and_equal_clips_a_point() -> None:
    assert math.isnan(mean_estimate([1.0, 2.0]).low)
    assert math.isnan(mean_estimate([]).value)
    assert mean_estimate([3.0, 3.0, 3.0]) == Estimate(3.0, 3.0, 3.0, 3)
    assert Estimate(1.0).holds(7.0)  # nothing is known, so nothing is excluded
    assert Estimate(math.nan).record() == {"value": None, "low": None, "high": None, "count": 0}


def test_a_jackknifed_mean_has_the_textbook_interval() -> None:
    data = np.random.default_rng(3).normal(size=20)
    without = (data.sum() - data) / 19
    found = jackknife(float(data.mean()), [without], 20)
    half = 2.0930240544 * data.std(ddof=1) / math.sqrt(20)  # t of 19 degrees
    assert found.high - found.value == pytest.approx(half)


def test_two_clips_without_a_counterpart_hardly_widen_an_interval() -> None:
    rng = np.random.default_rng(7)
    many, two = rng.normal(1.0, 0.1, 58), np.array([1.0, 1.01])
    alone, both = (jackknife(1.0, kinds, 60) for kinds in ([many], [many, two]))
    assert both.high - both.value == pytest.approx(alone.high - alone.value, rel=0.01)
    # One kind alone has the interval of its own degrees of freedom; equal kinds have twice as many.
    half = 2.0024654593 * math.sqrt(57 / 58 * ((many - many.mean()) ** 2).sum())
    assert alone.high - alone.value == pytest.approx(half, rel=1e-9)
    equal = jackknife(1.0, [many, many], 116)
    assert equal.high - equal.value == pytest.approx(1.9809922980 / 2.0024654593 * half * 2**0.5)
    assert jackknife(1.0, [np.ones(5)], 5) == Estimate(1.0, 1.0, 1.0, 5)


def test_a_jackknifed_difference_of_two_kinds_is_held_as_often_as_said() -> None:
    rng = np.random.default_rng(4)
    found = []
    for _ in range(ROUNDS):
        one, two = rng.normal(1, 1, 30), rng.normal(0, 2, 50)
        value = float(one.mean() - two.mean())
        strata = [
            (one.sum() - one) / 29 - two.mean(),
            one.mean() - (two.sum() - two) / 49,
        ]
        found.append(jackknife(value, strata, 80))
    assert AS_OFTEN[0] <= share_held(found, 1.0)


def test_extrapolation_finds_the_limit() -> None:
    sizes = [500, 1000, 2000]
    assert extrapolate(sizes, [3 + 70 / size for size in sizes]) == pytest.approx(3)


def opinions(rng: np.random.Generator, raters: int, clips: int) -> np.ndarray:
    raters_, clips_ = rng.normal(0, 6, (raters, 1)), rng.normal(0, 8, (1, clips))
    return 60 + raters_ + clips_ + rng.normal(0, 10, (raters, clips))


def test_mean_opinions_are_held_as_often_as_said() -> None:
    rng = np.random.default_rng(5)
    found = [crowd_estimate(opinions(rng, 8, 20)) for _ in range(ROUNDS)]
    assert share_held(found, 60.0) >= 0.92


def test_mean_opinions_with_gaps_are_held_too() -> None:
    rng = np.random.default_rng(6)
    found = []
    for _ in range(ROUNDS):
        ratings = opinions(rng, 10, 20)
        ratings[rng.random(ratings.shape) < 0.3] = math.nan
        found.append(crowd_estimate(ratings))
    assert share_held(found, 60.0) >= 0.92


def test_crowdmos_as_its_authors_compute_it() -> None:
    # Variances within columns, within rows and over all, solved for their three parts by hand.
    ratings = np.array([[50.0, 60.0, 80.0], [54.0, 70.0, 74.0]])
    within_clip, within_rater = (8 + 50 + 18) / 3, (700 / 3 + 112) / 2
    overall = ratings.var(ddof=1)
    clip, rater = overall - within_clip, max(0, overall - within_rater)
    rest = max(0, within_clip + within_rater - overall)
    variance = clip / 3 + rater / 2 + rest / 6
    found = crowd_estimate(ratings)
    assert found.value == pytest.approx(388 / 6)
    assert found.high - found.value == pytest.approx(12.7062047 * math.sqrt(variance))


def test_one_rater_and_nobody() -> None:
    alone = crowd_estimate(np.array([[50.0, 60.0, 70.0]]))
    assert alone.value == 60
    assert alone.low < 60 < alone.high
    assert math.isnan(crowd_estimate(np.full((2, 2), math.nan)).value)
    assert math.isnan(crowd_estimate(np.array([[50.0]])).low)


def test_p_values_agree_with_their_intervals() -> None:
    touching = jackknife(1.0, [np.array([0.0, 1.0, 2.0])], 3)
    scaled = Estimate(touching.high - touching.value, 0.0, 2 * (touching.high - touching.value), 3)
    assert difference_p(scaled, 2) == pytest.approx(0.05)
    assert difference_p(Estimate(0.0, 0.0, 0.0, 5), 4) == 1
    assert math.isnan(difference_p(Estimate(1.0), 0))


def test_holm_on_a_textbook_case() -> None:
    found = holm([0.01, 0.04, 0.03, math.nan, 0.005])
    assert found[:3] == pytest.approx([0.03, 0.06, 0.06])
    assert math.isnan(found[3])
    assert found[4] == pytest.approx(0.02)


def test_wilson_on_a_textbook_case_and_at_the_edges() -> None:
    found = wilson(15, 20)
    assert (found.low, found.high) == pytest.approx((0.5313, 0.8881), abs=1e-4)
    assert wilson(0, 10).low == 0
    assert wilson(10, 10).high == pytest.approx(1)
    assert math.isnan(wilson(0, 0).value)
