"""How far probabilities can be believed: Brier score, log loss, calibration error and its bins.

Like the other metrics these take weights ``[N, R]`` and return ``[R]``.

    error = expected_calibration_error(label, prob, np.ones((len(label), 1)))[0]
"""

from dataclasses import dataclass

import numpy as np

BINS = 15
"""Equal-width bins of the probability of malignant over [0, 1]; 1.0 belongs to the last."""


@dataclass(frozen=True)
class Bin:
    """One bin of the reliability diagram."""

    low: float
    """Probabilities from here (included)."""
    high: float
    """To here (excluded, but for the last bin)."""
    n: int
    """Images in the bin."""
    mean_probability: float | None
    """Their mean predicted probability; None where the bin is empty."""
    malignant_fraction: float | None
    """The share that is malignant; None where the bin is empty."""


def brier(label: np.ndarray, prob: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[R] mean squared difference between probability and label."""
    return (prob - label) ** 2 @ weights / weights.sum(axis=0)


def nll(label: np.ndarray, prob: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[R] mean negative log-likelihood in nats; probabilities kept one epsilon off 0 and 1."""
    eps = np.finfo(np.float64).eps
    prob = np.clip(prob, eps, 1 - eps)
    loss = -np.where(label == 1, np.log(prob), np.log1p(-prob))
    return loss @ weights / weights.sum(axis=0)


def bin_index(prob: np.ndarray, bins: int = BINS) -> np.ndarray:
    """[N] int bin of each probability."""
    edges = np.linspace(0, 1, bins + 1)
    return np.clip(np.searchsorted(edges, prob, side="right") - 1, 0, bins - 1)


def expected_calibration_error(
    label: np.ndarray, prob: np.ndarray, weights: np.ndarray, bins: int = BINS
) -> np.ndarray:
    """[R] mean over images of |mean probability - malignant fraction| of their bin."""
    member = bin_index(prob, bins) == np.arange(bins)[:, None]
    gaps = (member * (prob - label)) @ weights
    return np.abs(gaps).sum(axis=0) / weights.sum(axis=0)


def reliability(label: np.ndarray, prob: np.ndarray, bins: int = BINS) -> list[Bin]:
    """The bins behind the calibration error, for the diagram and metrics.json."""
    index, edges = bin_index(prob, bins), np.linspace(0, 1, bins + 1)
    table = []
    for k in range(bins):
        inside = index == k
        n = int(inside.sum())
        means = (float(prob[inside].mean()), float(label[inside].mean())) if n else (None, None)
        table.append(Bin(float(edges[k]), float(edges[k + 1]), n, *means))
    return table
