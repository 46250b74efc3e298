"""An epoch's figures: metrics of the validation split, history.csv, timing.csv, curves.png.

``history.csv`` holds only what a rerun must reproduce; seconds and images/s are in ``timing.csv``.
"""

from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

from pipeline import figures
from pipeline.files import write_file
from pipeline.learning.probability import Outputs, malignant_probability

Row = dict[str, Any]
"""One line of a table, by column."""

LIKE = {
    "diagnoses": ["train_accuracy", "val_dx_accuracy", "val_dx_balanced_accuracy"],
    "benign or malignant, at 0.5": ["train_accuracy", "val_accuracy", "val_balanced_accuracy"],
}
"""What the accuracy in training can be compared with: that of the same classes, by their name."""


def validation_metrics(
    logits: np.ndarray, dx_index: np.ndarray, outputs: Outputs
) -> dict[str, float]:
    """Return the metrics of one validation, at a probability of 0.5 where one is needed.

    ``logits`` are float [N, K], ``dx_index`` int [N], of each diagnosis in the taxonomy; task "dx"
    of ``outputs`` adds the metrics of its classes.
    """
    malignant = outputs.taxonomy.is_malignant[dx_index]
    probability = malignant_probability(logits, outputs)
    called = probability >= 0.5
    values = {
        "val_accuracy": float((called == malignant).mean()),
        "val_balanced_accuracy": float(balanced_accuracy_score(malignant, called)),
        "val_roc_auc": float(roc_auc_score(malignant, probability)),
        "val_pr_auc": float(average_precision_score(malignant, probability)),
    }
    if outputs.task == "dx":
        called_dx = logits.argmax(1)
        values["val_dx_accuracy"] = float((called_dx == dx_index).mean())
        values["val_dx_balanced_accuracy"] = float(balanced_accuracy_score(dx_index, called_dx))
    return values


def decided_metrics(
    probability: np.ndarray, malignant: np.ndarray, threshold: float
) -> dict[str, float]:
    """Return the fitted threshold, and sensitivity and specificity at or above it.

    ``probability`` is float [N], calibrated, of malignant; ``malignant`` is 0 or 1, [N].
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


def panels(columns: Container[str]) -> dict[str, list[str]]:
    """Return the columns of each panel of curves.png, of those that a table has."""
    classes = next(name for name, like in LIKE.items() if like[1] in columns)
    drawn = {
        "loss": ["train_loss", "val_loss"],
        f"accuracy ({classes})": LIKE[classes],
        "ROC-AUC, PR-AUC of malignant": ["val_roc_auc", "val_pr_auc"],
        "malignant, at the fitted threshold": ["val_sensitivity", "val_specificity"],
        "learning rate": ["lr"],
        "images/s": ["images_per_second"],
    }
    return {title: [name for name in names if name in columns] for title, names in drawn.items()}


def draw_curves(rows: Sequence[Row], timing: Sequence[Row]) -> Figure:
    """Draw losses, metrics, speed and learning rate over the epochs, and mark the best epoch.

    Columns that an earlier version did not write are left out.
    """
    table = pd.DataFrame(list(rows)).merge(pd.DataFrame(list(timing)), on="epoch")
    best = table.loc[table["val_roc_auc"].idxmax(), "epoch"]
    figure = Figure(figsize=(15, 7), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(2, 3).flat, panels(table).items(), strict=True):
        for name in names:
            style = "--" if "balanced" in name else "-"  # another measure than accuracy
            axes.plot(table["epoch"], table[name], style, marker=".", label=name)
        axes.axvline(best, color=figures.GREY, ls=":", lw=1.5, label=f"best epoch: {best}")
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    return figure
