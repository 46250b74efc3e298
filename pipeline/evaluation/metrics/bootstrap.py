"""Intervals by resampling lesions, not images: images of one lesion are not independent.

Groups (a lesion, or lesions known to be the same one) are drawn with replacement, as many as
there are; each image counts as often as its group was drawn. That is a matrix of weights, so a
statistic is computed for a block of resamples at once.

    draws = resample(lambda w: ranking_metrics(label, prob, w), groups)
    low, high = interval(draws["roc_auc"])
"""

from collections.abc import Callable, Iterator

import numpy as np

RESAMPLES = 2000
BLOCK_VALUES = 600_000
"""Weights held at once: small enough to stay near the processor's cache."""

Statistic = Callable[[np.ndarray], dict[str, np.ndarray]]


def group_weights(
    groups: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> Iterator[np.ndarray]:
    """Yield blocks [N, r] of weights, ``resamples`` columns in all; the same for the same seed.

    Args:
        groups: [N] any hashable values; equal values are drawn together.
        resamples: columns to give in all.
        seed: of the draws.
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


def resample(
    statistic: Statistic, groups: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, np.ndarray]:
    """The values of ``statistic`` under each resample: {name: [resamples]}."""
    blocks = [statistic(w) for w in group_weights(groups, resamples=resamples, seed=seed)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def interval(draws: np.ndarray, confidence: float = 0.95) -> list[float] | None:
    """The percentile interval, over the resamples in which the figure is defined.

    None where fewer than half of them define it.
    """
    defined = draws[np.isfinite(draws)]
    if 2 * len(defined) < len(draws) or not len(defined):
        return None
    tail = (1 - confidence) / 2
    return [float(x) for x in np.quantile(defined, [tail, 1 - tail])]
