"""An epoch's figures: metrics of the validation split, history.csv, timing.csv, curves.png.

``history.csv`` holds only what a rerun must reproduce; seconds and images/s are in ``timing.csv``.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

from pipeline import figures
from pipeline.files import write_file
from pipeline.learning.flags import Task
from pipeline.learning.probability import malignant_probability, task_targets

Row = dict[str, Any]
"""One line of a table, by column."""

PANELS = {
    "loss": ["train_loss", "val_loss"],
    "accuracy": ["train_accuracy", "val_accuracy", "val_balanced_accuracy"],
    "ROC-AUC, PR-AUC": ["val_roc_auc", "val_pr_auc"],
    "at the fitted threshold": ["val_sensitivity", "val_specificity"],
    "learning rate": ["lr"],
    "images/s": ["images_per_second"],
}
"""Columns of each panel of curves.png."""


def validation_metrics(logits: np.ndarray, dx_index: np.ndarray, task: Task) -> dict[str, float]:
    """Return the metrics of one validation, at a probability of 0.5 where one is needed.

    Args:
        logits: float [N, K].
        dx_index: int [N], index of each diagnosis in the taxonomy.
        task: "dx" adds the metrics of the seven classes.
    """
    malignant = task_targets(dx_index, "binary")
    probability = malignant_probability(logits, task)
    called = probability >= 0.5
    values = {
        "val_accuracy": float((called == malignant).mean()),
        "val_balanced_accuracy": float(balanced_accuracy_score(malignant, called)),
        "val_roc_auc": float(roc_auc_score(malignant, probability)),
        "val_pr_auc": float(average_precision_score(malignant, probability)),
    }
    if task == "dx":
        called_dx = logits.argmax(1)
        values["val_dx_accuracy"] = float((called_dx == dx_index).mean())
        values["val_dx_balanced_accuracy"] = float(balanced_accuracy_score(dx_index, called_dx))
    return values


def decided_metrics(
    probability: np.ndarray, malignant: np.ndarray, threshold: float
) -> dict[str, float]:
    """Return the fitted threshold, and sensitivity and specificity at it.

    Args:
        probability: float [N], calibrated, of malignant.
        malignant: 0 or 1, [N].
        threshold: malignant at or above it.
    """
    called = probability >= threshold
    return {
        "val_threshold": threshold,
        "val_sensitivity": float(called[malignant == 1].mean()),
        "val_specificity": float((~called[malignant == 0]).mean()),
    }


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """Write ``rows`` as CSV; floats read back exactly."""
    write_file(path, pd.DataFrame(list(rows)).to_csv(index=False, lineterminator="\n"))


def epoch_line(row: Row, timing: Row, *, epochs: int, best: bool) -> str:
    """Return the one line that the terminal shows for an epoch."""
    return (
        f"epoch {row['epoch']:>3}/{epochs}  loss {row['train_loss']:.4f}  "
        f"val loss {row['val_loss']:.4f}  acc {row['val_accuracy']:.3f}  "
        f"ROC-AUC {row['val_roc_auc']:.4f}{' *' if best else '  '}  lr {row['lr']:.2e}  "
        f"{timing['images_per_second']:.0f} images/s  {timing['seconds']:.0f} s  "
        f"waiting for data {timing['waiting_share']:.0%}"
    )


def draw_curves(path: Path, rows: Sequence[Row], timing: Sequence[Row]) -> None:
    """Draw losses, metrics, speed and learning rate over the epochs, as PNG."""
    table = pd.DataFrame(list(rows)).merge(pd.DataFrame(list(timing)), on="epoch")
    figure = Figure(figsize=(15, 7), layout="constrained")
    for axes, (title, columns) in zip(figure.subplots(2, 3).flat, PANELS.items(), strict=True):
        for column in columns:
            axes.plot(table["epoch"], table[column], marker=".", label=column)
        axes.set(title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
        axes.legend()
    figures.save(figure, path)
