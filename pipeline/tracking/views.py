"""What an epoch has to show besides numbers: curves, a confusion matrix, cases with pictures.

    probabilities of the validation split --look_at--> Views --> a tracker

Plain arrays and dictionaries: no tracker is known here, nor where pictures come from.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix, precision_recall_curve, roc_curve

from pipeline.figures import draw_cases, surest_mistakes

Pictures = Callable[[Sequence[str]], list[np.ndarray]]
"""Image ids to images ``[H, W, 3] uint8 0-255`` RGB, as they lie in the shards."""

NAMES = ("benign", "malignant")
"""Of the labels 0 and 1."""

CURVE_POINTS = 500
"""Corners of a curve that are kept at most, both ends among them."""


LOGGED_IMAGES = 32
"""Images in the table of predictions, and at most in the gallery of mistakes."""


@dataclass(frozen=True)
class Case:
    """One image and what was said of it."""

    picture: np.ndarray
    """[H, W, 3] uint8 0-255, RGB."""
    facts: dict[str, Any]
    """image_id, actual, predicted, probability, dx, age (years or None), sex, site."""


@dataclass(frozen=True)
class Views:
    """What one validation has to show."""

    roc: pd.DataFrame
    """fpr and tpr, from (0, 0) to (1, 1)."""
    pr: pd.DataFrame
    """recall and precision, recall falling from 1 to 0."""
    confusion: np.ndarray
    """[2, 2] int: rows actual, columns predicted, benign first, at the fitted threshold."""
    samples: tuple[Case, ...]
    """The same images each time, half of them malignant; only where the epoch is the best."""
    mistakes: tuple[Case, ...]
    """The surest mistakes, the surest first; only where the epoch is the best."""


def look_at(
    val: pd.DataFrame,
    probability: np.ndarray,
    threshold: float,
    *,
    pictures: Pictures | None,
    seed: int,
    count: int = LOGGED_IMAGES,
) -> Views:
    """Return what a validation has to show.

    Args:
        val: the split's samples (image_id, label, dx, age, sex, localization), N rows.
        probability: float [N], calibrated, of malignant.
        threshold: malignant at or above it.
        pictures: where pictures come from; None leaves the cases out.
        count: samples drawn, and mistakes at most.
        seed: of the draw.
    """
    label = val["label"].to_numpy()
    called = (probability >= threshold).astype(int)
    samples: tuple[Case, ...] = ()
    mistakes: tuple[Case, ...] = ()
    if pictures and count:
        table = facts_of(val, probability, called)
        samples = cases(table, draw_cases(label, count, seed), pictures)
        mistakes = cases(table, surest_mistakes(label, probability, threshold, count), pictures)
    fpr, tpr, _ = roc_curve(label, probability)
    precision, recall, _ = precision_recall_curve(label, probability)
    return Views(
        roc=thinned(pd.DataFrame({"fpr": fpr, "tpr": tpr})),
        pr=thinned(pd.DataFrame({"recall": recall, "precision": precision})),
        confusion=confusion_matrix(label, called, labels=[0, 1]),
        samples=samples,
        mistakes=mistakes,
    )


def thinned(curve: pd.DataFrame) -> pd.DataFrame:
    """Return at most ``CURVE_POINTS`` rows of a curve, evenly, with both ends."""
    if len(curve) <= CURVE_POINTS:
        return curve
    return curve.iloc[np.linspace(0, len(curve) - 1, CURVE_POINTS).round().astype(int)]


def facts_of(val: pd.DataFrame, probability: np.ndarray, called: np.ndarray) -> pd.DataFrame:
    """Return a row of facts for each image, in the words of a report."""
    names = np.array(NAMES)
    return pd.DataFrame(
        {
            "image_id": val["image_id"].to_numpy(),
            "actual": names[val["label"].to_numpy()],
            "predicted": names[called],
            "probability": probability,
            **{name: val[name].to_numpy() for name in ("dx", "age", "sex")},
            "site": val["localization"].to_numpy(),
        }
    )


def cases(table: pd.DataFrame, rows: np.ndarray, pictures: Pictures) -> tuple[Case, ...]:
    """Return the rows with their pictures."""
    chosen = table.iloc[rows].to_dict("records")
    found = pictures([row["image_id"] for row in chosen])
    return tuple(
        Case(picture, {str(k): None if pd.isna(v) else v for k, v in row.items()})
        for picture, row in zip(found, chosen, strict=True)
    )
