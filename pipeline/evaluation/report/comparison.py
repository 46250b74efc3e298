"""Reports of the same images side by side: comparison.json, roc.png, report.html.

write_comparison(Path("reports/a-b"), [Path("reports/a"), Path("reports/b")])
"""

import datetime
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from pipeline.errors import DataError
from pipeline.evaluation.metrics.bootstrap import RESAMPLES
from pipeline.evaluation.metrics.comparison import compare
from pipeline.evaluation.metrics.summary import write_json
from pipeline.evaluation.predictions import read
from pipeline.evaluation.report.judgement import staged
from pipeline.evaluation.report.page import template
from pipeline.evaluation.report.plots import GREY, blank, save, square
from pipeline.figures import data_url, smaller_png

LINES = (("#0072B2", "-"), ("#D55E00", "--"), ("#009E73", "-."), ("#7B3F8C", ":"))
"""Colour and stroke of each report's curve."""

NAMES = {
    "roc_auc": "ROC-AUC",
    "pr_auc": "PR-AUC",
    "partial_auc_tpr80": "Partial AUC above 80 % sensitivity",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "brier": "Brier score (lower is better)",
    "ece": "Calibration error (lower is better)",
}


def write_comparison(
    out: Path, reports: Sequence[Path], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict:
    """Compare each report with the first and write what came out.

    Args:
        out: folder for comparison.json, roc.png and report.html.
        reports: folders that hold predictions.csv and metrics.json.
        resamples: of lesions, paired.
        seed: of the resamples.

    Returns:
        What comparison.json holds.
    """
    tables = [read(folder / "predictions.csv") for folder in reports]
    metrics = [read_metrics(folder) for folder in reports]
    results = [compare(tables[0], t, resamples=resamples, seed=seed) for t in tables[1:]]
    names = [str(folder) for folder in reports]
    summary = {
        "reports": names,
        "n": len(tables[0]),
        "bootstrap": {"resamples": resamples, "seed": seed},
        "comparisons": [
            {"first": names[0], "second": name, **result}
            for name, result in zip(names[1:], results, strict=True)
        ],
    }
    with staged(out) as folder:
        save(curves(names, tables, metrics), folder / "roc.png")
        page = template("comparison.html.j2").render(
            summary=summary, names=NAMES, metrics=metrics,
            image=data_url(smaller_png((folder / "roc.png").read_bytes()), "png"),
            today=datetime.datetime.now(datetime.UTC).date().isoformat(),
        )  # fmt: skip
        (folder / "report.html").write_text(page, encoding="utf-8")
        write_json(summary, folder / "comparison.json")
    return summary


def read_metrics(folder: Path) -> dict:
    """The metrics.json of a report."""
    path = folder / "metrics.json"
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise DataError(f"{path}: not found; a report folder is what eval.py wrote") from error
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); evaluate the checkpoint again") from error


def curves(names: list[str], tables: list[pd.DataFrame], metrics: list[dict]) -> Figure:
    """The ROC curves over each other, each with its operating point."""
    figure, (ax,) = blank(5.6, 5.6)
    ax.plot([0, 1], [0, 1], color=GREY, ls=":", lw=1)
    for k, (name, frame, found) in enumerate(zip(names, tables, metrics, strict=True)):
        colour, stroke = LINES[k % len(LINES)]
        fpr, tpr, _ = roc_curve(frame["label"], frame["prob_malignant"])
        text = f"{name}: AUC {found['roc_auc']:.3f}"
        ax.plot(fpr, tpr, color=colour, ls=stroke, lw=1.8, label=text)
        ax.plot(1 - found["specificity"], found["sensitivity"], "o", color=colour, mec="white")
    square(ax, "1 - specificity", "sensitivity")
    ax.legend(loc="lower right", fontsize=8)
    ax.set_title("ROC; points: each model's own threshold")
    return figure
