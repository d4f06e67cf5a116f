"""FAD and KAD against known values, without a judge."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from magnet_cli.evaluation.figures import MeanFigure, Rows, frechet_figures, kernel_figure
from magnet_cli.evaluation.metrics import (
    cosines,
    divergences,
    extrapolated_frechet,
    frechet_distance,
    kernel_distances,
    median_distance,
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kad(first: Tensor, second: Tensor, bandwidth: float = 2.0) -> float:
    units = range(len(first)), range(len(first), len(first) + len(second))
    return kernel_distances(first, second, bandwidth, *units)[0]


def test_the_frechet_distance_of_gaussians_has_a_closed_form() -> None:
    # Diagonal covariances: |m|^2 plus the squared differences of the deviations.
    first = drawn(40_000, 3)
    second = drawn(40_000, 3, seed=1) * torch.tensor([2.0, 1.0, 0.5]) + torch.tensor([1.0, 0, 0])
    assert frechet_distance(first, second) == pytest.approx(1 + 1 + 0.25, rel=0.03)


def test_the_kernel_distance_of_gaussians_has_a_closed_form() -> None:
    # E k(x, y) of N(0, 1) and N(m, 1) under exp(-d^2 / 2 s^2) is s / sqrt(s^2 + 2) exp(-m^2 / 2 (s^2 + 2)).
    s, m = 1.5, 1.0
    within = s / math.sqrt(s * s + 2)
    between = within * math.exp(-m * m / (2 * (s * s + 2)))
    found = kad(drawn(3000, 1), drawn(3000, 1, seed=1) + m, bandwidth=s)
    assert found == pytest.approx(100 * 2 * (within - between), rel=0.1)


def test_the_kernel_distance_is_the_textbooks() -> None:
    first, second = drawn(5, 4), drawn(7, 4, seed=1)

    def mean(one: Tensor, two: Tensor) -> float:
        pairs = [
            math.exp(-float((a - b).square().sum()) / 8) for a in one for b in two if a is not b
        ]
        same = len(one) if one is two else 0
        return sum(pairs) / (len(one) * len(two) - same)

    rows = [list(first), list(second)]
    slow = 100 * (mean(rows[0], rows[0]) + mean(rows[1], rows[1]) - 2 * mean(rows[0], rows[1]))
    assert kad(first, second) == pytest.approx(slow)


def test_draws_of_one_distribution_are_at_no_distance_in_mean() -> None:
    found = torch.tensor(
        [kad(drawn(100, 8, seed=2 * i), drawn(100, 8, seed=2 * i + 1), 4.0) for i in range(200)]
    )
    assert abs(float(found.mean())) < 3 * float(found.std()) / math.sqrt(200)
    assert (found < 0).any()  # unbiased, so occasionally below zero


def test_clips_cut_into_windows_and_answers_to_one_prompt_do_not_bias_it() -> None:
    # Two sets of 60 prompts: what a prompt asks for is in both, and in all three windows of a clip.
    units = [i for i in range(60) for _ in range(3)]
    found = []
    for i in range(100):
        asked = drawn(60, 1, 4, seed=3 * i).expand(60, 3, 4).reshape(180, 4)
        sets = [asked + 0.3 * drawn(180, 4, seed=3 * i + j) for j in (1, 2)]
        found.append(kernel_distances(*sets, 2.0, units, units)[0])
    values = torch.tensor(found)
    assert abs(float(values.mean())) < 3 * float(values.std()) / 10


def test_leaving_a_unit_out_is_as_if_it_had_not_been_there() -> None:
    first, second = drawn(12, 4), drawn(10, 4, seed=1)
    ones, twos = [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 9], [0, 1, 2, 2, 10, 11, 12, 13, 14, 15]
    without = kernel_distances(first, second, 2.0, ones, twos)[1]
    for unit in (0, 2, 9, 15):
        keep = [[i for i, u in enumerate(of) if u != unit] for of in (ones, twos)]
        left = [[of[i] for i in keep[n]] for n, of in enumerate((ones, twos))]
        again = kernel_distances(first[keep[0]], second[keep[1]], 2.0, *left)[0]
        assert float(without[unit]) == pytest.approx(again)


def test_extrapolation_is_nearer_the_truth_than_the_distance_of_few_clips() -> None:
    reference = drawn(6000, 24, seed=99)
    shift = torch.zeros(24, dtype=torch.float64)
    shift[0] = 1
    plain, extrapolated = [], []
    for i in range(8):
        few = drawn(400, 24, seed=i) + shift
        plain.append(abs(frechet_distance(reference, few) - 1))
        extrapolated.append(abs(extrapolated_frechet(reference, few, 4) - 1))
    assert sum(extrapolated) < sum(plain) / 2


def test_the_extrapolated_distance_has_an_interval_from_its_first_row_on() -> None:
    units = tuple(range(40))
    reference = Rows(drawn(40, 2), units, 40)
    for seed in range(1, 4):  # with a part left out, two blocks have fewer rows than asked for
        system = Rows(drawn(40, 2, seed=seed) + 1, units, 40)
        plain, limit = frechet_figures(reference, system, [unit // 2 for unit in units], 20)
        assert limit is not None
        found, same = limit.estimate(), plain.estimate()
        assert found.low < found.value < found.high
        assert found.high - found.low < 4 * (same.high - same.low)
    # Leaving the only prompt out leaves nothing to compare.
    (plain, _) = frechet_figures(reference, Rows(drawn(40, 2), (0,) * 40, 40), [0] * 40, 20)
    assert math.isnan(plain.estimate().low)


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="two units"):
        kernel_distances(drawn(3, 2), drawn(3, 2), 1.0, [0, 0, 0], [1, 2, 3])


def test_the_bandwidth_is_the_median_distance() -> None:
    rows = torch.tensor([[0.0], [1.0], [5.0]])
    assert median_distance(rows) == 4


def test_divergences_and_cosines() -> None:
    one = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    two = torch.tensor([[0.25, 0.75, 0.0], [1.0, 0.0, 0.0]])
    expected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert divergences(one, two).tolist() == pytest.approx([expected, 0], abs=1e-4)
    assert cosines(torch.eye(2), torch.tensor([[2.0, 0.0], [1.0, 1.0]])).tolist() == pytest.approx(
        [1, math.sqrt(0.5)]
    )


def test_differences_of_means_are_paired() -> None:
    one = MeanFigure({0: 90.0, 1: 2.0, 2: 4.0, 3: 9.0}, 200)
    other = MeanFigure({1: 1.0, 2: 1.0, 3: 1.0, 4: 50.0}, 200)
    found = one.minus(other)
    assert (found.value, found.count) == (4.0, 3)
    assert one.minus(one).high == 0


def test_the_interval_of_the_kernel_distance_holds_the_truth_as_often_as_said() -> None:
    s, m, rounds = 1.5, 0.8, 150
    within = s / math.sqrt(s * s + 2)
    truth = 100 * 2 * within * (1 - math.exp(-m * m / (2 * (s * s + 2))))
    held = differ = 0
    for i in range(rounds):
        reference = Rows(drawn(80, 1, seed=3 * i), tuple(range(80)), 80)
        near, far = (
            Rows(drawn(60, 1, seed=3 * i + j) + m, tuple(range(60 * j, 60 * j + 60)), 60)
            for j in (1, 2)
        )
        figures = [kernel_figure(reference, one, s, 180) for one in (near, far)]
        held += figures[0].estimate().holds(truth)
        differ += figures[1].minus(figures[0]).holds(0)
    assert held / rounds >= 0.9
    assert differ / rounds >= 0.9
