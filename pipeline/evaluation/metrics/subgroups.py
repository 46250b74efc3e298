"""Metrics by sex, age band, site, way of diagnosis, diagnosis and image quality.

    entry = by_factor(banded(frame), PATIENT_FACTORS)["sex"]["female"]

A level of fewer than ``SMALLEST`` images gets its counts and a note instead of metrics.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from pipeline.evaluation.metrics.binary import rank, roc_auc, shares, threshold_metrics
from pipeline.evaluation.metrics.bootstrap import RESAMPLES, estimate
from pipeline.ham10000.metadata import age_band

SMALLEST = 20
"""Images below which a subgroup gets no metrics."""

PATIENT_FACTORS = ("sex", "age_band", "localization", "skin_tone", "dx_type", "source")
ERROR_FACTORS = ("dx", "localization", "age_band", "dx_type", "sharpness_band", "brightness_band")
FIGURES = ("roc_auc", "sensitivity", "specificity", "accuracy", "error_rate")


def quartile_band(values: np.ndarray) -> np.ndarray:
    """Return the quarter of each image quality [N] within the table: "1 lowest" to "4 highest"."""
    names = np.array(["1 lowest", "2", "3", "4 highest"])
    place = rankdata(values) / len(values)
    return names[np.clip(np.ceil(place * 4).astype(int) - 1, 0, 3)]


def banded(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table with a column for each factor; empty texts read "unknown"."""
    frame = frame.assign(age_band=age_band(frame["age"].to_numpy(dtype=float)))
    for column in ("sharpness", "brightness"):
        if column in frame.columns:
            frame[f"{column}_band"] = quartile_band(frame[column].to_numpy())
    for column in frame.columns.intersection(["sex", "localization", "skin_tone", "dx_type"]):
        frame[column] = frame[column].fillna("").astype(str).replace("", "unknown")
    return frame


def by_factor(
    frame: pd.DataFrame, factors: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, dict[str, dict]]:
    """Return {factor: {level: n, malignant, errors, and FIGURES with their ci95, or a note}}.

    Factors are columns of ``frame`` (see ``banded``); one that it lacks is left out.
    """
    label, predicted = frame["label"].to_numpy(), frame["predicted"].to_numpy()
    prob = frame["prob_malignant"].to_numpy()
    members = {
        (factor, str(level)): rows
        for factor in factors
        if factor in frame.columns
        for level, rows in sorted(frame.groupby(factor).indices.items())
    }
    large = {cell: rows for cell, rows in members.items() if len(rows) >= SMALLEST}

    def statistic(weights: np.ndarray) -> dict[tuple[str, str, str], np.ndarray]:
        values = {}
        for (factor, level), rows in large.items():
            inside = weights[rows]
            found = threshold_metrics(label[rows], predicted[rows], inside)
            found["roc_auc"] = roc_auc(rank(label[rows], prob[rows], inside))
            values |= {(factor, level, name): found[name] for name in FIGURES}
        return values

    inside = {cell: np.isin(np.arange(len(frame)), rows) for cell, rows in large.items()}
    parts = {name: part for name, part in shares(label, predicted).items() if name in FIGURES}
    figures, bounds = estimate(
        statistic,
        frame["group"].to_numpy(),
        resamples=resamples,
        seed=seed,
        shares={
            (*cell, name): inside[cell] & part for cell in large for name, part in parts.items()
        },
    )
    result: dict[str, dict[str, dict]] = {}
    for (factor, level), rows in members.items():
        wrong = int((label[rows] != predicted[rows]).sum())
        entry: dict = {"n": len(rows), "malignant": int(label[rows].sum()), "errors": wrong}
        if (factor, level) in large:
            keys = {name: (factor, level, name) for name in FIGURES}
            entry |= {name: figures[key] for name, key in keys.items()}
            entry["ci95"] = {name: bounds[key] for name, key in keys.items() if key in bounds}
        else:
            entry["note"] = f"fewer than {SMALLEST} images"
        result.setdefault(factor, {})[level] = entry
    return result
