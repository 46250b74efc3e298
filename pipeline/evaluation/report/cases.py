"""The images that a report shows: which ones, and what is written beside each.

    rows = choose_cases(frame, threshold=0.4, each=16, seed=0)["false negatives"]

Pictures are given by row: the image as the model sees it, and the same with its Grad-CAM.
"""

from typing import Any

import numpy as np
import pandas as pd

from pipeline.evaluation.report.pictures import as_webp
from pipeline.figures import RIGHT, WRONG, Tile, confidence, data_url, draw_cases, surest_mistakes
from pipeline.ham10000.taxonomy import LABELS

KINDS = {
    "false negatives": (1, 0),
    "false positives": (0, 1),
    "true positives": (1, 1),
    "true negatives": (0, 0),
}
"""(label, predicted) of each gallery, the most important first."""

SAMPLED, MISTAKES = 24, 24
"""Images on sample_predictions.png and on misclassified.png, at most."""

SIDE = 160
"""Pixels of a picture."""

Pair = tuple[np.ndarray, np.ndarray]
"""Picture and overlay of a case, each [S, S, 3] uint8 RGB."""


def choose_cases(
    frame: pd.DataFrame, *, threshold: float, each: int, seed: int
) -> dict[str, np.ndarray]:
    """Return the rows of each gallery (at most ``each``), of "sample" and of "mistakes".

    Galleries of errors show the most confident ones; those of right decisions are spread evenly
    from the most to the least confident.
    """
    prob = frame["prob_malignant"].to_numpy()
    label, predicted = frame["label"].to_numpy(), frame["predicted"].to_numpy()
    sure = confidence(prob, threshold)
    chosen = {}
    for kind, (actual, decided) in KINDS.items():
        rows = np.flatnonzero((label == actual) & (predicted == decided))
        rows = rows[np.argsort(-sure[rows], kind="stable")]
        if actual == decided and len(rows) > each:
            rows = rows[np.linspace(0, len(rows) - 1, each).round().astype(int)]
        chosen[kind] = rows[:each]
    return {
        **chosen,
        "sample": draw_cases(label, frame["group"].to_numpy(str), SAMPLED, seed),
        "mistakes": surest_mistakes(label, prob, threshold, MISTAKES),
    }


def described(frame: pd.DataFrame, rows: np.ndarray) -> list[dict[str, Any]]:
    """Return each row as a dictionary, with its class names and age in words."""
    return [
        {
            **row,
            "actual": LABELS[row["label"]],
            "decided": LABELS[row["predicted"]],
            "age": None if pd.isna(row["age"]) else row["age"],
            "years": "age unknown" if pd.isna(row["age"]) else f"{row['age']:.0f} y",
            "site": row["localization"] or "unknown",
        }
        for row in frame.iloc[rows].to_dict("records")
    ]


def tiles(
    frame: pd.DataFrame, rows: np.ndarray, pictures: dict[int, Pair], *, overlay: bool
) -> list[Tile]:
    """Return the rows as tiles of a contact sheet, with their Grad-CAM if ``overlay``."""
    drawn = []
    for number, row in zip(rows, described(frame, rows), strict=True):
        right = row["label"] == row["predicted"]
        lines = (
            f"{'right' if right else 'WRONG'}: p = {row['prob_malignant']:.3f}",
            f"actual {row['actual']}" + (f" ({row['dx']})" if row["dx"] else ""),
            f"predicted {row['decided']}",
            row["image_id"],
            f"{row['years']}, {row['sex']}",
            row["site"],
        )
        shown = pictures[number] if overlay else pictures[number][:1]
        if overlay and not has_heat(pictures[number]):
            lines += ("no region speaks for it",)
        drawn.append(Tile(shown, lines, frame=RIGHT if right else WRONG))
    return drawn


def has_heat(pair: Pair) -> bool:
    """Return whether the overlay differs from the picture."""
    return not np.array_equal(*pair)


def gallery(
    frame: pd.DataFrame, rows: np.ndarray, pictures: dict[int, Pair], threshold: float
) -> list[dict[str, Any]]:
    """Return what the page shows of each row."""
    sure = confidence(frame["prob_malignant"].to_numpy()[rows], threshold)
    return [
        {
            **row,
            "confidence": share,
            "heat": has_heat(pictures[number]),
            "picture": data_url(as_webp(pictures[number][0], 68), "webp"),
            "overlay": data_url(as_webp(pictures[number][1], 50), "webp"),
        }
        for number, row, share in zip(rows, described(frame, rows), sure.tolist(), strict=True)
    ]
