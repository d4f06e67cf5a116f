"""Confidence intervals, corrections for multiple comparisons, and extrapolation.

Clips are the random sample, so clips are resampled, never the windows of a clip, which are
correlated. Systems that answer the same prompts are compared prompt by prompt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

LEVEL = 0.95  # confidence of every interval


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; `low` and `high` are NaN if there is too little data for one."""

    value: float
    low: float = math.nan
    high: float = math.nan
    count: int = 0  # clips it is computed from

    def holds(self, value: float) -> bool:
        """Whether the interval contains a value; an unknown interval contains everything."""
        return not (value < self.low or value > self.high)

    def record(self) -> dict[str, Any]:
        """Values for JSON, which has no NaN."""
        return {k: v if math.isfinite(v) else None for k, v in vars(self).items()}


def mean_estimate(
    values: Sequence[float] | Values, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """The mean of per-clip values, with a bootstrap-t interval (Efron & Tibshirani, 1993, chapter 12).

    Each resampled mean is divided by its own standard error: percentile intervals are too narrow for the
    few clips of an evaluation.

    Args:
        values: one value per clip, or one difference per prompt.
        resamples: number of draws with replacement.
        seed: for the draws.
    """
    data = np.sort(np.asarray(values, dtype=np.float64))  # independent of the order of files
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
    usable = errors > spread * 1e-6  # a draw of one clip only has no standard error
    turns = (draws.mean(axis=1)[usable] - mean) / errors[usable]
    low, high = np.quantile(turns, [(1 + LEVEL) / 2, (1 - LEVEL) / 2])
    return Estimate(mean, mean - float(low) * spread, mean - float(high) * spread, count)


def jackknife(value: float, strata: Sequence[Values], count: int) -> Estimate:
    """A jackknife interval, from the values with one part of the clips left out each time.

    A bootstrap draws clips twice and thereby raises every distance between distributions; leaving clips
    out hardly biases it.

    Args:
        value: computed from all clips.
        strata: for each independently drawn kind of clip (the reference's, the system's, or pairs of
            both), the values without each of its parts. Their variances add up, and the degrees of freedom
            are those of Welch and Satterthwaite, so that two clips without a counterpart change little.
        count: clips behind the value.
    """
    kinds = [np.asarray(kind, dtype=np.float64) for kind in strata if len(kind) > 1]
    if not kinds:
        return Estimate(value, count=count)
    parts = [(len(k) - 1) / len(k) * float(((k - k.mean()) ** 2).sum()) for k in kinds]
    variance = sum(parts)
    if variance == 0:
        return Estimate(value, value, value, count)
    shares = [(v / variance) ** 2 / (len(k) - 1) for v, k in zip(parts, kinds, strict=True)]
    half = _student(1 / sum(shares)) * math.sqrt(variance)
    return Estimate(value, value - half, value + half, count)


def extrapolate(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The limit for infinitely many clips: `a` of a least-squares fit of a + b / size."""
    design = np.stack([np.ones(len(sizes)), 1 / np.asarray(sizes, dtype=np.float64)], axis=1)
    solution = np.linalg.lstsq(design, np.asarray(values, dtype=np.float64), rcond=None)[0]
    return float(solution[0])


def crowd_estimate(ratings: Values) -> Estimate:
    """Mean opinion score with CrowdMOS's interval (Ribeiro et al., 2011), over raters and clips.

    A rating is modelled as mean + rater effect + clip effect + residual; the three variances are
    estimated from the variances within a clip, within a rater and overall.

    Args:
        ratings: [raters, clips], NaN where a rater did not rate a clip.
    """
    known = ~np.isnan(ratings)
    total = int(known.sum())
    if total == 0:
        return Estimate(math.nan)
    mean = float(ratings[known].mean())
    per_clip, per_rater = known.sum(0), known.sum(1)
    clips, raters = int((per_clip > 0).sum()), int((per_rater > 0).sum())
    within_clip = _mean_variance(ratings.T)  # rater and residual
    within_rater = _mean_variance(ratings)  # clip and residual
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
    parts = [one for one in (within_clip, within_rater) if not math.isnan(one)]
    rest = parts[0] if parts else overall
    if len(parts) == 2:
        rest = max(0.0, sum(parts) - overall)
    variance = of_clip * shares["clip"] + of_rater * shares["rater"] + rest * shares["rest"]
    fewer = min(clips, raters) if min(clips, raters) > 1 else max(clips, raters)
    half = _student(fewer - 1) * math.sqrt(variance)
    return Estimate(mean, mean - half, mean + half, clips)


def difference_p(estimate: Estimate, freedom: int) -> float:
    """The two-sided p value of "no difference", computed back from a Student interval of a difference."""
    if freedom < 1 or math.isnan(estimate.low):
        return math.nan
    from scipy.stats import t

    half = (estimate.high - estimate.low) / 2
    if half == 0:
        return 1.0 if estimate.value == 0 else 0.0
    return float(2 * t.sf(abs(estimate.value) / half * _student(freedom), freedom))


def holm(values: Sequence[float]) -> list[float]:
    """p values corrected for multiple comparisons (Holm, 1979); NaN stays NaN."""
    order = sorted((p, i) for i, p in enumerate(values) if not math.isnan(p))
    corrected, highest = list(values), 0.0
    for rank, (p, i) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        corrected[i] = highest
    return corrected


def wilson(successes: float, count: int) -> Estimate:
    """A proportion with Wilson's interval (1927), valid for few answers and for proportions near 0 and 1."""
    if count == 0:
        return Estimate(math.nan)
    from scipy.stats import norm

    z = float(norm.ppf((1 + LEVEL) / 2))
    share = successes / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + (z / count / 2) ** 2)
    return Estimate(share, max(0.0, middle - half), min(1.0, middle + half), count)


def _mean_variance(ratings: Values) -> float:
    """The mean variance of rows, over rows with at least two numbers."""
    variances = [
        float(row[~np.isnan(row)].var(ddof=1)) for row in ratings if (~np.isnan(row)).sum() > 1
    ]
    return sum(variances) / len(variances) if variances else math.nan


def _student(freedom: float) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + LEVEL) / 2, freedom))
