"""The content of metrics.json: every metric of a predictions table, with intervals over lesions.

metrics = summarise(read(Path("reports/r34/predictions.csv")), threshold=0.4)
"""

from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from pipeline.evaluation.metrics import calibration
from pipeline.evaluation.metrics.binary import binary_metrics, ones, ratio, shares
from pipeline.evaluation.metrics.bootstrap import RESAMPLES, estimate
from pipeline.evaluation.metrics.multiclass import dx_accuracies, dx_metrics, official_figures
from pipeline.evaluation.metrics.net_benefit import decision_curve, operating_point
from pipeline.evaluation.metrics.subgroups import ERROR_FACTORS, PATIENT_FACTORS, banded, by_factor
from pipeline.evaluation.predictions import check, judged_classes
from pipeline.ham10000.taxonomy import HAM10000, LABELS, Taxonomy


def summarise(
    frame: pd.DataFrame,
    taxonomy: Taxonomy = HAM10000,
    *,
    threshold: float,
    temperature: float = 1.0,
    bias: float = 0.0,
    decide: str = "argmax",
    labels: str = "dx",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """Return all metrics of a predictions table as plain JSON values; None where not defined.

    Figures of the classes are over those of ``taxonomy`` that the table has probabilities of, and
    the images of these. ``threshold`` is the one that ``predicted`` was decided at and is applied
    to the lesion means; ``temperature`` and ``bias`` of the calibration are only recorded;
    ``decide`` is "prior" where the class is decided by the columns ``adjusted_...``. Where
    ``labels`` is "binary", ``dx`` only stands for benign or malignant: no figures by diagnosis.
    """
    check(frame, taxonomy)
    frame = banded(frame)
    label, prob = frame["label"].to_numpy(), frame["prob_malignant"].to_numpy()
    if labels == "binary":
        frame = frame.assign(dx="")
    factors = dict.fromkeys((*PATIENT_FACTORS, *ERROR_FACTORS))
    factors = [name for name in factors if name != "dx" or labels == "dx"]
    tables = by_factor(frame, factors, resamples=resamples, seed=seed)
    figures = _headlines(frame, taxonomy, decide, resamples, seed)
    lesions = per_lesion(frame, taxonomy, threshold)
    return {
        **figures,
        "per_lesion": _headlines(lesions, taxonomy, decide, resamples, seed),
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
        **({} if taxonomy == HAM10000 else {"taxonomy": taxonomy.describe()}),
    }


def per_lesion(frame: pd.DataFrame, taxonomy: Taxonomy, threshold: float) -> pd.DataFrame:
    """Return one row per lesion: its images' mean probability, decided at the same threshold."""
    classes = judged_classes(frame, taxonomy)
    columns = [f"{kind}_{dx}" for kind in ("prob", "adjusted") for dx in classes]
    columns = ["prob_malignant", *(name for name in columns if name in frame.columns)]
    how = dict.fromkeys(columns, "mean") | dict.fromkeys(("group", "dx", "label"), "first")
    lesions = pd.DataFrame(frame.groupby("lesion_id", sort=True).agg(how))
    lesions["predicted"] = (lesions["prob_malignant"].to_numpy() >= threshold).astype(int)
    return lesions.reset_index()


def _headlines(
    frame: pd.DataFrame, taxonomy: Taxonomy, decide: str, resamples: int, seed: int
) -> dict:
    """Return the metrics of rows (images or lesions), ``ci95``, counts and confusion matrices."""
    columns = ("label", "prob_malignant", "predicted", "dx", "group")
    label, prob, predicted, dx, groups = (frame[name].to_numpy() for name in columns)
    classes = judged_classes(frame, taxonomy)
    rows = np.flatnonzero(np.isin(dx, classes))
    truth = np.array([classes.index(each) for each in dx[rows]], dtype=int)
    ways = {
        way: frame[[f"{kind}_{name}" for name in classes]].to_numpy()[rows]
        for way, kind in (("argmax", "prob"), ("prior", "adjusted"))
        if f"{kind}_{classes[0] if classes else ''}" in frame.columns
    }

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        values = binary_metrics(label, prob, predicted, weights)
        for name in taxonomy.malignant:
            found, weight = predicted[dx == name], weights[dx == name]
            values[f"recall_{name}"] = ratio(found @ weight, weight.sum(axis=0), np.nan)
        if len(rows):
            inside = weights if len(rows) == len(weights) else weights[rows]
            values |= dx_metrics(truth, ways[decide], inside, classes)
            for way, found in ways.items():
                called = dx_accuracies(truth, found.argmax(axis=1), inside, len(classes))[0]
                values[f"balanced_accuracy_dx_{way}"] = called["balanced_accuracy_dx"]
        return values

    parts = shares(label, predicted)
    parts |= {f"recall_{name}": dx == name for name in taxonomy.malignant}
    if len(rows):
        parts |= {f"recall_dx_{name}": dx == name for name in classes}
        parts["accuracy_dx"] = np.isin(dx, classes)
    figures, bounds = estimate(statistic, groups, resamples=resamples, seed=seed, shares=parts)
    result = {"n": len(frame), "groups": len(set(groups)), "malignant": int(label.sum()), **figures}
    result["share_of"] = {name: int(inside.sum()) for name, inside in parts.items()}
    result |= per_class(label, predicted, LABELS, "")
    if len(rows):
        result |= per_class(truth, ways[decide].argmax(axis=1), classes, "_dx")
        result |= {"decide": decide, "official": official_figures(figures, classes)}
    return result | {"ci95": bounds}


def per_class(
    truth: np.ndarray, called: np.ndarray, names: tuple[str, ...], kind: str
) -> dict[str, list | dict]:
    """Return the confusion matrix (rows: truth), and count, precision, recall, F1 of each class.

    ``truth`` and ``called`` are indexes into ``names``, [N] int; ``kind`` ends the names of both.
    """
    how: dict[str, Any] = {"labels": range(len(names)), "zero_division": 0.0}
    found = precision_recall_fscore_support(truth, called, **how)
    rows = zip(names, *(np.asarray(column).tolist() for column in found), strict=True)
    return {
        f"confusion_matrix{kind}": confusion_matrix(truth, called, labels=how["labels"]).tolist(),
        f"per_class{kind}": {
            name: {"n": n, "precision": precision, "recall": recall if n else None, "f1": f1}
            for name, precision, recall, f1, n in rows
        },
    }


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
