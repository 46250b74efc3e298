"""Are two models different on the same images? Paired bootstrap, DeLong, McNemar.

    result = compare(read(a / "predictions.csv"), read(b / "predictions.csv"))

The bootstrap resamples lesions and is the one to quote; DeLong (fast form of Sun and Xu, 2014)
takes images as independent, McNemar compares the decisions at each model's own threshold.
"""

import numpy as np
import pandas as pd
from scipy import stats

from pipeline.errors import DataError
from pipeline.evaluation.metrics.binary import binary_metrics
from pipeline.evaluation.metrics.bootstrap import RESAMPLES, interval, resample

COMPARED = ("roc_auc", "pr_auc", "partial_auc_tpr80", "accuracy", "balanced_accuracy",
            "sensitivity", "specificity", "brier", "ece")  # fmt: skip


def delong(label: np.ndarray, a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """DeLong's test for two correlated AUCs.

    Args:
        label: [N] 0 or 1.
        a: [N] scores of the first model.
        b: [N] scores of the second, of the same images.

    Returns:
        auc_a, auc_b, variance of the difference, z and the two-sided p.
    """
    positive, negative = np.flatnonzero(label == 1), np.flatnonzero(label == 0)
    m, n = len(positive), len(negative)
    aucs, by_positive, by_negative = [], [], []
    for score in (a, b):
        order = np.concatenate([score[positive], score[negative]])
        ranks = stats.rankdata(order)
        v10 = (ranks[:m] - stats.rankdata(order[:m])) / n
        v01 = 1 - (ranks[m:] - stats.rankdata(order[m:])) / m
        aucs.append(v10.mean())
        by_positive.append(v10)
        by_negative.append(v01)
    covariance = np.cov(np.stack(by_positive)) / m + np.cov(np.stack(by_negative)) / n
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    difference = aucs[0] - aucs[1]
    if variance <= 1e-20:  # the same ranking twice
        z = 0.0 if abs(difference) < 1e-12 else float(np.sign(difference) * np.inf)
    else:
        z = difference / np.sqrt(variance)
    return {"auc_a": float(aucs[0]), "auc_b": float(aucs[1]), "variance": float(variance),
            "z": float(z), "p": float(2 * stats.norm.sf(abs(z)))}  # fmt: skip


def mcnemar(right_a: np.ndarray, right_b: np.ndarray) -> dict[str, float]:
    """McNemar's exact test on which images each model got right.

    Args:
        right_a: [N] bool, the first model's decision was right.
        right_b: [N] bool, the second's.
    """
    only_a, only_b = int((right_a & ~right_b).sum()), int((~right_a & right_b).sum())
    both = only_a + only_b
    p = float(stats.binomtest(only_a, both, 0.5).pvalue) if both else 1.0
    return {"only_a_right": only_a, "only_b_right": only_b, "p": p}


def bootstrap_p(draws: np.ndarray) -> float:
    """Two-sided p of a paired difference: twice the smaller share of resamples beyond zero.

    Counted with the sample itself, so never below 2 / (resamples + 1).
    """
    draws = draws[np.isfinite(draws)]
    below, above = (draws <= 0).sum() + 1, (draws >= 0).sum() + 1
    return float(min(1.0, 2 * min(below, above) / (len(draws) + 1)))


def aligned(first: pd.DataFrame, second: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables in the order of the first; refused unless they are of the same images."""
    missing, surplus = (
        sorted(set(first["image_id"]) - set(second["image_id"])),
        sorted(set(second["image_id"]) - set(first["image_id"])),
    )
    if missing or surplus:
        example = (missing or surplus)[0]
        raise DataError(
            f"the reports are not of the same images: {len(missing)} only in the first, "
            f"{len(surplus)} only in the second (for example {example}); evaluate both "
            "checkpoints on the same split of the same shards"
        )
    second = second.set_index("image_id").loc[first["image_id"]].reset_index()
    if not (first["label"].to_numpy() == second["label"].to_numpy()).all():
        raise DataError("the reports disagree on the labels of the same images; were the shards "
                        "built from the same metadata?")  # fmt: skip
    return first.reset_index(drop=True), second


def compare(
    first: pd.DataFrame, second: pd.DataFrame, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict:
    """Each compared metric of both, its difference (second minus first), interval and p."""
    first, second = aligned(first, second)
    label = first["label"].to_numpy()
    arrays = [(f["prob_malignant"].to_numpy(), f["predicted"].to_numpy()) for f in (first, second)]

    def both(weights: np.ndarray | None) -> dict[str, np.ndarray]:
        a, b = (binary_metrics(label, prob, predicted, weights) for prob, predicted in arrays)
        values = {f"a/{k}": a[k] for k in COMPARED} | {f"b/{k}": b[k] for k in COMPARED}
        return values | {f"d/{k}": b[k] - a[k] for k in COMPARED}

    point = both(None)
    draws = resample(both, first["group"].to_numpy(), resamples=resamples, seed=seed)
    table = {
        k: {
            "a": float(point[f"a/{k}"][0]), "b": float(point[f"b/{k}"][0]),
            "difference": float(point[f"d/{k}"][0]), "ci95": interval(draws[f"d/{k}"]),
            "p": bootstrap_p(draws[f"d/{k}"]),
        }
        for k in COMPARED
    }  # fmt: skip
    right = [predicted == label for _, predicted in arrays]
    return {"n": len(first), "groups": len(set(first["group"])), "metrics": table,
            "delong": delong(label, arrays[0][0], arrays[1][0]),
            "mcnemar": mcnemar(right[0], right[1])}  # fmt: skip
