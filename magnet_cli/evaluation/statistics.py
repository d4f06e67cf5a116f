"""What figures are worth: intervals, corrections and extrapolations. Pure functions of numbers.

Clips are what is drawn by chance, so clips are what is resampled, never the windows of a clip, which
are alike. Where two systems answer the same prompts, their difference is taken prompt by prompt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

LEVEL = 0.95  # of every interval


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval; `low` and `high` are NaN where too little is known for one."""

    value: float
    low: float = math.nan
    high: float = math.nan
    count: int = 0  # clips behind it

    def holds(self, value: float) -> bool:
        """Whether the interval holds a value; one that is not known holds everything."""
        return not (value < self.low or value > self.high)

    def record(self) -> dict[str, Any]:
        """For JSON, which has no NaN."""
        return {
            "value": _finite(self.value),
            "low": _finite(self.low),
            "high": _finite(self.high),
            "count": self.count,
        }


def mean_estimate(
    values: Sequence[float] | Values, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """The mean of one figure a clip, with a bootstrap-t interval (Efron & Tibshirani, 1993, chapter 12).

    Each resampled mean is measured in its own standard errors: plain percentiles are too narrow for
    the few clips that evaluations have.

    Args:
        values: one figure for each clip, or one difference for each prompt.
        resamples: how often clips are drawn with replacement.
        seed: of the draws.
    """
    data = np.sort(np.asarray(values, dtype=np.float64))  # the order of files must not matter
    count = len(data)
    if count == 0:
        return Estimate(math.nan)
    mean = float(data.mean())
    spread = float(data.std(ddof=1)) / math.sqrt(count) if count > 1 else math.nan
    if count < 3 or spread == 0:
        known = mean if spread == 0 else math.nan
        return Estimate(mean, known, known, count)
    draws = data[np.random.default_rng(seed).integers(0, count, (resamples, count))]
    errors = draws.std(axis=1, ddof=1) / math.sqrt(count)
    usable = errors > spread * 1e-6  # all draws the same clip: no scale to measure by
    turns = (draws.mean(axis=1)[usable] - mean) / errors[usable]
    low, high = np.quantile(turns, [(1 + LEVEL) / 2, (1 - LEVEL) / 2])
    return Estimate(mean, mean - float(low) * spread, mean - float(high) * spread, count)


def jackknife(value: float, strata: Sequence[Values], count: int) -> Estimate:
    """A figure with an interval from its values with one part of the clips left out each time.

    Unlike draws with replacement, which put the same clip in twice and so raise every distance of
    distributions, leaving out changes such a distance but little.

    Args:
        value: of all clips.
        strata: for each kind of clip that was drawn on its own (the reference's, the system's, or pairs
            of both), the figure without each part of it. Variances of kinds add up.
        count: clips behind the figure.
    """
    kinds = [np.asarray(kind, dtype=np.float64) for kind in strata if len(kind) > 1]
    if not kinds:
        return Estimate(value, count=count)
    variance = sum((len(k) - 1) / len(k) * float(((k - k.mean()) ** 2).sum()) for k in kinds)
    half = _student(min(len(kind) for kind in kinds) - 1) * math.sqrt(variance)
    return Estimate(value, value - half, value + half, count)


def extrapolate(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The value that measurements with so many clips tend to, by least squares on a + b / size."""
    design = np.stack([np.ones(len(sizes)), 1 / np.asarray(sizes, dtype=np.float64)], axis=1)
    solution = np.linalg.lstsq(design, np.asarray(values, dtype=np.float64), rcond=None)[0]
    return float(solution[0])


def crowd_estimate(ratings: Values) -> Estimate:
    """Mean opinion with CrowdMOS's interval (Ribeiro et al., 2011): raters vary, and clips do.

    A rating is the mean, plus what a rater adds, plus what a clip adds, plus the rest; the three
    variances are found from those within a clip, within a rater and over all.

    Args:
        ratings: [raters, clips], NaN where a rater has not rated a clip.
    """
    known = ~np.isnan(ratings)
    total = int(known.sum())
    if total == 0:
        return Estimate(math.nan)
    mean = float(ratings[known].mean())
    per_clip, per_rater = known.sum(0), known.sum(1)
    clips, raters = int((per_clip > 0).sum()), int((per_rater > 0).sum())
    within_clip = _mean_variance(ratings.T)  # of raters, and the rest
    within_rater = _mean_variance(ratings)  # of clips, and the rest
    overall = float(ratings[known].var(ddof=1)) if total > 1 else math.nan
    if math.isnan(overall) or max(clips, raters) < 2:
        return Estimate(mean, count=clips)
    shares = {
        "clip": float((per_clip.astype(float) ** 2).sum()) / total**2,
        "rater": float((per_rater.astype(float) ** 2).sum()) / total**2,
        "rest": 1 / total,
    }
    of_clip = max(0.0, overall - within_clip) if not math.isnan(within_clip) else 0.0
    of_rater = max(0.0, overall - within_rater) if not math.isnan(within_rater) else 0.0
    if math.isnan(within_clip) and math.isnan(within_rater):
        of_clip = of_rater = 0.0
        rest = overall
    elif math.isnan(within_clip):
        rest = within_rater
    elif math.isnan(within_rater):
        rest = within_clip
    else:
        rest = max(0.0, within_clip + within_rater - overall)
    variance = of_clip * shares["clip"] + of_rater * shares["rater"] + rest * shares["rest"]
    fewer = min(clips, raters) if min(clips, raters) > 1 else max(clips, raters)
    half = _student(fewer - 1) * math.sqrt(variance)
    return Estimate(mean, mean - half, mean + half, clips)


def difference_p(estimate: Estimate, freedom: int) -> float:
    """The two-sided p value of "no difference" that a Student interval of a difference stands for."""
    if freedom < 1 or math.isnan(estimate.low):
        return math.nan
    from scipy.stats import t

    half = (estimate.high - estimate.low) / 2
    if half == 0:
        return 1.0 if estimate.value == 0 else 0.0
    return float(2 * t.sf(abs(estimate.value) / half * _student(freedom), freedom))


def holm(values: Sequence[float]) -> list[float]:
    """p values of several comparisons, corrected for being several (Holm, 1979); NaN stays NaN."""
    order = sorted((p, i) for i, p in enumerate(values) if not math.isnan(p))
    corrected, highest = list(values), 0.0
    for rank, (p, i) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        corrected[i] = highest
    return corrected


def wilson(successes: float, count: int) -> Estimate:
    """A share with Wilson's interval (1927), which holds for few answers and for shares near 0 and 1."""
    if count == 0:
        return Estimate(math.nan)
    from scipy.stats import norm

    z = float(norm.ppf((1 + LEVEL) / 2))
    share = successes / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + (z / count / 2) ** 2)
    return Estimate(share, max(0.0, middle - half), min(1.0, middle + half), count)


def _mean_variance(ratings: Values) -> float:
    """The mean over rows of the variance along a row, of rows with two numbers at least."""
    variances = [
        float(row[~np.isnan(row)].var(ddof=1)) for row in ratings if (~np.isnan(row)).sum() > 1
    ]
    return sum(variances) / len(variances) if variances else math.nan


def _student(freedom: int) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + LEVEL) / 2, freedom))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
