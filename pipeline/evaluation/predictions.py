"""The table that every judgement starts from: one row per image, checked, kept as CSV.

frame = assemble(split.samples, image_ids, card.scores(logits))   # joined to the metadata
frame = read(Path("reports/r34/predictions.csv"))                 # the same floats again
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.errors import DataError
from pipeline.ham10000.taxonomy import HAM10000, LABELS, Taxonomy

CORE = ("image_id", "lesion_id", "dx", "label", "prob_malignant", "predicted")
"""The first columns of predictions.csv; ``label`` and ``predicted`` are indices into LABELS."""

REQUIRED = (*CORE, "group", "age", "sex", "localization", "dx_type")

INTEGERS, FLOATS = ("label", "predicted"), ("age", "sharpness", "brightness")
"""Columns of numbers, besides ``prob_...`` and ``adjusted_...``; all others are text."""


def judged_classes(frame: pd.DataFrame, taxonomy: Taxonomy) -> tuple[str, ...]:
    """Return the classes whose probability a table has; none for a binary model."""
    return tuple(dx for dx in taxonomy.classes if f"prob_{dx}" in frame.columns)


def assemble(
    samples: pd.DataFrame,
    image_ids: Sequence[str],
    scores: pd.DataFrame,
    taxonomy: Taxonomy = HAM10000,
) -> pd.DataFrame:
    """Join a model's scores, one for each of ``image_ids``, to the samples of a split.

    An image missing, repeated or of another split is a DataError, as is what ``check`` refuses.
    """
    predicted, expected = Counter(image_ids), Counter(samples["image_id"])
    if predicted != expected:
        raise DataError(
            f"each of the split's {len(samples)} images must be predicted exactly once; found "
            f"{len(image_ids)} predictions, {len(expected - predicted)} images without one, "
            f"{len(predicted.keys() - expected.keys())} of images that are not in the split, "
            f"{sum(n > 1 for n in predicted.values())} images more than once"
        )
    joined = samples.drop(columns=["label"], errors="ignore").merge(
        scores.assign(image_id=list(image_ids)), on="image_id", how="left", validate="one_to_one"
    )
    joined["label"] = joined["dx"].isin(taxonomy.malignant).astype(int)
    check(joined, taxonomy)
    return joined.reindex(columns=[*CORE, *(c for c in joined.columns if c not in CORE)])


def check(
    frame: pd.DataFrame, taxonomy: Taxonomy = HAM10000, where: str = "the predictions"
) -> None:
    """Raise a DataError that says why no metric can be computed from a table, if that is so."""
    absent = [c for c in REQUIRED if c not in frame.columns]
    if absent:
        raise DataError(
            f"{where}: column {absent[0]!r} is missing (found: {', '.join(frame.columns)}); "
            "every report needs " + ", ".join(REQUIRED)
        )
    if frame.empty:
        raise DataError(f"{where}: no samples, so there is nothing to judge; choose another split")
    unknown = sorted(set(frame["dx"]) - set(taxonomy.classes))
    if unknown:
        raise DataError(f"{where}: dx {unknown[0]!r} is not one of {', '.join(taxonomy.classes)}")
    wrong = frame[frame["label"] != frame["dx"].isin(taxonomy.malignant).astype(int)]
    if len(wrong):
        first = wrong.iloc[0]
        raise DataError(
            f"{where}: {len(wrong)} labels contradict their dx (first: {first['image_id']}, dx "
            f"{first['dx']!r}, label {first['label']}); 1 is malignant, 0 benign"
        )
    for column in ("prob_malignant", *(f"prob_{dx}" for dx in judged_classes(frame, taxonomy))):
        require_probabilities(frame, column, frame["image_id"], where)
    present = frame["label"].unique()
    if len(present) == 1:
        raise DataError(
            f"{where}: all {len(frame)} samples are {LABELS[present[0]]}, so sensitivity, "
            "specificity and the ROC curve are not defined; choose a split with both classes"
        )


def require_probabilities(
    frame: pd.DataFrame, column: str, images: Iterable[str], where: str
) -> None:
    """Raise a DataError that names the first row whose value is not from 0 to 1 (or is NaN)."""
    values = frame[column].to_numpy(dtype=float)
    bad = np.flatnonzero(~((values >= 0) & (values <= 1)))
    if len(bad):
        raise DataError(
            f"{where}: {len(bad)} of {len(values)} values of {column} are not probabilities "
            f"(first: {list(images)[bad[0]]}, {values[bad[0]]}); a model that gives NaN has "
            "diverged: choose an earlier checkpoint"
        )


def as_csv(frame: pd.DataFrame) -> str:
    """Return a table as CSV; every float in the shortest form that reads back exactly."""
    return frame.to_csv(index=False, lineterminator="\n")


def in_classes_of(frame: pd.DataFrame, own: Taxonomy, other: Taxonomy) -> pd.DataFrame:
    """Return a table with dx (else "") and probabilities in those classes of ``other`` that map."""
    shared = own.shared(other)
    columns = {f"prob_{dx}": shared.get(dx) for dx in judged_classes(frame, own)}
    table = frame.drop(columns=[*columns])
    for dx in dict.fromkeys(filter(None, columns.values())):
        alike = [name for name, meant in columns.items() if meant == dx]
        # a sum of float64 shares can exceed 1.0 by one rounding step
        table[f"prob_{dx}"] = frame[alike].sum(axis=1).clip(upper=1.0)
    return table.assign(dx=[shared.get(dx, "") for dx in frame["dx"]])


def read(path: Path, taxonomy: Taxonomy = HAM10000) -> pd.DataFrame:
    """Read and check a predictions.csv."""
    if not path.is_file():
        raise DataError(f"{path} does not exist; a report folder is what eval.py writes with --out")
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    for column in frame.columns:
        if column in (*INTEGERS, *FLOATS) or column.startswith(("prob_", "adjusted_")):
            kind = int if column in INTEGERS else float
            try:  # not by read_csv: pandas 2 reads some floats one bit off
                frame[column] = np.array([kind(text or "nan") for text in frame[column]])
            except ValueError as error:
                raise DataError(
                    f"{path}: column {column}: {error}; make the report again"
                ) from error
    check(frame, taxonomy, str(path))
    return frame
