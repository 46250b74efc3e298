"""The table that every judgement starts from: one row per image, checked, and kept as CSV.

``assemble`` joins a split's samples to a model's probabilities, ``check`` refuses what no metric
could be computed from, ``write`` and ``read`` keep it so that floats read back exactly.

    frame = read(Path("reports/r34/predictions.csv"))
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.errors import DataError
from pipeline.ham10000.taxonomy import DX, DX_IS_MALIGNANT

CORE = ("image_id", "lesion_id", "dx", "label", "prob_malignant", "predicted")
"""The first columns of predictions.csv; ``label`` and ``predicted`` are 0 benign, 1 malignant."""

METADATA = ("age", "sex", "localization", "dx_type")
"""The columns of the metadata that subgroups are made from."""

DX_PROBABILITIES = tuple(f"prob_{dx}" for dx in DX)
"""The probability of each diagnosis; there when the model tells seven classes apart."""

REQUIRED = (*CORE, "group", *METADATA)

IS_MALIGNANT = dict(zip(DX, DX_IS_MALIGNANT, strict=True))

WHOLE, REAL = ("label", "predicted"), ("age", "sharpness", "brightness")
"""Columns of numbers, besides those that begin with ``prob_``; all others are text."""


def assemble(
    samples: pd.DataFrame,
    image_ids: Sequence[str],
    threshold: float,
    *,
    prob_malignant: np.ndarray,
    prob_uncalibrated: np.ndarray,
    dx_probabilities: np.ndarray | None = None,
) -> pd.DataFrame:
    """Join predictions to the samples of a split, in the order of the samples.

    Args:
        samples: the split's table, one row per image.
        image_ids: the image of each prediction, in any order.
        threshold: ``predicted`` is 1 where prob_malignant >= threshold.
        prob_malignant: [N] float64 0-1, calibrated.
        prob_uncalibrated: [N] float64 0-1, before calibration.
        dx_probabilities: [N, 7] float64 0-1 in taxonomy order, or None for a binary model.
    """
    counts = pd.Series(list(image_ids), dtype=object).value_counts()
    missing = set(samples["image_id"]) - set(counts.index)
    surplus = set(counts.index) - set(samples["image_id"])
    if missing or surplus or (counts > 1).any() or len(image_ids) != len(samples):
        raise DataError(
            f"each of the split's {len(samples)} images must be predicted exactly once; got "
            f"{len(image_ids)} predictions, {len(missing)} images without one, {len(surplus)} of "
            f"images that are not in the split, {int((counts > 1).sum())} images more than once"
        )
    frame = pd.DataFrame({"image_id": list(image_ids), "prob_malignant": prob_malignant})
    frame["predicted"] = (frame["prob_malignant"] >= threshold).astype(int)
    frame["prob_uncalibrated"] = prob_uncalibrated
    if dx_probabilities is not None:
        frame[list(DX_PROBABILITIES)] = dx_probabilities
        frame["predicted_dx"] = [DX[k] for k in dx_probabilities.argmax(axis=1)]
    known = samples.drop(columns=["label"], errors="ignore")
    joined = known.merge(frame, on="image_id", how="left", validate="one_to_one")
    joined["label"] = [IS_MALIGNANT.get(dx, -1) for dx in joined["dx"]]
    check(joined)
    rest = [c for c in joined.columns if c not in CORE]
    return joined.reindex(columns=[*CORE, *rest])


def check(frame: pd.DataFrame, where: str = "the predictions") -> None:
    """Refuse a table that the metrics cannot be computed from, with what is wrong with it."""
    absent = [c for c in REQUIRED if c not in frame.columns]
    if absent:
        raise DataError(
            f"{where}: column {absent[0]!r} is missing (found: {', '.join(frame.columns)}); "
            "every report needs " + ", ".join(REQUIRED)
        )
    if frame.empty:
        raise DataError(f"{where}: no samples, so there is nothing to judge; choose another split")
    unknown = sorted(set(frame["dx"]) - set(DX))
    if unknown:
        raise DataError(f"{where}: dx {unknown[0]!r} is not one of {', '.join(DX)}")
    expected = np.array([IS_MALIGNANT[dx] for dx in frame["dx"]])
    wrong = np.flatnonzero(frame["label"].to_numpy() != expected)
    if len(wrong):
        first = frame.iloc[wrong[0]]
        raise DataError(
            f"{where}: {len(wrong)} labels contradict their dx (first: {first['image_id']}, dx "
            f"{first['dx']!r}, label {first['label']}); 1 is malignant, 0 benign"
        )
    _check_probabilities(frame, where)
    present = set(frame["label"])
    if len(present) == 1:
        only = "malignant" if 1 in present else "benign"
        raise DataError(
            f"{where}: all {len(frame)} samples are {only}, so sensitivity, specificity and the "
            "ROC curve are not defined; choose a split with both classes"
        )


def _check_probabilities(frame: pd.DataFrame, where: str) -> None:
    for column in ("prob_malignant", *(c for c in DX_PROBABILITIES if c in frame.columns)):
        values = frame[column].to_numpy(dtype=float)
        bad = ~((values >= 0) & (values <= 1))  # NaN is bad too
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            raise DataError(
                f"{where}: {int(bad.sum())} of {len(frame)} values of {column} are not "
                f"probabilities (first: {frame['image_id'].iloc[first]}, {values[first]}); a model "
                "that gives NaN has diverged: choose an earlier checkpoint"
            )


def write(frame: pd.DataFrame, path: Path) -> None:
    """Write predictions.csv; every float in the shortest form that reads back exactly."""
    frame.to_csv(path, index=False, lineterminator="\n")


def read(path: Path) -> pd.DataFrame:
    """Read and check a predictions.csv."""
    if not path.is_file():
        raise DataError(f"{path} does not exist; a report folder is what eval.py writes with --out")
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    numbers = [c for c in frame if c in (*WHOLE, *REAL) or str(c).startswith("prob_")]
    for column in numbers:
        kind = int if column in WHOLE else float
        frame[column] = _numbers(frame[column].to_list(), kind, f"{path}: column {column}")
    check(frame, str(path))
    return frame


def _numbers(texts: list[str], kind: type, where: str) -> np.ndarray:
    """Texts as numbers, exactly (pandas 2 may be off by one bit); an empty one is NaN."""
    try:
        return np.array([kind(text or "nan") for text in texts], dtype=kind)
    except ValueError as error:
        raise DataError(f"{where}: {error}; write the report again") from error
