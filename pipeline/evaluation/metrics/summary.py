"""The content of metrics.json: every metric of a predictions table, with intervals over lesions.

metrics = summarise(read(Path("reports/r34/predictions.csv")), threshold=0.4)
"""

import numpy as np
import pandas as pd

from pipeline.evaluation.metrics import calibration
from pipeline.evaluation.metrics.binary import binary_metrics, ones, ratio, shares
from pipeline.evaluation.metrics.bootstrap import RESAMPLES, estimate
from pipeline.evaluation.metrics.multiclass import confusion_matrix, dx_metrics
from pipeline.evaluation.metrics.net_benefit import decision_curve, operating_point
from pipeline.evaluation.metrics.subgroups import ERROR_FACTORS, PATIENT_FACTORS, banded, by_factor
from pipeline.evaluation.predictions import DX_PROBABILITIES, check
from pipeline.ham10000.taxonomy import DX, LABELS, MALIGNANT


def summarise(
    frame: pd.DataFrame,
    *,
    threshold: float,
    temperature: float = 1.0,
    bias: float = 0.0,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """Return all metrics of a predictions table as plain JSON values; None where not defined.

    ``threshold`` is the one that ``predicted`` was decided at and is applied to the lesion means;
    ``temperature`` and ``bias`` of the calibration are only recorded.
    """
    check(frame)
    frame = banded(frame)
    label, prob = frame["label"].to_numpy(), frame["prob_malignant"].to_numpy()
    factors = list(dict.fromkeys((*PATIENT_FACTORS, *ERROR_FACTORS)))
    tables = by_factor(frame, factors, resamples=resamples, seed=seed)
    figures = _headlines(frame, resamples, seed)
    return {
        **figures,
        "per_lesion": _headlines(per_lesion(frame, threshold), resamples, seed),
        "threshold": float(threshold),
        "calibration": calibration_change(frame, temperature, bias),
        "decision_curve": decision_curve(label, prob),
        "operating_point": operating_point(figures, threshold=threshold),
        "ece_bins": calibration.reliability(label, prob),
        "bootstrap": {
            "resamples": resamples,
            "seed": seed,
            "unit": "group of lesions",
            "interval": "percentile 2.5 to 97.5; Wilson over groups for shares of 0 and 1",
        },
        "subgroups": {k: v for k, v in tables.items() if k in PATIENT_FACTORS},
        "errors": {k: tables[k] for k in ERROR_FACTORS if k in tables},
    }


def per_lesion(frame: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Return one row per lesion: its images' mean probability, decided at the same threshold."""
    columns = ["prob_malignant", *(c for c in DX_PROBABILITIES if c in frame.columns)]
    how = dict.fromkeys(columns, "mean") | dict.fromkeys(("group", "dx", "label"), "first")
    lesions = pd.DataFrame(frame.groupby("lesion_id", sort=True).agg(how))
    lesions["predicted"] = (lesions["prob_malignant"].to_numpy() >= threshold).astype(int)
    return lesions.reset_index()


def _headlines(frame: pd.DataFrame, resamples: int, seed: int) -> dict:
    """Return the metrics of rows (images or lesions), ``ci95``, counts and confusion matrices."""
    columns = ("label", "prob_malignant", "predicted", "dx", "group")
    label, prob, predicted, dx, groups = (frame[name].to_numpy() for name in columns)
    truth = np.array([DX.index(d) for d in dx])
    seven = set(DX_PROBABILITIES) <= set(frame.columns)
    scores = frame[list(DX_PROBABILITIES)].to_numpy() if seven else None

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        values = binary_metrics(label, prob, predicted, weights)
        for name in MALIGNANT:
            found, weight = predicted[dx == name], weights[dx == name]
            values[f"recall_{name}"] = ratio(found @ weight, weight.sum(axis=0), np.nan)
        return values | (dx_metrics(truth, scores, weights) if scores is not None else {})

    parts = shares(label, predicted) | {f"recall_{name}": dx == name for name in MALIGNANT}
    if scores is not None:
        parts |= {f"recall_dx_{name}": dx == name for name in DX} | {
            "accuracy_dx": parts["accuracy"]
        }
    figures, bounds = estimate(statistic, groups, resamples=resamples, seed=seed, shares=parts)
    result = {"n": len(frame), "groups": len(set(groups)), "malignant": int(label.sum()), **figures}
    result["share_of"] = {name: int(inside.sum()) for name, inside in parts.items()}
    matrix = confusion_matrix(label, predicted, 2)
    result["confusion_matrix"] = matrix.tolist()
    result["per_class"] = per_class(matrix, LABELS)
    if scores is not None:
        matrix_dx = confusion_matrix(truth, scores.argmax(axis=1), len(DX))
        result["confusion_matrix_dx"] = matrix_dx.tolist()
        result["per_class_dx"] = per_class(matrix_dx, DX)
    return result | {"ci95": bounds}


def per_class(matrix: np.ndarray, names: tuple[str, ...]) -> dict[str, dict]:
    """Return count, precision, recall and F1 of each class of a confusion matrix (rows: truth)."""
    table = {}
    for k, name in enumerate(names):
        hits, true, guessed = int(matrix[k, k]), int(matrix[k].sum()), int(matrix[:, k].sum())
        table[name] = {
            "n": true,
            "precision": hits / guessed if guessed else 0.0,
            "recall": hits / true if true else None,
            "f1": 2 * hits / (true + guessed) if true + guessed else 0.0,
        }
    return table


def calibration_change(frame: pd.DataFrame, temperature: float, bias: float) -> dict:
    """Return Brier score, log loss and calibration error before and after temperature and bias."""
    label, weights = frame["label"].to_numpy(), ones(len(frame))
    change: dict = {"temperature": float(temperature), "bias": float(bias)}
    for when, column in (("before", "prob_uncalibrated"), ("after", "prob_malignant")):
        if column in frame.columns:
            prob = frame[column].to_numpy()
            change[when] = {
                "brier": float(calibration.brier(label, prob, weights)[0]),
                "nll": float(calibration.nll(label, prob, weights)[0]),
                "ece": float(calibration.expected_calibration_error(label, prob, weights)[0]),
            }
    return change
