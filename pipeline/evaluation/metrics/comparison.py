"""Whether two models differ on the same images: paired bootstrap, DeLong, McNemar.

    result = compare(read(a / "predictions.csv"), read(b / "predictions.csv"))

The bootstrap resamples lesions and is the one to quote. DeLong (fast form of Sun and Xu, 2014)
takes images as independent; McNemar compares the decisions at each model's own threshold.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from pipeline.errors import DataError
from pipeline.evaluation.metrics.binary import binary_metrics, ones
from pipeline.evaluation.metrics.bootstrap import RESAMPLES, interval, resample
from pipeline.evaluation.metrics.multiclass import dx_accuracies

COMPARED = (
    *("roc_auc", "pr_auc", "partial_auc_tpr80", "accuracy", "balanced_accuracy"),
    *("sensitivity", "specificity", "brier", "ece"),
)


COMPARED_DX = ("accuracy_dx", "balanced_accuracy_dx")
"""Over the classes that both models have, and their images."""


def delong(label: np.ndarray, a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Return DeLong's test for the AUCs of two models' scores ``a`` and ``b``, each [N].

    That is auc_a, auc_b, the variance of their difference, z and the two-sided p; the last three
    are NaN where a class has fewer than two images.
    """
    m, n = int((label == 1).sum()), int((label == 0).sum())
    aucs, by_positive, by_negative = [], [], []
    for score in (a, b):
        scores = np.concatenate([score[label == 1], score[label == 0]])
        ranks = stats.rankdata(scores)
        by_positive.append((ranks[:m] - stats.rankdata(scores[:m])) / n)
        by_negative.append(1 - (ranks[m:] - stats.rankdata(scores[m:])) / m)
        aucs.append(float(by_positive[-1].mean()))
    difference = aucs[0] - aucs[1]
    if min(m, n) < 2:
        return {"auc_a": aucs[0], "auc_b": aucs[1], **dict.fromkeys(("variance", "z", "p"), np.nan)}
    covariance = np.cov(np.stack(by_positive)) / m + np.cov(np.stack(by_negative)) / n
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    if variance <= 1e-20:  # the same ranking twice
        z = 0.0 if abs(difference) < 1e-12 else float(np.sign(difference) * np.inf)
    else:
        z = float(difference / np.sqrt(variance))
    p = float(2 * stats.norm.sf(abs(z)))
    return {"auc_a": aucs[0], "auc_b": aucs[1], "variance": variance, "z": z, "p": p}


def mcnemar(right_a: np.ndarray, right_b: np.ndarray) -> dict[str, float]:
    """Return McNemar's exact test; ``right_a``, ``right_b`` [N] bool: the decision was right."""
    only_a, only_b = int((right_a & ~right_b).sum()), int((~right_a & right_b).sum())
    either = only_a + only_b
    p = float(stats.binomtest(only_a, either, 0.5).pvalue) if either else 1.0
    return {"only_a_right": only_a, "only_b_right": only_b, "p": p}


def bootstrap_p(draws: np.ndarray) -> float:
    """Return the two-sided p of a paired difference: twice the smaller share beyond zero.

    The sample itself counts as a resample, so p is never below 2 / (resamples + 1).
    """
    draws = draws[np.isfinite(draws)]
    below, above = (draws <= 0).sum() + 1, (draws >= 0).sum() + 1
    return float(min(1.0, 2 * min(below, above) / (len(draws) + 1)))


def aligned(first: pd.DataFrame, second: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return both tables in the order of the first; other images or labels are a DataError."""
    ids, others = set(first["image_id"]), set(second["image_id"])
    if ids != others:
        raise DataError(
            f"the reports are not of the same images: {len(ids - others)} only in the first, "
            f"{len(others - ids)} only in the second (for example {min(ids ^ others)}); compare "
            "reports of the same split of the same shards"
        )
    second = second.set_index("image_id").loc[first["image_id"]].reset_index()
    if not np.array_equal(first["label"], second["label"]):
        raise DataError(
            "the reports disagree on the labels of the same images; were the shards built from "
            "the same metadata, and does their --taxonomy call the same classes malignant?"
        )
    return first.reset_index(drop=True), second


def compare(
    first: pd.DataFrame,
    second: pd.DataFrame,
    *,
    classes: Sequence[str] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """Return each metric of two checked predictions tables, the differences, and the tests.

    Differences are second - first; the resamples are of lesions and paired. ``classes`` are those
    that both tables have probabilities of; fewer than two are not compared.
    """
    first, second = aligned(first, second)
    label, groups = first["label"].to_numpy(), first["group"].to_numpy()
    models = [(f["prob_malignant"].to_numpy(), f["predicted"].to_numpy()) for f in (first, second)]

    dx = first["dx"].to_numpy()
    rows = np.flatnonzero(np.isin(dx, classes) & (dx == second["dx"].to_numpy()))
    classes = classes if len(classes) > 1 and len(rows) else ()
    compared = (*COMPARED, *(COMPARED_DX if classes else ()))
    truth = np.array([classes.index(each) for each in dx[rows]] if classes else [], dtype=int)
    columns = [f"prob_{name}" for name in classes]
    called = [f[columns].to_numpy()[rows].argmax(axis=1) for f in (first, second) if classes]

    def both(weights: np.ndarray) -> list[dict[str, np.ndarray]]:
        found = [binary_metrics(label, prob, decided, weights) for prob, decided in models]
        if classes:
            inside = weights[rows]
            of_classes = [dx_accuracies(truth, each, inside, len(classes))[0] for each in called]
            found = [a | b for a, b in zip(found, of_classes, strict=True)]
        return found

    def difference(weights: np.ndarray) -> dict[str, np.ndarray]:
        a, b = both(weights)
        return {name: b[name] - a[name] for name in compared}

    a, b = both(ones(len(first)))
    draws = resample(difference, groups, resamples=resamples, seed=seed)
    return {
        "n": len(first),
        "groups": len(set(groups)),
        "metrics": {
            name: {
                "a": float(a[name][0]),
                "b": float(b[name][0]),
                "difference": float(b[name][0] - a[name][0]),
                "ci95": interval(draws[name]),
                "p": bootstrap_p(draws[name]),
            }
            for name in compared
        },
        "classes": list(classes),
        "delong": delong(label, *(prob for prob, _ in models)),
        "mcnemar": mcnemar(*(decided == label for _, decided in models)),
    }
