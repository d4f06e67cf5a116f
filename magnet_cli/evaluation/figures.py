"""Figures of a set of clips, each with what its interval, and that of a difference of two, are made from.

Units are prompts (with all the clips that answer them, in the reference and in every system); they are
what chance drew, so intervals come from leaving units out or from drawing them again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from magnet_cli.evaluation.metrics import (
    extrapolated_frechet,
    frechet_distance,
    kernel_distances,
)
from magnet_cli.evaluation.statistics import Estimate, Values, jackknife, mean_estimate

_PARTS = (
    20  # into which the units of one kind are cut where leaving out one by one would take hours
)


@dataclass(frozen=True)
class Rows:
    """Embeddings of a set, and the unit of each."""

    rows: Tensor  # [N, D]
    units: tuple[int, ...]
    clips: int

    def where(self, keep: Callable[[int], bool]) -> Rows:
        """Those whose units are kept."""
        chosen = [i for i, unit in enumerate(self.units) if keep(unit)]
        units = tuple(self.units[i] for i in chosen)
        return Rows(self.rows[chosen], units, len(set(units)))


@dataclass(frozen=True)
class MeanFigure:
    """A figure that every unit has for itself."""

    values: dict[int, float]
    resamples: int

    def estimate(self) -> Estimate:
        """The mean over units."""
        return mean_estimate([self.values[unit] for unit in sorted(self.values)], self.resamples)

    def minus(self, other: MeanFigure) -> Estimate:
        """The mean difference, prompt by prompt, over the units that both have."""
        both = sorted(self.values.keys() & other.values.keys())
        return mean_estimate([self.values[u] - other.values[u] for u in both], self.resamples)


@dataclass(frozen=True)
class DistanceFigure:
    """A distance of two sets, which only the whole has."""

    value: float
    without: Values  # the same without each part of the units
    members: tuple[frozenset[int], ...]  # the parts of the reference; those of the system
    clips: int

    def estimate(self) -> Estimate:
        """The distance."""
        return jackknife(self.value, self._strata(self.without, self.members), self.clips)

    def minus(self, other: DistanceFigure) -> Estimate:
        """The difference of two systems' distances from one reference, both without the same parts."""
        members = (*self.members, other.members[1])
        strata = self._strata(self.without - other.without, members)
        return jackknife(self.value - other.value, strata, min(self.clips, other.clips))

    @staticmethod
    def _strata(without: Values, members: Sequence[frozenset[int]]) -> list[Values]:
        """The parts, by which of the sets they are in."""
        kinds: dict[tuple[bool, ...], list[float]] = {}
        for part, value in enumerate(without):
            kind = tuple(part in one for one in members)
            if any(kind) and math.isfinite(value):
                kinds.setdefault(kind, []).append(float(value))
        return [np.array(values) for values in kinds.values()]


Figure = MeanFigure | DistanceFigure


def kernel_figure(reference: Rows, system: Rows, bandwidth: float, units: int) -> DistanceFigure:
    """KAD, and without each of so many units."""
    value, without = kernel_distances(
        reference.rows, system.rows, bandwidth, reference.units, system.units
    )
    known = np.full(units, value)
    known[: len(without)] = without.numpy()
    members = (frozenset(reference.units), frozenset(system.units))
    return DistanceFigure(value, known, members, system.clips)


def frechet_figures(
    reference: Rows, system: Rows, parts: Sequence[int], fewest: int
) -> tuple[DistanceFigure, DistanceFigure | None]:
    """FAD, and FAD extrapolated to any number of clips (None: too few for that).

    Args:
        parts: for each unit, the part that it is left out with.
        fewest: rows that a covariance takes.
    """

    def both(part: int | None) -> tuple[float, float]:
        first, second = (
            one.where(lambda unit: parts[unit] != part).rows for one in (reference, system)
        )
        plain = frechet_distance(first, second)
        enough = len(second) >= 2 * fewest
        return plain, extrapolated_frechet(first, second, fewest) if enough else math.nan

    values = both(None)
    count = 1 + max(parts)
    present = {parts[unit] for unit in (*reference.units, *system.units)}
    without = np.array([both(part) if part in present else values for part in range(count)])
    members = tuple(frozenset(parts[unit] for unit in one.units) for one in (reference, system))
    figures = [DistanceFigure(values[i], without[:, i], members, system.clips) for i in range(2)]
    return figures[0], figures[1] if math.isfinite(values[1]) else None


def parts_of(units: int, sets: Iterable[Iterable[int]]) -> list[int]:
    """For each unit the number of its part: twenty of the units that are in the same sets, or fewer."""
    members = [set(one) for one in sets]
    kinds: dict[tuple[bool, ...], list[int]] = {}
    for unit in range(units):
        kinds.setdefault(tuple(unit in one for one in members), []).append(unit)
    parts, first = [0] * units, 0
    for of in kinds.values():
        count = min(_PARTS, len(of))
        for place, unit in enumerate(of):
            parts[unit] = first + place * count // len(of)
        first += count
    return parts


def fewest_rows(width: int) -> int:
    """Embeddings that a Fréchet distance takes: for a covariance of full rank, and never under 500.

    500 is where fadtk begins to extrapolate; below it the bias is larger than what is to be seen.
    """
    return max(500, width + 1)


def noise(judge_rate: int, window: int, count: int) -> list[Tensor]:
    """White noise at -20 dBFS, the same every time: windows [samples]."""
    generator = torch.Generator().manual_seed(judge_rate)
    plain: dict[str, Any] = {"dtype": torch.float32, "device": "cpu", "generator": generator}
    return [0.1 * torch.randn(window, **plain) for _ in range(count)]
