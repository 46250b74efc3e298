"""Binary metrics, each over many weightings of the same samples at once.

Every function takes weights ``[N, R]`` (how often each of N images counts in each of R
resamples) and returns ``[R]``. A figure is the same function at weights of one, so a figure and
its interval cannot come from two formulas. Scores are sorted once for all resamples; images lie
along the rows because whole rows of memory are fast to pick and to sum.

    value = binary_metrics(label, prob, predicted, ones(len(label)))["roc_auc"][0]

Class 1 is malignant. Definitions follow scikit-learn; ``partial_auc`` that of ISIC 2024.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.evaluation.metrics.calibration import brier, expected_calibration_error, nll

OPERATING_LEVELS = (0.90, 0.95)
"""The levels at which sensitivity and specificity are read off each other."""

MIN_TPR = 0.8
"""Partial AUC counts the area above this sensitivity (ISIC 2024)."""


@dataclass(frozen=True)
class Ranked:
    """The corners of the ROC curve: weighted counts at each distinct score of a malignant image.

    Sensitivity changes at no other score, so these K points determine the curve.
    """

    tp: np.ndarray
    """[K, R] malignant images at or above the score, highest score first."""
    fp: np.ndarray
    """[K, R] benign images at or above the score."""
    fp_above: np.ndarray
    """[K, R] benign images strictly above it; ``fp - fp_above`` are ties."""
    positives: np.ndarray
    """[R] malignant images."""
    negatives: np.ndarray
    """[R] benign images."""

    @property
    def steps(self) -> np.ndarray:
        """[K, R] malignant images at each score."""
        return np.diff(self.tp, axis=0, prepend=0.0)


def ones(n: int) -> np.ndarray:
    """Return weights [n, 1] of one: the sample as it is."""
    return np.ones((n, 1))


def ratio(numerator: np.ndarray, denominator: np.ndarray, otherwise: float) -> np.ndarray:
    """Divide elementwise; ``otherwise`` where the denominator is zero."""
    out = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), otherwise, dtype=float)
    return np.divide(numerator, denominator, out=out, where=denominator != 0)


def rank(label: np.ndarray, score: np.ndarray, weights: np.ndarray) -> Ranked:
    """Count malignant and benign images at or above each distinct score [N] of a malignant one."""
    order = np.argsort(-score, kind="stable")
    positive, negative = order[label[order] == 1], order[label[order] == 0]
    corners = -score[positive]  # ascending, as searchsorted needs it
    last = np.flatnonzero(np.r_[corners[1:] != corners[:-1], True][: len(corners)])
    tp = np.cumsum(weights[positive], axis=0)[last]
    below = np.zeros((len(negative) + 1, weights.shape[1]))
    np.cumsum(weights[negative], axis=0, out=below[1:])
    fp = below[np.searchsorted(-score[negative], corners[last], side="right")]
    fp_above = below[np.searchsorted(-score[negative], corners[last], side="left")]
    positives = tp[-1] if len(tp) else np.zeros(weights.shape[1])
    return Ranked(tp, fp, fp_above, positives, below[-1])


def roc_auc(ranked: Ranked) -> np.ndarray:
    """Return the area under the ROC curve [R], ties counted half; NaN where a class is absent."""
    outranked = ranked.negatives - (ranked.fp + ranked.fp_above) / 2
    area = np.einsum("kr,kr->r", ranked.steps, outranked)
    return ratio(area, ranked.positives * ranked.negatives, np.nan)


def average_precision(ranked: Ranked) -> np.ndarray:
    """Return [R] the sum over thresholds of precision times the step in recall (scikit-learn's)."""
    precision = ratio(ranked.tp, ranked.tp + ranked.fp, 0.0)
    area = np.einsum("kr,kr->r", ranked.steps, precision)
    return ratio(area, ranked.positives, np.nan)


def partial_auc(ranked: Ranked) -> np.ndarray:
    """Return [R] the area between the ROC curve and TPR = MIN_TPR, from 0 to 1 - MIN_TPR."""
    steps, floor = ranked.steps, MIN_TPR * ranked.positives
    counted = np.minimum(steps, np.maximum(ranked.tp - floor, 0.0))
    # Of the score at which the curve crosses the floor, only the part above it counts. Along a tie
    # the curve is a straight line, so the mean FPR of that part lies nearer the upper end.
    share = ratio(counted, steps, 0.0)
    mean_fp = ranked.fp - (ranked.fp - ranked.fp_above) * share / 2
    area = np.einsum("kr,kr->r", counted, ranked.negatives - mean_fp)
    return ratio(area, ranked.positives * ranked.negatives, np.nan)


def sensitivity_at_specificity(ranked: Ranked, level: float) -> np.ndarray:
    """Return [R] the highest sensitivity among thresholds of at least this specificity."""
    within = (ranked.fp <= (1 - level) * ranked.negatives + 1e-9).sum(axis=0)
    reached = np.take_along_axis(ranked.tp, np.maximum(within - 1, 0)[None], axis=0)[0]
    return ratio(np.where(within > 0, reached, 0.0), ranked.positives, np.nan)


def specificity_at_sensitivity(ranked: Ranked, level: float) -> np.ndarray:
    """Return [R] the highest specificity among thresholds of at least this sensitivity."""
    first = (ranked.tp < level * ranked.positives - 1e-9).sum(axis=0)
    fp = np.take_along_axis(ranked.fp, np.minimum(first, len(ranked.fp) - 1)[None], axis=0)[0]
    return ratio(ranked.negatives - fp, ranked.negatives, np.nan)


def ranking_metrics(
    label: np.ndarray, score: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the metrics that need no threshold: {name: [R]}."""
    ranked = rank(label, score, weights)
    values = {
        "roc_auc": roc_auc(ranked),
        "pr_auc": average_precision(ranked),
        f"partial_auc_tpr{MIN_TPR * 100:.0f}": partial_auc(ranked),
    }
    for level in OPERATING_LEVELS:
        percent = f"{level * 100:.0f}"
        values[f"sensitivity_at_specificity_{percent}"] = sensitivity_at_specificity(ranked, level)
        values[f"specificity_at_sensitivity_{percent}"] = specificity_at_sensitivity(ranked, level)
    return values


def threshold_metrics(
    label: np.ndarray, predicted: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the metrics of 0/1 decisions: {name: [R]}; precision, F1, MCC are 0 if undefined."""
    kinds = ((1, 1), (0, 1), (1, 0), (0, 0))  # (label, predicted)
    cells = np.stack([(label == actual) & (predicted == decided) for actual, decided in kinds])
    tp, fp, fn, tn = cells.astype(float) @ weights
    total = tp + fp + fn + tn
    sensitivity, specificity = ratio(tp, tp + fn, np.nan), ratio(tn, tn + fp, np.nan)
    root = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return {
        "accuracy": ratio(tp + tn, total, np.nan),
        "error_rate": ratio(fp + fn, total, np.nan),
        "majority_accuracy": ratio(np.maximum(tp + fn, tn + fp), total, np.nan),
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "precision": ratio(tp, tp + fp, 0.0),
        "npv": ratio(tn, tn + fn, 0.0),
        "f1": ratio(2 * tp, 2 * tp + fp + fn, 0.0),
        "f1_benign": ratio(2 * tn, 2 * tn + fp + fn, 0.0),
        "mcc": ratio(tp * tn - fp * fn, root, 0.0),
    }


def shares(label: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """Return the images [N] bool that each metric of ``threshold_metrics`` is a share of."""
    every = np.ones(len(label), bool)
    return {
        "accuracy": every,
        "error_rate": every,
        "sensitivity": label == 1,
        "specificity": label == 0,
        "precision": predicted == 1,
        "npv": predicted == 0,
    }


def binary_metrics(
    label: np.ndarray, prob: np.ndarray, predicted: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Return every binary metric: {name: [R]}.

    ``label`` and ``predicted`` are [N] 0 or 1; ``prob`` is [N] float64 0-1, of malignant.
    """
    return {
        **ranking_metrics(label, prob, weights),
        **threshold_metrics(label, predicted, weights),
        "brier": brier(label, prob, weights),
        "nll": nll(label, prob, weights),
        "ece": expected_calibration_error(label, prob, weights),
    }
