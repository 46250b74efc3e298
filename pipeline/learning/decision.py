"""Calibration and threshold, fitted on validation and never on test: functions of arrays.

    decision = decide(logits, malignant, outputs=outputs, calibrate=True, target_sensitivity=None)

The calibration is fitted first; the threshold applies to calibrated probabilities.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import expit, logit

from pipeline.errors import DataError
from pipeline.learning.flags import Decide
from pipeline.learning.probability import (
    Outputs,
    adjusted_probabilities,
    class_probabilities,
    malignant_log_odds,
    malignant_probability,
)

STRENGTHS = np.linspace(0, 2, 41)
"""Powers of the class frequencies that are tried."""

TEMPERATURES, BIASES = (0.05, 20.0), (-15.0, 15.0)
"""Bounds of the calibration; the bias is in log-odds."""


@dataclass(frozen=True)
class Decision:
    """What turns logits into "malignant" or "benign"."""

    threshold: float
    """Malignant where the calibrated probability is at or above it."""
    temperature: float
    """The logits are divided by it."""
    bias: float
    """Then added to the log-odds of malignant."""
    prior_strength: float | None = None
    """Power of the classes' frequencies that probabilities are divided by before the highest is
    taken; None where that was not fitted."""


def decide(
    logits: np.ndarray,
    malignant: np.ndarray,
    *,
    outputs: Outputs,
    calibrate: bool,
    target_sensitivity: float | None,
) -> Decision:
    """Fit calibration (unless ``calibrate`` is False) and threshold.

    ``logits`` are float [N, K], ``malignant`` is 0 or 1, [N].
    """
    temperature, bias = fit_calibration(logits, malignant, outputs) if calibrate else (1.0, 0.0)
    probability = malignant_probability(logits, outputs, temperature, bias)
    threshold = choose_threshold(probability, malignant, target_sensitivity)
    return Decision(threshold, temperature, bias)


def scores(
    logits: np.ndarray,
    outputs: Outputs,
    decision: Decision,
    *,
    prior: np.ndarray,
    decide: Decide,
    classes: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Return the probabilities and decisions of logits [N, K], a row an image.

    Columns: prob_malignant (calibrated), predicted (1 at or above the threshold),
    prob_uncalibrated; for diagnoses, the calibrated prob_CLASS, adjusted_CLASS where a strength of
    the ``prior`` [K] was fitted, and predicted_dx, the highest of those that ``decide`` names.

    ``classes`` has the name in the table of each of the model's classes that gets columns, those of
    one name are added; None: all, under their own names.
    """
    fitted = (outputs, decision.temperature, decision.bias)
    prob = malignant_probability(logits, *fitted)
    table = pd.DataFrame({"prob_malignant": prob})
    table["predicted"] = (prob >= decision.threshold).astype(int)
    table["prob_uncalibrated"] = malignant_probability(logits, outputs)
    named = {dx: dx for dx in outputs.names} if classes is None else classes
    if outputs.task == "binary" or not named:
        return table
    kinds = {"prob": class_probabilities(logits, *fitted)}
    if decision.prior_strength is not None:
        adjusted = adjusted_probabilities(kinds["prob"], prior, decision.prior_strength)
        kinds["adjusted"] = adjusted
    names = list(dict.fromkeys(named[dx] for dx in outputs.names if dx in named))
    member = [[named.get(dx) == name for dx in outputs.names] for name in names]
    for kind, shares in kinds.items():
        sums = [np.minimum(shares[:, own].sum(axis=1), 1.0) for own in member]
        table[[f"{kind}_{name}" for name in names]] = np.stack(sums, axis=1)
    kind = "adjusted" if decide == "prior" and "adjusted" in kinds else "prob"
    decided = table[[f"{kind}_{name}" for name in names]].to_numpy()
    table["predicted_dx"] = np.array(names)[decided.argmax(axis=1)]
    return table


def fit_calibration(
    logits: np.ndarray, malignant: np.ndarray, outputs: Outputs
) -> tuple[float, float]:
    """Return temperature and bias that minimise the negative log-likelihood of malignant or not.

    A temperature alone (Guo et al. 2017) changes how confident a model is. A loss that weights
    classes, and balanced sampling, also shift the log-odds of every image; the bias shifts them
    back. With two classes this is Platt's scaling (1999).
    """
    logits = np.asarray(logits, dtype=np.float64)

    def log_odds(log_temperature: float) -> np.ndarray:
        return malignant_log_odds(logits / np.exp(log_temperature), outputs)

    def cost(values: np.ndarray) -> float:
        shifted = log_odds(values[0]) + values[1]
        # -log P(true label) = log(1 + exp(-log-odds of the true label))
        return float(np.logaddexp(0.0, np.where(malignant == 1, -shifted, shifted)).mean())

    observed, predicted = np.clip([np.mean(malignant), expit(log_odds(0.0)).mean()], 1e-3, 1 - 1e-3)
    start = float(np.clip(logit(observed) - logit(predicted), *BIASES))
    fitted = minimize(
        cost,
        [0.0, start],
        method="Nelder-Mead",
        bounds=[tuple(np.log(TEMPERATURES)), BIASES],
        options={"xatol": 1e-5, "fatol": 1e-10, "maxiter": 1000},
    )
    return float(np.exp(fitted.x[0])), float(fitted.x[1])


def fit_prior_strength(probabilities: np.ndarray, truth: np.ndarray, prior: np.ndarray) -> float:
    """Return the power of ``prior`` [K] whose division gives the highest balanced accuracy.

    Of several that do, the middle one. ``probabilities`` are float [N, K], calibrated; ``truth`` is
    the class index, int [N].
    """
    called = [adjusted_probabilities(probabilities, prior, s).argmax(axis=1) for s in STRENGTHS]
    recalls = [[(each[truth == k] == k).mean() for k in np.unique(truth)] for each in called]
    reached = np.mean(recalls, axis=1)
    best = STRENGTHS[reached >= reached.max() - 1e-12]
    return float(best[len(best) // 2])


def choose_threshold(
    probability: np.ndarray, malignant: np.ndarray, target_sensitivity: float | None = None
) -> float:
    """Return a threshold halfway between two neighbouring values of ``probability`` [N].

    It is the highest that reaches ``target_sensitivity``; without one, it maximises Youden's index
    (sensitivity + specificity - 1), the higher threshold in a tie. ``malignant`` is 0 or 1, [N];
    that one of the two does not occur is a DataError.
    """
    malignant = np.asarray(malignant)
    positives, negatives = int((malignant == 1).sum()), int((malignant == 0).sum())
    if not positives or not negatives:
        raise DataError(
            f"the validation split has {positives} malignant and {negatives} benign samples; "
            "a threshold needs both"
        )
    scores = np.unique(probability)[::-1]
    missed = np.searchsorted(np.sort(probability[malignant == 1]), scores, side="left")
    cleared = np.searchsorted(np.sort(probability[malignant == 0]), scores, side="left")
    sensitivity, specificity = 1.0 - missed / positives, cleared / negatives
    if target_sensitivity is None:
        best = int(np.argmax(sensitivity + specificity))
    else:
        best = int(np.argmax(sensitivity >= target_sensitivity - 1e-12))
    below = scores[best + 1] if best + 1 < len(scores) else 0.0
    return float((scores[best] + below) / 2)
