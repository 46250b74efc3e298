"""Metrics of the classes of a taxonomy, over many weightings at once like the binary ones.

    values = dx_metrics(truth, probabilities, weights, classes)["balanced_accuracy_dx"]

Balanced accuracy is the mean recall of the diagnoses present: the ISIC 2018 Task 3 metric.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.evaluation.metrics.binary import average_precision, rank, ratio, roc_auc


def dx_metrics(
    truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray, classes: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return accuracy, balanced accuracy, and by diagnosis recall, ROC-AUC, average precision.

    Areas are those of a diagnosis against the rest.

    ``truth`` is the index of the class, [N] int; ``probabilities`` [N, K] float64 0-1.
    """
    values, recall = dx_accuracies(truth, probabilities.argmax(axis=1), weights, len(classes))
    for k, dx in enumerate(classes):
        ranked = rank((truth == k).astype(float), probabilities[:, k], weights)
        values |= {f"recall_dx_{dx}": recall[k], f"roc_auc_dx_{dx}": roc_auc(ranked)}
        values[f"pr_auc_dx_{dx}"] = average_precision(ranked)
    return values


def dx_accuracies(
    truth: np.ndarray, called: np.ndarray, weights: np.ndarray, classes: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return accuracy and balanced accuracy, and the recall of each class, [classes, weightings].

    ``truth`` and ``called`` are indexes of classes, [N] int.
    """
    right = called == truth
    member = truth == np.arange(classes)[:, None]
    counts = member.astype(float) @ weights
    hits = (member & right).astype(float) @ weights
    recall = ratio(hits, counts, np.nan)
    present = np.maximum((counts > 0).sum(axis=0), 1)
    values = {
        "accuracy_dx": ratio(hits.sum(axis=0), counts.sum(axis=0), np.nan),
        "balanced_accuracy_dx": np.nansum(recall, axis=0) / present,
    }
    return values, recall


def official_figures(figures: Mapping[str, float | None], classes: Sequence[str]) -> dict:
    """Return the figures of ``dx_metrics`` as the official ISIC scorer names and nests them."""
    ours = {"auc": "roc_auc_dx_", "ap": "pr_auc_dx_"}
    each = {
        name: {dx.upper(): figures[f"{key}{dx}"] for dx in classes} for name, key in ours.items()
    }
    defined = {name: [v for v in row.values() if v is not None] for name, row in each.items()}
    means = {name: float(np.mean(row)) for name, row in defined.items() if row}
    aggregate = {"balanced_accuracy": figures["balanced_accuracy_dx"]}
    return {"aggregate": aggregate, "per_category": each, "macro_average": means}
