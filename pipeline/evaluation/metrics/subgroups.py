"""The same figures by sex, age band, site, way of diagnosis, diagnosis and image quality.

    table = by_factor(frame, banded(frame))["sex"]["female"]

A level of fewer than ``SMALLEST`` images gets its count and a note in place of figures.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from pipeline.evaluation.metrics.binary import rank, roc_auc, threshold_metrics
from pipeline.evaluation.metrics.bootstrap import RESAMPLES, interval, resample

SMALLEST = 20
"""Images below which a subgroup gets no figures."""

AGE_EDGES = (0, 30, 40, 50, 60, 70)
"""Years at which an age band begins; the last one is open."""

PATIENT_FACTORS = ("sex", "age_band", "localization", "dx_type")
ERROR_FACTORS = ("dx", "localization", "age_band", "dx_type", "sharpness_band", "brightness_band")
FIGURES = ("roc_auc", "sensitivity", "specificity", "accuracy", "error_rate")


def age_band(years: np.ndarray) -> np.ndarray:
    """The band of each age, [N] float years; "unknown" where it is NaN."""
    highs = [*(f"-{edge - 1}" for edge in AGE_EDGES[1:]), "+"]
    names = np.array([f"{low}{high}" for low, high in zip(AGE_EDGES, highs, strict=True)])
    index = np.searchsorted(AGE_EDGES, np.nan_to_num(years), side="right") - 1
    return np.where(np.isnan(years), "unknown", names[np.maximum(index, 0)])


def quartile_band(values: np.ndarray) -> np.ndarray:
    """The quarter, within the table, of an image quality [N]: "1 lowest" to "4 highest"."""
    names = np.array(["1 lowest", "2", "3", "4 highest"])
    place = rankdata(values) / len(values)
    return names[np.clip(np.ceil(place * 4).astype(int) - 1, 0, 3)]


def banded(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with a column for each factor; empty texts read "unknown"."""
    frame = frame.assign(age_band=age_band(frame["age"].to_numpy(dtype=float)))
    for column in ("sharpness", "brightness"):
        if column in frame.columns:
            frame[f"{column}_band"] = quartile_band(frame[column].to_numpy())
    for column in ("sex", "localization", "dx_type"):
        frame[column] = frame[column].fillna("").astype(str).replace("", "unknown")
    return frame


def by_factor(
    frame: pd.DataFrame,
    factors: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, dict[str, dict]]:
    """{factor: {level: n, malignant, errors, the figures and their ci95, or a note}}.

    Args:
        frame: a checked predictions table with the factors as columns (see ``banded``).
        factors: which; one that the table lacks is left out.
        resamples: of lesions, for the intervals.
        seed: of the resamples.
    """
    label, predicted = frame["label"].to_numpy(), frame["predicted"].to_numpy()
    prob = frame["prob_malignant"].to_numpy()
    cells: dict[tuple[str, str], np.ndarray] = {}
    result: dict[str, dict[str, dict]] = {}
    for factor in (f for f in factors if f in frame.columns):
        result[factor] = {}
        for level, rows in sorted(frame.groupby(factor).indices.items()):
            wrong = int((label[rows] != predicted[rows]).sum())
            entry: dict = {"n": len(rows), "malignant": int(label[rows].sum()), "errors": wrong}
            result[factor][str(level)] = entry
            if len(rows) < SMALLEST:
                entry["note"] = f"fewer than {SMALLEST} images"
            else:
                cells[factor, str(level)] = rows

    def figures(weights: np.ndarray) -> dict[str, np.ndarray]:
        values = {}
        for (factor, level), rows in cells.items():
            w = weights[rows]
            found = threshold_metrics(label[rows], predicted[rows], w)
            found["roc_auc"] = roc_auc(rank(label[rows], prob[rows], w))
            values |= {f"{factor}/{level}/{name}": found[name] for name in FIGURES}
        return values

    if cells:
        point = figures(np.ones((len(frame), 1)))
        draws = resample(figures, frame["group"].to_numpy(), resamples=resamples, seed=seed)
        for factor, level in cells:
            keys = {name: f"{factor}/{level}/{name}" for name in FIGURES}
            defined = {n: k for n, k in keys.items() if np.isfinite(point[k][0])}
            figures_here = {
                n: float(point[k][0]) if n in defined else None for n, k in keys.items()
            }
            bounds = {n: interval(draws[k]) for n, k in defined.items()}
            result[factor][level] |= figures_here | {"ci95": bounds}
    return result
