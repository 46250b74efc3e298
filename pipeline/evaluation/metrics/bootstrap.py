"""Intervals by resampling lesions, not images: images of one lesion are not independent.

Groups (a lesion, or lesions known to be the same one) are drawn with replacement, as many as
there are; each image counts as often as its group was drawn. That is a matrix of weights, so a
statistic is computed for a block of resamples at once.

    statistic = lambda weights: ranking_metrics(label, prob, weights)
    figures, bounds = estimate(statistic, groups, resamples=2000, seed=0)
    low, high = bounds["roc_auc"]

A share of 0 or 1 is 0 or 1 in every resample: such a share has Wilson's interval instead.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from scipy.stats import binomtest

RESAMPLES = 2000

BLOCK_VALUES = 600_000
"""Weights held at once: few enough to fit the processor's cache."""

CONFIDENCE = 0.95

Interval = list[float]
Values = dict[Any, np.ndarray]
"""Values of a statistic by name, each [R]."""

Statistic = Callable[[np.ndarray], Values]
"""From weights [N, R] to ``Values``."""


def group_weights(groups: np.ndarray, *, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield blocks [N, r] of weights, ``resamples`` columns in all; the same for the same seed.

    Images with equal values of ``groups`` [N] are drawn together.
    """
    names, member = np.unique(groups, return_inverse=True)
    count, rng = len(names), np.random.default_rng(seed)
    block = max(1, min(resamples, BLOCK_VALUES // max(len(groups), 1)))
    for start in range(0, resamples, block):
        columns = min(block, resamples - start)
        drawn = rng.integers(0, count, size=(columns, count), dtype=np.int64)
        drawn += np.arange(columns)[:, None] * count
        times = np.bincount(drawn.ravel(), minlength=columns * count).reshape(columns, count)
        yield times.T.astype(np.float64, order="C")[member]


def resample(statistic: Statistic, groups: np.ndarray, *, resamples: int, seed: int) -> Values:
    """Return the values of a statistic under each resample: {name: [resamples]}."""
    blocks = [statistic(w) for w in group_weights(groups, resamples=resamples, seed=seed)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def interval(draws: np.ndarray) -> Interval | None:
    """Return the 95 % percentile interval over the resamples in which the figure is defined.

    None where fewer than half of them define it, or where they do not vary: an interval of no width
    would claim certainty.
    """
    defined = draws[np.isfinite(draws)]
    if 2 * len(defined) < len(draws) or not len(defined):
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = (float(x) for x in np.quantile(defined, [tail, 1 - tail]))
    return [low, high] if low < high else None


def wilson(share: float, groups: np.ndarray) -> Interval | None:
    """Return Wilson's 95 % interval of a share of 0 or 1 among the images of ``groups`` [n].

    Each group counts once, as images of one lesion are not independent.
    """
    count = len(np.unique(groups))
    if not count:
        return None
    ends = binomtest(round(share * count), count).proportion_ci(CONFIDENCE, method="wilson")
    return [float(ends.low), float(ends.high)]


def estimate(
    statistic: Statistic,
    groups: np.ndarray,
    *,
    resamples: int,
    seed: int,
    shares: Mapping[Any, np.ndarray] | None = None,
) -> tuple[dict[Any, float | None], dict[Any, Interval | None]]:
    """Return a statistic's figures of the sample, and their intervals over ``groups`` [N].

    A figure that the sample does not define (no image of a class) is None and has no interval.
    ``shares`` has the images [N] bool that a figure is a share of, for figures that are one.
    """
    sample = statistic(np.ones((len(groups), 1)))
    draws = resample(statistic, groups, resamples=resamples, seed=seed)
    figures = {k: float(v[0]) if np.isfinite(v[0]) else None for k, v in sample.items()}
    bounds = {k: interval(draws[k]) for k, v in figures.items() if v is not None}
    for name, inside in (shares or {}).items():
        share = figures[name]
        if share is not None and share in (0.0, 1.0):
            bounds[name] = wilson(share, groups[inside])
    return figures, bounds
