"""What a tracker shows of a validation besides numbers: every decision, and some of the images.

    val, probability --epoch_views--> EpochViews --Tracker.log--> curves, tables, pictures

Plain arrays and dictionaries, which each tracker turns into its own charts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline.figures import draw_cases, surest_mistakes
from pipeline.ham10000.taxonomy import LABELS

Pictures = Callable[[Sequence[str]], list[np.ndarray]]
"""Image ids to images ``[H, W, 3] uint8 0-255`` RGB, as stored in the shards."""

Views = Callable[[], "EpochViews"]
"""Makes the views, in the tracker's thread: reading pictures takes a while."""

LOGGED_IMAGES = 32
"""Images in the table of predictions, and at most in the gallery of mistakes."""

FACTS = ("image_id", "actual", "predicted", "probability", "dx", "age", "sex", "site")
"""Columns of the table of predictions, after the picture."""


@dataclass(frozen=True)
class LoggedImage:
    """An image and the model's decision on it."""

    picture: np.ndarray
    """[H, W, 3] uint8 0-255, RGB."""
    facts: dict[str, Any]
    """By name, as in ``FACTS``; age in years, None where unknown."""


@dataclass(frozen=True)
class EpochViews:
    """One validation, N images."""

    label: np.ndarray
    """int [N], 1 = malignant."""
    probability: np.ndarray
    """float [N], calibrated, of malignant."""
    predicted: np.ndarray
    """int [N], at the fitted threshold."""
    drawn: tuple[LoggedImage, ...] = ()
    """The same lesions each time, half malignant where there are enough; empty without pictures."""
    mistakes: tuple[LoggedImage, ...] = ()
    """The most confident mistakes, the most confident first; empty without pictures."""


def epoch_views(
    val: pd.DataFrame,
    probability: np.ndarray,
    threshold: float,
    *,
    pictures: Pictures | None,
    seed: int,
) -> EpochViews:
    """Return what a tracker shows of a validation.

    ``val`` are the N samples of the split (image_id, group, label, dx, age, sex, localization),
    ``probability`` is float [N], calibrated, of malignant, which it is at or above ``threshold``.
    ``pictures`` reads images (None: there are none), drawn with ``seed``.
    """
    label = val["label"].to_numpy()
    predicted = (probability >= threshold).astype(int)
    if pictures is None:
        return EpochViews(label, probability, predicted)
    names = np.array(LABELS)
    table = val.assign(
        actual=names[label],
        predicted=names[predicted],
        probability=probability,
        site=val["localization"],
    )
    table = table[list(FACTS)].astype(object).where(table.notna(), None)

    def images(rows: np.ndarray) -> tuple[LoggedImage, ...]:
        chosen = table.iloc[rows].to_dict("records")
        read = pictures([facts["image_id"] for facts in chosen])
        return tuple(map(LoggedImage, read, chosen))

    return EpochViews(
        label,
        probability,
        predicted,
        drawn=images(draw_cases(label, val["group"].to_numpy(str), LOGGED_IMAGES, seed)),
        mistakes=images(surest_mistakes(label, probability, threshold, LOGGED_IMAGES)),
    )
