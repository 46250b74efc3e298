"""What is decided on validation, never on test: a calibration and a threshold.

Pure functions of arrays. The calibration comes first, the threshold is for calibrated
probabilities.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit, logsumexp

from pipeline.errors import DataError
from pipeline.learning.probability import malignant_classes, malignant_probability

TEMPERATURES = (0.05, 20.0)
"""Range in which the temperature is looked for."""

BIASES = (-15.0, 15.0)
"""Range in which the bias is looked for, in log-odds."""


@dataclass(frozen=True)
class Decision:
    """How to come from logits to a yes or no."""

    threshold: float
    """Malignant where the calibrated probability is at or above it."""
    temperature: float
    """The logits are divided by it."""
    bias: float
    """Then added to the log-odds of malignant."""


def decide(
    logits: np.ndarray,
    malignant: np.ndarray,
    *,
    task: str,
    calibrate: bool,
    target_sensitivity: float | None,
) -> Decision:
    """Fit calibration and threshold on validation.

    Args:
        logits: float [N, K].
        malignant: 0 or 1, [N].
        task: "binary" or "dx".
        calibrate: fit a temperature and a bias; 1.0 and 0.0 otherwise.
        target_sensitivity: to be reached by the threshold; Youden's index when None.
    """
    temperature, bias = fit_calibration(logits, malignant, task) if calibrate else (1.0, 0.0)
    probability = malignant_probability(logits, task, temperature, bias)
    threshold = choose_threshold(probability, malignant, target_sensitivity)
    return Decision(threshold, temperature, bias)


def fit_calibration(logits: np.ndarray, malignant: np.ndarray, task: str) -> tuple[float, float]:
    """Return temperature and bias with the least negative log-likelihood of malignant or not.

    A temperature alone (Guo et al. 2017) makes a model more or less sure. A loss that weights
    classes, and balanced sampling, also shift the log-odds of every image; the bias shifts them
    back. With two classes this is Platt's scaling (1999).
    """
    positive = malignant_classes(task).astype(bool)
    logits = np.asarray(logits, dtype=np.float64)

    def odds(log_temperature: float) -> np.ndarray:
        scaled = logits / np.exp(log_temperature)
        return logsumexp(scaled[:, positive], axis=1) - logsumexp(scaled[:, ~positive], axis=1)

    def cost(values: np.ndarray) -> float:
        shifted = odds(values[0]) + values[1]
        # -log P(what is true) = log(1 + exp(-log-odds of what is true))
        return float(np.logaddexp(0.0, np.where(malignant == 1, -shifted, shifted)).mean())

    seen, believed = np.clip([np.mean(malignant), expit(odds(0.0)).mean()], 1e-3, 1 - 1e-3)
    low, high = np.log(TEMPERATURES)
    fitted = minimize(
        cost,
        [0.0, float(np.clip(logit(seen) - logit(believed), *BIASES))],
        method="Nelder-Mead",
        bounds=[(low, high), BIASES],
        options={"xatol": 1e-5, "fatol": 1e-10, "maxiter": 1000},
    )
    return float(np.exp(fitted.x[0])), float(fitted.x[1])


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
