"""What is decided on validation, never on test: a temperature and a threshold.

Pure functions of arrays. The temperature comes first, the threshold is for calibrated
probabilities.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from pipeline.errors import DataError
from pipeline.learning.probability import malignant_probability

TEMPERATURES = (0.05, 20.0)
"""Range in which the temperature is looked for."""


@dataclass(frozen=True)
class Decision:
    """How to come from logits to a yes or no."""

    threshold: float
    """Malignant where the calibrated probability is at or above it."""
    temperature: float
    """The logits are divided by it."""


def decide(
    logits: np.ndarray,
    malignant: np.ndarray,
    *,
    task: str,
    calibrate: bool,
    target_sensitivity: float | None,
) -> Decision:
    """Fit temperature and threshold on validation.

    Args:
        logits: float [N, K].
        malignant: 0 or 1, [N].
        task: "binary" or "dx".
        calibrate: fit a temperature; 1.0 otherwise.
        target_sensitivity: to be reached by the threshold; Youden's index when None.
    """
    temperature = fit_temperature(logits, malignant, task) if calibrate else 1.0
    probability = malignant_probability(logits, task, temperature)
    return Decision(choose_threshold(probability, malignant, target_sensitivity), temperature)


def fit_temperature(logits: np.ndarray, malignant: np.ndarray, task: str) -> float:
    """Return the temperature with the least negative log-likelihood of malignant or not."""

    def cost(log_temperature: float) -> float:
        p = malignant_probability(logits, task, float(np.exp(log_temperature)))
        right = np.where(malignant == 1, p, 1.0 - p)
        return float(-np.log(np.clip(right, 1e-12, None)).mean())

    low, high = np.log(TEMPERATURES)
    fitted: Any = minimize_scalar(cost, bounds=(low, high), method="bounded")
    return float(np.exp(fitted.x))


def choose_threshold(
    probability: np.ndarray, malignant: np.ndarray, target_sensitivity: float | None = None
) -> float:
    """Return a threshold halfway between two probabilities that validation has shown.

    Args:
        probability: float [N].
        malignant: 0 or 1, [N]; both must occur.
        target_sensitivity: the highest threshold that reaches it; None maximises Youden's index
            (sensitivity + specificity - 1), the higher threshold in a tie.
    """
    malignant = np.asarray(malignant)
    positives, negatives = int((malignant == 1).sum()), int((malignant == 0).sum())
    if not positives or not negatives:
        raise DataError(
            f"the validation split has {positives} malignant and {negatives} benign samples; "
            "a threshold needs both"
        )
    scores = np.unique(probability)[::-1]
    above_p = np.searchsorted(np.sort(probability[malignant == 1]), scores, side="left")
    above_n = np.searchsorted(np.sort(probability[malignant == 0]), scores, side="left")
    sensitivity = 1.0 - above_p / positives
    specificity = above_n / negatives
    if target_sensitivity is None:
        best = int(np.argmax(sensitivity + specificity))
    else:
        best = int(np.argmax(sensitivity >= target_sensitivity - 1e-12))
    below = scores[best + 1] if best + 1 < len(scores) else 0.0
    return float((scores[best] + below) / 2)
