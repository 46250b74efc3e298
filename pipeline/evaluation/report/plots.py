"""The curves of a report: ROC, precision-recall, reliability, confusion, scores by diagnosis.

Each function takes a checked predictions table and the metrics computed from it and returns a
matplotlib figure.

    save(roc(frame, metrics), Path("roc.png"))
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import binomtest
from sklearn.metrics import precision_recall_curve, roc_curve

from pipeline.evaluation.metrics.calibration import reliability
from pipeline.evaluation.report.page import ci, figure
from pipeline.figures import BLUE, GREY, ORANGE, blank
from pipeline.ham10000.taxonomy import Taxonomy


def with_interval(metrics: dict, name: str) -> str:
    """Return a metric and its interval as text, for example "0.905 (0.880 to 0.930)"."""
    bounds = metrics["ci95"].get(name)
    return figure(metrics[name]) + (f" ({ci(bounds)})" if bounds else "")


def unit_square(axes: Axes, x: str, y: str) -> None:
    """Name the axes and give both the scale from 0 to 1."""
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=x, ylabel=y, aspect="equal")
    axes.grid(alpha=0.25)


def legend_above(plot: Figure, axes: Axes, title: str) -> None:
    """Put the legend below the title and above the axes, where it hides no point."""
    plot.suptitle(title)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), fontsize=8, frameon=False)


def roc(frame: pd.DataFrame, metrics: dict) -> Figure:
    """Draw sensitivity against 1 - specificity, the operating point, and chance."""
    plot, (axes,) = blank(5, 5)
    fpr, tpr, _ = roc_curve(frame["label"], frame["prob_malignant"])
    axes.plot(fpr, tpr, color=BLUE, lw=2, label=f"AUC {with_interval(metrics, 'roc_auc')}")
    axes.plot([0, 1], [0, 1], color=GREY, ls="--", lw=1, label="chance, AUC 0.500")
    x, y = 1 - metrics["specificity"], metrics["sensitivity"]
    text = f"threshold {metrics['threshold']:.3f}: sens. {y:.3f}, spec. {1 - x:.3f}"
    axes.plot(x, y, "o", color=ORANGE, ms=9, mec="white", label=text, clip_on=False, zorder=6)
    unit_square(axes, "1 - specificity (benign predicted malignant)", "sensitivity")
    axes.legend(loc="lower right", fontsize=8)
    axes.set_title(f"ROC, {metrics['n']:,} images")
    return plot


def precision_recall(frame: pd.DataFrame, metrics: dict) -> Figure:
    """Draw precision against recall of malignant, the operating point, and the prevalence."""
    plot, (axes,) = blank(5, 5)
    precision, recall, _ = precision_recall_curve(frame["label"], frame["prob_malignant"])
    text = f"average precision {with_interval(metrics, 'pr_auc')}"
    axes.step(recall, precision, where="post", color=BLUE, lw=2, label=text)
    share = metrics["malignant"] / metrics["n"]
    axes.axhline(share, color=GREY, ls="--", lw=1, label=f"share malignant {share:.3f}")
    x, y = metrics["sensitivity"], metrics["precision"]
    text = f"threshold {metrics['threshold']:.3f}: precision {y:.3f}, recall {x:.3f}"
    axes.plot(x, y, "o", color=ORANGE, ms=9, mec="white", label=text, clip_on=False, zorder=6)
    unit_square(axes, "recall (sensitivity)", "precision")
    axes.legend(loc="best", fontsize=8)
    axes.set_title("Precision and recall")
    return plot


def confusion(matrix: list[list[int]], names: Sequence[str]) -> Figure:
    """Draw a confusion matrix: counts, and shares of each actual class."""
    binary = len(names) == 2
    side = max(5, 0.55 * len(names))
    plot, (axes,) = blank(side, side)
    counts = np.array(matrix)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.25)
    for (row, column), share in np.ndenumerate(shares):
        ink, size = "white" if share > 0.6 else "black", 14 if binary else 8
        text = f"{counts[row, column]:,}\n{share:.0%}"
        axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=size)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names, rotation=90 if binary else 0, va="center")
    axes.set(xlabel="predicted", ylabel="actual", title="Images, and share of the actual class")
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    return plot


def decision_curve(metrics: dict) -> Figure:
    """Draw the net benefit against the threshold probability (Vickers and Elkin, 2006)."""
    plot, (axes,) = blank(5, 5.4)
    curve, point = metrics["decision_curve"], metrics["operating_point"]
    x = curve["threshold"]
    axes.plot(x, curve["net_benefit"], color=BLUE, lw=2, label="biopsy where the model says so")
    axes.plot(x, curve["all"], color=GREY, ls="--", lw=1.2, label="biopsy every lesion")
    axes.axhline(0, color="black", lw=1, label="biopsy none")
    text = f"threshold {metrics['threshold']:.3f}: net benefit {point['net_benefit']:.3f}"
    if metrics["threshold"] <= x[-1]:
        place = (metrics["threshold"], point["net_benefit"])
        axes.plot(*place, "o", color=ORANGE, ms=9, mec="white", label=text, zorder=6)
    share = metrics["malignant"] / metrics["n"]
    axes.set(xlim=(0, x[-1]), ylim=(-0.25 * share, 1.05 * share), ylabel="net benefit")
    axes.set(xlabel="probability at which a biopsy is worth it")
    axes.grid(alpha=0.25)
    legend_above(plot, axes, "Decision curve")
    return plot


def _reliability_line(axes: Axes, bins: list[dict], **style) -> None:
    """Draw the malignant share of each bin with its 95 % Wilson interval."""
    filled = [b for b in bins if b["n"]]
    x, y = (np.array([b[k] for b in filled]) for k in ("mean_probability", "malignant_fraction"))
    counts = [(round(b["malignant_fraction"] * b["n"]), b["n"]) for b in filled]
    ends = np.array([binomtest(*count).proportion_ci(method="wilson") for count in counts])
    bars = np.maximum([y - ends[:, 0], ends[:, 1] - y], 0)  # rounding, at shares of 0 and 1
    axes.errorbar(x, y, yerr=bars, ms=5, lw=1.4, elinewidth=0.8, capsize=2, **style)


def calibration(frame: pd.DataFrame, metrics: dict) -> Figure:
    """Draw reliability before and after calibration, above the number of images in each bin."""
    plot, (axes, below) = blank(5, 6.2, rows=2, sharex=True, height_ratios=(4, 1))
    label, change = frame["label"].to_numpy(), metrics["calibration"]
    axes.plot([0, 1], [0, 1], color=GREY, ls="--", lw=1, label="perfectly calibrated")
    if "before" in change:
        before = reliability(label, frame["prob_uncalibrated"].to_numpy())
        text = f"before, ECE {change['before']['ece']:.3f}"
        _reliability_line(axes, before, label=text, color=ORANGE, marker="s")
    bins = metrics["ece_bins"]
    how = f"temperature {change['temperature']:.2f}, bias {change['bias']:.2f}"
    text = f"after {how}, ECE {change['after']['ece']:.3f}"
    _reliability_line(axes, bins, label=text, color=BLUE, marker="o")
    axes.set(ylim=(-0.02, 1.02), ylabel="share that is malignant")
    legend_above(plot, axes, "Calibration")
    axes.grid(alpha=0.25)
    middles = [(b["low"] + b["high"]) / 2 for b in bins]
    below.bar(middles, [b["n"] for b in bins], width=0.055, color=BLUE)
    below.set(yscale="log", ylim=(0.7, None), ylabel="images")
    below.set_xlabel("predicted probability of malignant")
    below.minorticks_off()
    return plot


def scores_by_dx(frame: pd.DataFrame, metrics: dict, taxonomy: Taxonomy) -> Figure:
    """Draw a histogram of the probability for each diagnosis, malignant ones hatched."""
    malignant, present = taxonomy.malignant, set(frame["dx"])
    order = [*malignant, *(dx for dx in taxonomy.classes if dx not in malignant)]
    order = [dx for dx in order if dx in present]
    styles = {True: ("malignant", ORANGE, "///"), False: ("benign", BLUE, None)}
    plot, axes = blank(5.4, 0.6 + 0.95 * len(order), rows=len(order), sharex=True)
    for ax, dx in zip(axes, order, strict=True):
        scores = frame.loc[frame["dx"] == dx, "prob_malignant"].to_numpy()
        kind, colour, hatch = styles[dx in malignant]
        ax.hist(scores, bins=40, range=(0, 1), color=colour, hatch=hatch, edgecolor="white", lw=0.3)
        ax.axvline(metrics["threshold"], color="black", ls=":", lw=1.2)
        ax.set_title(
            f"{dx}: {taxonomy.names[dx]}, {kind}, n = {len(scores):,}", fontsize=9, loc="left"
        )
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
    axes[-1].set_xlabel(f"probability of malignant (dotted: threshold {metrics['threshold']:.3f})")
    return plot
