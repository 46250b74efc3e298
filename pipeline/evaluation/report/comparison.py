"""Reports of the same images side by side: comparison.json, roc.png, report.html.

python eval.py compare reports/a reports/b --out reports/a-b
"""

import json
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from pipeline.errors import DataError
from pipeline.evaluation.flags import CompareFlags
from pipeline.evaluation.metrics.comparison import compare
from pipeline.evaluation.predictions import in_classes_of, judged_classes, read
from pipeline.evaluation.report.page import METRIC_NAMES, as_json, template, write_files
from pipeline.evaluation.report.plots import unit_square
from pipeline.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, blank, data_url, png, smaller_png
from pipeline.folders import utf8
from pipeline.ham10000.taxonomy import described
from pipeline.owner import sole_writer

CLASS_METRIC_NAMES = {
    "accuracy_dx": "Accuracy of the diagnosis",
    "balanced_accuracy_dx": "Balanced accuracy of the diagnosis",
}

LINES = ((BLUE, "-"), (ORANGE, "--"), (GREEN, "-."), (PURPLE, ":"))
"""Colour and stroke of each report's curve."""


def run(flags: CompareFlags) -> None:
    """Compare each report with the first, write the page, print the headlines."""
    with sole_writer(flags.out, "--out"):
        pairs = write_comparison(flags)
    for pair in pairs:
        auc = pair["metrics"]["roc_auc"]
        print(
            f"{pair['second']} - {pair['first']}: ROC-AUC {auc['difference']:+.4f}, "
            f"p = {auc['p']:.4f} (DeLong {pair['delong']['p']:.4f}, "
            f"McNemar {pair['mcnemar']['p']:.4f})"
        )
    print(f"report: {flags.out / 'report.html'}")


def write_comparison(flags: CompareFlags) -> list[dict]:
    """Write the page; return what is in it of each pair."""
    metrics = [read_metrics(folder) for folder in flags.reports]
    taxonomies = [described(found.get("taxonomy")) for found in metrics]
    tables = [
        read(folder / "predictions.csv", taxonomy)
        for folder, taxonomy in zip(flags.reports, taxonomies, strict=True)
    ]
    names = [utf8(folder) for folder in flags.reports]
    boot = {"resamples": flags.resamples, "seed": flags.seed}
    pairs = []
    for name, table, taxonomy in zip(names[1:], tables[1:], taxonomies[1:], strict=True):
        second = in_classes_of(table, taxonomy, taxonomies[0])
        classes = [dx for dx in judged_classes(tables[0], taxonomies[0]) if f"prob_{dx}" in second]
        found = compare(tables[0], second, classes=classes, **boot)
        pairs.append({"first": names[0], "second": name, **found})
    summary = {"reports": names, "n": len(tables[0]), "bootstrap": boot, "comparisons": pairs}
    plot = png(curves(names, tables, metrics))
    image = data_url(smaller_png(plot), "png")
    page = template("comparison.html.j2").render(
        summary=summary, metrics=metrics, image=image, names=METRIC_NAMES | CLASS_METRIC_NAMES
    )
    files = {"roc.png": plot, "report.html": page, "comparison.json": as_json(summary)}
    write_files(flags.out, files)
    return pairs


def read_metrics(folder: Path) -> dict:
    """Return the metrics.json of a report."""
    path = folder / "metrics.json"
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise DataError(f"{path}: not found; a report folder is what eval.py wrote") from error
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); evaluate the checkpoint again") from error


def curves(names: list[str], tables: list[pd.DataFrame], metrics: list[dict]) -> Figure:
    """Draw the ROC curves in one plot, each with its operating point."""
    figure, (axes,) = blank(5.6, 5.6)
    axes.plot([0, 1], [0, 1], color=GREY, ls=":", lw=1)
    for k, (name, frame, found) in enumerate(zip(names, tables, metrics, strict=True)):
        colour, stroke = LINES[k % len(LINES)]
        fpr, tpr, _ = roc_curve(frame["label"], frame["prob_malignant"])
        text = f"{name}: AUC {found['roc_auc']:.3f}"
        axes.plot(fpr, tpr, color=colour, ls=stroke, lw=1.8, label=text)
        axes.plot(1 - found["specificity"], found["sensitivity"], "o", color=colour, mec="white")
    unit_square(axes, "1 - specificity", "sensitivity")
    axes.legend(loc="lower right", fontsize=8)
    axes.set_title("ROC; points: each model's own threshold")
    return figure
