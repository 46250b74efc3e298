"""The folder of a judgement: metrics.json, predictions.csv, PNGs, report.html.

    write_report(Path("reports/r34"), frame, metrics, card, pictures, chosen)

Everything is drawn before the first file is written, and metrics.json is written last.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.evaluation.predictions import as_csv
from pipeline.evaluation.report import plots
from pipeline.evaluation.report.cases import KINDS, Pair, gallery, tiles
from pipeline.evaluation.report.data_card import DataCard
from pipeline.evaluation.report.page import (
    METRIC_NAMES,
    as_json,
    ci,
    metric_names,
    template,
    write_files,
)
from pipeline.figures import contact_sheet, data_url, png, smaller_png
from pipeline.ham10000.layouts.data_card import FIELDS
from pipeline.ham10000.taxonomy import LABELS, Taxonomy


def write_report(
    out: Path,
    frame: pd.DataFrame,
    metrics: dict,
    card: DataCard,
    pictures: dict[int, Pair],
    chosen: dict[str, np.ndarray],
) -> None:
    """Write a report into ``out``, over the files of an earlier one.

    ``metrics`` are from ``summarise``, ``chosen`` from ``choose_cases``; ``pictures`` holds
    all chosen rows.
    """
    drawn = {name: png(plot) for name, plot in draw_plots(frame, metrics, card.taxonomy).items()}
    binary = card.manifest["labels"] == "binary"  # a stand-in for a label is no diagnosis
    shown = frame.assign(dx="") if binary else frame
    page = template("report.html.j2").render(
        metrics=metrics,
        origin=metrics["provenance"],
        card=card,
        taxonomy=card.taxonomy,
        names=METRIC_NAMES if binary else metric_names(card.taxonomy),
        baselines=baselines(metrics),
        images={name: data_url(smaller_png(data), "png") for name, data in drawn.items()},
        galleries={
            kind: gallery(shown, chosen[kind], pictures, metrics["threshold"]) for kind in KINDS
        },
        totals={kind: metrics["confusion_matrix"][a][p] for kind, (a, p) in KINDS.items()},
        data_fields=FIELDS,
        factor_names=plots.FACTOR_NAMES,
        findings=findings(metrics),
        worse=worse(metrics["calibration"]),
    )
    drawn |= draw_sheets(shown, pictures, chosen)
    files = {f"{name}.png": data for name, data in drawn.items()}
    tables = {"predictions.csv": as_csv(frame), "metrics.json": as_json(metrics)}
    write_files(out, {**files, "report.html": page, **tables})


def draw_plots(frame: pd.DataFrame, metrics: dict, taxonomy: Taxonomy) -> dict[str, Figure]:
    """Return the plots by name."""
    figures = {
        "roc": plots.roc(frame, metrics),
        "precision_recall": plots.precision_recall(frame, metrics),
        "confusion_matrix": plots.confusion(metrics["confusion_matrix"], LABELS),
        "decision_curve": plots.decision_curve(metrics),
        "calibration": plots.calibration(frame, metrics),
        "scores_by_dx": plots.scores_by_dx(frame, metrics, taxonomy),
        "subgroups": plots.forest(metrics),
        "error_rates": plots.error_rates(metrics),
    }
    if "confusion_matrix_dx" in metrics:
        matrix, classes = metrics["confusion_matrix_dx"], list(metrics["per_class_dx"])
        figures["confusion_matrix_dx"] = plots.confusion(matrix, classes)
    if "recalibration" in metrics:
        figures["recalibration"] = plots.recalibration(metrics["recalibration"])
    return figures


def draw_sheets(
    frame: pd.DataFrame, pictures: dict[int, Pair], chosen: dict[str, np.ndarray]
) -> dict[str, bytes]:
    """Return the sheets of sample predictions and of misclassified cases as PNG."""
    sample, wrong = chosen["sample"], chosen["mistakes"]
    malignant = int(frame["label"].to_numpy()[sample].sum())
    title = (
        f"{len(sample)} lesions: {malignant} malignant and {len(sample) - malignant} benign ones, "
        "each drawn at random"
    )
    drawn = contact_sheet(tiles(frame, sample, pictures, overlay=False), title)
    title = f"Misclassified: the {len(wrong)} most confident mistakes, with Grad-CAM"
    mistakes = contact_sheet(tiles(frame, wrong, pictures, overlay=True), title, columns=3)
    return {"sample_predictions": png(drawn), "misclassified": png(mistakes)}


def baselines(metrics: dict) -> dict[str, tuple[str, str]]:
    """Return what always predicting the commoner class reaches: {headline: (figure, in words)}."""
    share = metrics["malignant"] / metrics["n"]
    commoner = int(share > 0.5)
    always = f"always “{LABELS[commoner]}”"
    return {
        "roc_auc": ("0.500", "chance"),
        "pr_auc": (f"{share:.3f}", "share malignant"),
        "sensitivity": ("1.000" if commoner else "0.000", always),
        "specificity": ("0.000" if commoner else "1.000", always),
        "balanced_accuracy": ("0.500", always),
        "accuracy": (f"{metrics['majority_accuracy']:.3f}", always),
        "brier": (f"{share * (1 - share):.3f}", "share malignant for all"),
        "ece": ("0.000", "perfect"),
    }


def findings(metrics: dict) -> list[str]:
    """Return, in words, the levels whose error rate is high, the highest of each factor first.

    High: the whole interval lies above the error rate of all images.
    """
    found = []
    for factor, levels in metrics["errors"].items():
        bounds = {name: entry.get("ci95", {}).get("error_rate") for name, entry in levels.items()}
        high = [name for name, ends in bounds.items() if ends and ends[0] > metrics["error_rate"]]
        for name in sorted(high, key=lambda name: -levels[name]["error_rate"]):
            entry, (low, top) = levels[name], bounds[name]
            found.append(
                f"{plots.FACTOR_NAMES[factor]}, {name}: {entry['error_rate']:.1%} wrong "
                f"({low:.1%} to {top:.1%}; {entry['errors']} of {entry['n']})"
            )
    return found


def worse(change: dict) -> list[str]:
    """Return the names of what calibration made worse, in words."""
    names = {"nll": "the negative log-likelihood", "brier": "Brier score", "ece": "ECE"}
    before, after = change.get("before", {}), change["after"]
    return [
        f"{words} ({before[key]:.4f} to {after[key]:.4f})"
        for key, words in names.items()
        if key in before and after[key] > before[key]
    ]


def print_headlines(metrics: dict) -> None:
    """Print the main metrics with their intervals."""
    if metrics["provenance"]["leak"]["found"]:
        print("LEAK: the checkpoint was trained on samples of this split; the figures are too good")
    if crossed := metrics["provenance"].get("crossing"):
        counts = ", ".join(f"{n} {what}" for what, n in crossed.items())
        print(f"LEAK: {counts} cross the splits (--allow-crossing); the figures are too good")
    if base := metrics["provenance"].get("base"):
        print(f"{base}: figures compare with those on the base")
    if "classes" in metrics["provenance"]:
        shared = ", ".join(f"{a} as {b}" for a, b in metrics["provenance"]["classes"].items())
        print(
            f"other classes than the shards': judged at {shared or 'none'}; else benign/malignant"
        )
    for name in ("roc_auc", "pr_auc", "sensitivity", "specificity", "accuracy"):
        print(f"{name:12s} {metrics[name]:.4f}  (95 %: {ci(metrics['ci95'][name], 4)})")
    print(f"{'':12s} {metrics['majority_accuracy']:.4f}  accuracy of always the commoner class")
