"""Intervals by resampling lesions, not images: images of one lesion are not independent.

Groups (a lesion, or lesions known to be the same one) are drawn with replacement, as many as
there are; each image counts as often as its group was drawn. That is a matrix of weights, so a
statistic is computed for a block of resamples at once.

    statistic = lambda weights: ranking_metrics(label, prob, weights)
    figures, bounds = estimate(statistic, groups, resamples=2000, seed=0)
    low, high = bounds["roc_auc"]
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

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

    None where fewer than half of them define it.
    """
    defined = draws[np.isfinite(draws)]
    if 2 * len(defined) < len(draws) or not len(defined):
        return None
    tail = (1 - CONFIDENCE) / 2
    return [float(x) for x in np.quantile(defined, [tail, 1 - tail])]


def estimate(
    statistic: Statistic, groups: np.ndarray, *, resamples: int, seed: int
) -> tuple[dict[Any, float | None], dict[Any, Interval | None]]:
    """Return a statistic's figures of the sample, and their intervals.

    A figure that the sample does not define (no image of a class) is None and has no interval.
    """
    sample = statistic(np.ones((len(groups), 1)))
    draws = resample(statistic, groups, resamples=resamples, seed=seed)
    figures = {k: float(v[0]) if np.isfinite(v[0]) else None for k, v in sample.items()}
    return figures, {k: interval(draws[k]) for k, v in figures.items() if v is not None}
