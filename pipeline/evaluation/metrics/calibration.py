"""Whether probabilities can be taken at face value: Brier score, log loss, calibration error.

Like the other metrics these take weights ``[N, R]`` and return ``[R]``.

    error = expected_calibration_error(label, prob, np.ones((len(label), 1)))[0]
"""

import numpy as np

BINS = 15
"""Equal-width bins of the probability of malignant over [0, 1]; 1.0 belongs to the last."""

EDGES = np.linspace(0, 1, BINS + 1)


def brier(label: np.ndarray, prob: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return [R] the mean squared difference between probability and label."""
    return (prob - label) ** 2 @ weights / weights.sum(axis=0)


def nll(label: np.ndarray, prob: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return [R] the mean negative log-likelihood in nats; 0 and 1 are moved by one epsilon."""
    eps = np.finfo(np.float64).eps
    prob = np.clip(prob, eps, 1 - eps)
    loss = -np.where(label == 1, np.log(prob), np.log1p(-prob))
    return loss @ weights / weights.sum(axis=0)


def bin_index(prob: np.ndarray) -> np.ndarray:
    """Return [N] int, the bin of each probability."""
    return np.clip(np.searchsorted(EDGES, prob, side="right") - 1, 0, BINS - 1)


def expected_calibration_error(
    label: np.ndarray, prob: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Return [R] the mean over images of |mean probability - malignant fraction| of their bin."""
    member = bin_index(prob) == np.arange(BINS)[:, None]
    gaps = (member * (prob - label)) @ weights
    return np.abs(gaps).sum(axis=0) / weights.sum(axis=0)


def reliability(label: np.ndarray, prob: np.ndarray) -> list[dict]:
    """Return the bins of the calibration error, for the diagram and metrics.json.

    Each has ``low`` (included), ``high`` (excluded, except in the last bin), ``n`` images,
    ``mean_probability`` and ``malignant_fraction`` (None in an empty bin).
    """
    index, table = bin_index(prob), []
    for k in range(BINS):
        inside = index == k
        filled = bool(inside.any())
        table.append(
            {
                "low": float(EDGES[k]),
                "high": float(EDGES[k + 1]),
                "n": int(inside.sum()),
                "mean_probability": float(prob[inside].mean()) if filled else None,
                "malignant_fraction": float(label[inside].mean()) if filled else None,
            }
        )
    return table
