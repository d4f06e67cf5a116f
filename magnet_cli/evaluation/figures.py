"""Figures of a set of clips, with the data for their intervals and for the interval of a difference.

A unit is a prompt with all clips that answer it, in the reference and in every system. Units are the
random sample, so intervals come from leaving units out or resampling them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from magnet_cli.evaluation.metrics import extrapolated_frechet, frechet_distance, kernel_distances
from magnet_cli.evaluation.statistics import Estimate, Values, jackknife, mean_estimate

_PARTS = 20  # left out in turn where leaving out single units would take hours


@dataclass(frozen=True)
class Rows:
    """Embeddings of a set, with the unit of each."""

    rows: Tensor  # [N, D]
    units: tuple[int, ...]
    clips: int
    prompts: frozenset[int] = frozenset()  # the units that have a prompt

    def where(self, keep: Callable[[int], bool]) -> Rows:
        """The rows whose units `keep` accepts."""
        chosen = [i for i, unit in enumerate(self.units) if keep(unit)]
        units = tuple(self.units[i] for i in chosen)
        return Rows(self.rows[chosen], units, len(set(units)), self.prompts & {*units})


@dataclass(frozen=True)
class MeanFigure:
    """The mean of a value that is computed per unit."""

    values: dict[int, float]
    resamples: int

    def estimate(self) -> Estimate:
        """The mean over units, with its interval."""
        return mean_estimate([self.values[unit] for unit in sorted(self.values)], self.resamples)

    def minus(self, other: MeanFigure) -> Estimate:
        """The mean paired difference, over the units that both have."""
        both = sorted(self.values.keys() & other.values.keys())
        return mean_estimate([self.values[u] - other.values[u] for u in both], self.resamples)


@dataclass(frozen=True)
class DistanceFigure:
    """A distance between whole sets, with no value per unit."""

    value: float
    without: Values  # the distance with each part of the units left out
    members: tuple[frozenset[int], ...]  # parts in the reference, parts in the system
    clips: int
    prompts: frozenset[int]  # the system's units that have a prompt
    # The same distance for some of the system's units; None: they are too few.
    within: Callable[[frozenset[int]], DistanceFigure | None]

    def estimate(self) -> Estimate:
        """The distance, with its interval."""
        return jackknife(self.value, self._strata(self.without, self.members), self.clips)

    def minus(self, other: DistanceFigure) -> Estimate:
        """The difference of two systems' distances from one reference, over the prompts that both have (if
        any), leaving out the same parts."""
        both = self.prompts & other.prompts
        if both and self.prompts != other.prompts:
            one, two = self.within(both), other.within(both)
            return Estimate(math.nan) if one is None or two is None else one.minus(two)
        members = (*self.members, other.members[1])
        strata = self._strata(self.without - other.without, members)
        return jackknife(self.value - other.value, strata, min(self.clips, other.clips))

    @staticmethod
    def _strata(without: Values, members: Sequence[frozenset[int]]) -> list[Values]:
        """The values in `without`, grouped by which sets their part is in."""
        kinds: dict[tuple[bool, ...], list[float]] = {}
        for part, value in enumerate(without):
            kind = tuple(part in one for one in members)
            if any(kind) and math.isfinite(value):
                kinds.setdefault(kind, []).append(float(value))
        return [np.array(values) for values in kinds.values()]


Figure = MeanFigure | DistanceFigure


def kernel_figure(reference: Rows, system: Rows, bandwidth: float, units: int) -> DistanceFigure:
    """KAD, and KAD with each of `units` units left out."""
    value, without = kernel_distances(
        reference.rows, system.rows, bandwidth, reference.units, system.units
    )
    known = np.full(units, value)
    known[: len(without)] = without.numpy()
    members = (frozenset(reference.units), frozenset(system.units))

    def within(some: frozenset[int]) -> DistanceFigure | None:
        part = system.where(some.__contains__)
        return kernel_figure(reference, part, bandwidth, units) if len(some) > 1 else None

    return DistanceFigure(value, known, members, system.clips, system.prompts, within)


def frechet_figures(
    reference: Rows, system: Rows, parts: Sequence[int], fewest: int
) -> tuple[DistanceFigure, DistanceFigure | None]:
    """FAD, and FAD extrapolated to infinitely many clips (None: too few clips).

    Args:
        parts: the part of each unit; a part is left out as a whole.
        fewest: minimum rows for a covariance.
    """

    # Decided once: with a part left out there are as many blocks, of a few rows less.
    blocks = min(4, len(system.rows) // fewest)

    def both(part: int | None) -> tuple[float, float]:
        first, second = (
            one.where(lambda unit: parts[unit] != part).rows for one in (reference, system)
        )
        if min(len(first), len(second) // max(1, blocks)) < 2:  # one prompt has nearly all rows
            return math.nan, math.nan
        plain = frechet_distance(first, second)
        return plain, extrapolated_frechet(first, second, blocks) if blocks > 1 else math.nan

    values = both(None)
    count = 1 + max(parts)
    present = {parts[unit] for unit in (*reference.units, *system.units)}
    without = np.array([both(part) if part in present else values for part in range(count)])
    members = tuple(frozenset(parts[unit] for unit in one.units) for one in (reference, system))

    def figure(which: int) -> DistanceFigure:
        def within(some: frozenset[int]) -> DistanceFigure | None:
            part = system.where(some.__contains__)
            enough = len(part.rows) >= fewest
            return frechet_figures(reference, part, parts, fewest)[which] if enough else None

        value, left_out = values[which], without[:, which]
        return DistanceFigure(value, left_out, members, system.clips, system.prompts, within)

    return figure(0), figure(1) if math.isfinite(values[1]) else None


def parts_of(units: int, sets: Iterable[Iterable[int]]) -> list[int]:
    """The part of each unit [units]: at most twenty parts for the units that are in the same sets."""
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
    """Minimum embeddings for a Fréchet distance: enough for a full-rank covariance, and at least 500.

    fadtk extrapolates from 500 on; with fewer the bias exceeds the differences of interest.
    """
    return max(500, width + 1)


def noise(judge_rate: int, window: int, count: int) -> list[Tensor]:
    """Windows [samples] of white noise at -20 dBFS, the same on every call."""
    generator = torch.Generator().manual_seed(judge_rate)
    plain: dict[str, Any] = {"dtype": torch.float32, "device": "cpu", "generator": generator}
    return [0.1 * torch.randn(window, **plain) for _ in range(count)]
