"""Which cases a person gets to see: the surest mistakes, and right decisions of every sureness.

chosen = choose(frame, threshold=0.4, each=16)["false negatives"]  # rows of the table
"""

import numpy as np
import pandas as pd

KINDS = {
    "false negatives": (1, 0),
    "false positives": (0, 1),
    "true positives": (1, 1),
    "true negatives": (0, 0),
}
"""(label, predicted) of each kind, the ones that matter most first."""


def confidence(prob: np.ndarray, threshold: float) -> np.ndarray:
    """How far a probability is from the threshold: 0 at it, 1 at either end of the scale."""
    above = (prob - threshold) / max(1 - threshold, 1e-12)
    below = (threshold - prob) / max(threshold, 1e-12)
    return np.clip(np.where(prob >= threshold, above, below), 0, 1)


def choose(frame: pd.DataFrame, *, threshold: float, each: int) -> dict[str, np.ndarray]:
    """Row numbers of at most ``each`` cases of every kind, the most confident first.

    Of the mistakes the most confident ones; of the right decisions a sample spread evenly from
    the most to the least confident.
    """
    sure = confidence(frame["prob_malignant"].to_numpy(), threshold)
    label, predicted = frame["label"].to_numpy(), frame["predicted"].to_numpy()
    chosen = {}
    for kind, (actual, called) in KINDS.items():
        rows = np.flatnonzero((label == actual) & (predicted == called))
        rows = rows[np.argsort(-sure[rows], kind="stable")]
        if kind.startswith("true") and len(rows) > each:
            rows = rows[np.linspace(0, len(rows) - 1, each).round().astype(int)]
        chosen[kind] = rows[:each]
    return chosen


def sample(frame: pd.DataFrame, *, each: int, seed: int) -> np.ndarray:
    """Row numbers of a random draw, ``each`` malignant and ``each`` benign, in random order."""
    rng = np.random.default_rng(seed)
    label = frame["label"].to_numpy()
    halves = [np.flatnonzero(label == k) for k in (1, 0)]
    drawn = [rng.permutation(rows)[:each] for rows in halves]
    return rng.permutation(np.concatenate(drawn))


def surest_mistakes(frame: pd.DataFrame, *, threshold: float, count: int) -> np.ndarray:
    """Row numbers of the mistakes, the most confident first."""
    sure = confidence(frame["prob_malignant"].to_numpy(), threshold)
    rows = np.flatnonzero(frame["label"].to_numpy() != frame["predicted"].to_numpy())
    return rows[np.argsort(-sure[rows], kind="stable")][:count]
