"""What metrics.json holds: every figure of a predictions table, with intervals over lesions.

metrics = summarise(read(Path("reports/r34/predictions.csv")), threshold=0.4)
"""

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.evaluation.metrics import calibration
from pipeline.evaluation.metrics.binary import binary_metrics, ones
from pipeline.evaluation.metrics.bootstrap import RESAMPLES, interval, resample
from pipeline.evaluation.metrics.multiclass import confusion_matrix, dx_metrics
from pipeline.evaluation.metrics.subgroups import ERROR_FACTORS, PATIENT_FACTORS, banded, by_factor
from pipeline.evaluation.predictions import DX_PROBABILITIES, check
from pipeline.ham10000.taxonomy import DX, MALIGNANT

CLASSES = ("benign", "malignant")


def summarise(
    frame: pd.DataFrame,
    *,
    threshold: float,
    temperature: float = 1.0,
    bias: float = 0.0,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """Every figure of a report as plain JSON values.

    Args:
        frame: a predictions table (see ``predictions``); checked here.
        threshold: at which ``predicted`` was decided; used again for the lesion means.
        temperature: that the logits were divided by; 1.0 when the model has none.
        bias: that was then added to the log-odds of malignant; 0.0 when the model has none.
        resamples: of lesions, for the intervals.
        seed: of the resamples.
    """
    check(frame)
    frame = banded(frame)
    metrics = _headlines(frame, resamples, seed)
    lesions = per_lesion(frame, threshold)
    metrics["per_lesion"] = _headlines(lesions, resamples, seed)
    metrics |= {
        "threshold": float(threshold),
        "calibration": calibration_change(frame, temperature, bias),
        "ece_bins": [asdict(b) for b in calibration.reliability(*_label_prob(frame))],
        "bootstrap": {"resamples": resamples, "seed": seed, "unit": "group of lesions",
                      "interval": "percentile 2.5 to 97.5"},
    }  # fmt: skip
    tables = by_factor(frame, list(dict.fromkeys((*PATIENT_FACTORS, *ERROR_FACTORS))),
                       resamples=resamples, seed=seed)  # fmt: skip
    metrics["subgroups"] = {k: v for k, v in tables.items() if k in PATIENT_FACTORS}
    metrics["errors"] = {k: tables[k] for k in ERROR_FACTORS if k in tables}
    return metrics


def per_lesion(frame: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """One row per lesion: the mean probability of its images, decided at the same threshold."""
    columns = ["prob_malignant", *(c for c in DX_PROBABILITIES if c in frame.columns)]
    grouped = frame.groupby("lesion_id", sort=True)
    lesions = pd.DataFrame(grouped[columns].mean())
    for column in ("group", "dx", "label"):
        lesions[column] = grouped[column].first()
    lesions["predicted"] = (lesions["prob_malignant"].to_numpy() >= threshold).astype(int)
    return lesions.reset_index()


def _label_prob(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    return frame["label"].to_numpy(), frame["prob_malignant"].to_numpy()


def _headlines(frame: pd.DataFrame, resamples: int, seed: int) -> dict:
    """Figures of rows (images or lesions) with ``ci95``, counts and confusion matrices."""
    label, prob = _label_prob(frame)
    predicted, dx = frame["predicted"].to_numpy(), frame["dx"].to_numpy()
    truth = np.array([DX.index(d) for d in dx])
    seven = set(DX_PROBABILITIES) <= set(frame.columns)
    scores = frame[list(DX_PROBABILITIES)].to_numpy() if seven else None

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        values = binary_metrics(label, prob, predicted, weights)
        for name in MALIGNANT:
            rows = dx == name
            if rows.any():
                w = weights[rows]
                with np.errstate(invalid="ignore"):
                    values[f"recall_{name}"] = predicted[rows] @ w / w.sum(axis=0)
        return values | (dx_metrics(truth, scores, weights) if scores is not None else {})

    point = statistic(ones(len(frame)))
    draws = resample(statistic, frame["group"].to_numpy(), resamples=resamples, seed=seed)
    figures = {k: float(v[0]) if np.isfinite(v[0]) else None for k, v in point.items()}
    result = {"n": len(frame), "groups": len(set(frame["group"])),
              "malignant": int(label.sum()), **figures}  # fmt: skip
    result |= {f"recall_{name}": None for name in MALIGNANT if f"recall_{name}" not in figures}
    matrix = confusion_matrix(label, predicted, 2)
    result["confusion_matrix"] = matrix.tolist()
    result["per_class"] = per_class(matrix, CLASSES)
    if scores is not None:
        matrix_dx = confusion_matrix(truth, scores.argmax(axis=1), len(DX))
        result["confusion_matrix_dx"] = matrix_dx.tolist()
        result["per_class_dx"] = per_class(matrix_dx, DX)
    result["ci95"] = {k: interval(draws[k]) for k, v in figures.items() if v is not None}
    return result


def per_class(matrix: np.ndarray, names: tuple[str, ...]) -> dict[str, dict]:
    """Count, precision, recall and F1 of each class of a confusion matrix (rows: truth)."""
    table = {}
    for k, name in enumerate(names):
        hits, true, called = int(matrix[k, k]), int(matrix[k].sum()), int(matrix[:, k].sum())
        table[name] = {
            "n": true,
            "precision": hits / called if called else 0.0,
            "recall": hits / true if true else None,
            "f1": 2 * hits / (true + called) if true + called else 0.0,
        }
    return table


def calibration_change(frame: pd.DataFrame, temperature: float, bias: float) -> dict:
    """Brier, log loss and calibration error before and after temperature and bias."""
    label, w = frame["label"].to_numpy(), ones(len(frame))
    columns = {"before": "prob_uncalibrated", "after": "prob_malignant"}
    return {"temperature": float(temperature), "bias": float(bias)} | {
        when: {
            "brier": float(calibration.brier(label, prob, w)[0]),
            "nll": float(calibration.nll(label, prob, w)[0]),
            "ece": float(calibration.expected_calibration_error(label, prob, w)[0]),
        }
        for when, column in columns.items()
        if column in frame.columns
        for prob in [frame[column].to_numpy()]
    }


def write_json(values: dict, path: Path) -> None:
    """Write strict JSON (no NaN), complete or not at all."""
    if any(isinstance(v, float) and not math.isfinite(v) for v in values.values()):
        raise AssertionError("a figure is not finite: it should have been None")
    beside = path.with_name(f".{path.name}.partial")
    beside.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n")
    beside.replace(path)
