"""The plots of a report: curves, confusion, scores by diagnosis, subgroups and error rates.

Each function takes the metrics, and the checked predictions table where it draws single images, and
returns a matplotlib figure.

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

FACTOR_NAMES = {
    "sex": "Sex",
    "age_band": "Age, years",
    "localization": "Site",
    "skin_tone": "Skin tone, as the source has it",
    "dx_type": "Diagnosed by",
    "source": "Source",
    "dx": "Diagnosis",
    "sharpness_band": "Sharpness, quarter",
    "brightness_band": "Brightness, quarter",
}

Row = tuple[str, dict | None]
"""A label, and a level's entry; None for a heading."""


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


def rows_of(tables: dict[str, dict[str, dict]]) -> list[Row]:
    """Return a heading for each factor, followed by its levels."""
    rows: list[Row] = []
    for factor, levels in tables.items():
        rows.append((FACTOR_NAMES.get(factor, factor), None))
        rows += [
            (f"{level}  ({entry['n']:,}; {entry['malignant']:,})", entry)
            for level, entry in levels.items()
        ]
    return rows


def forest(metrics: dict) -> Figure:
    """Draw three metrics of each subgroup with intervals; dashed: all images."""
    rows = rows_of(metrics["subgroups"])
    plot, axes = blank(5.6, 0.9 + 0.19 * len(rows), 3, sharey=True)
    names = {"roc_auc": "ROC-AUC", "sensitivity": "Sensitivity", "specificity": "Specificity"}
    for ax, (key, title) in zip(axes, names.items(), strict=True):
        _draw_levels(ax, rows, key, metrics[key])
        ax.set_title(title, fontsize=9)
        ax.set_xlim(right=1.02)
        ax.locator_params(axis="x", nbins=3)
    _name_rows(axes[0], rows)
    return plot


def error_rates(metrics: dict) -> Figure:
    """Draw the share of wrong decisions by diagnosis, site, age, way of diagnosis and quality."""
    rows = rows_of(metrics["errors"])
    plot, (axes,) = blank(5.6, 0.9 + 0.19 * len(rows))
    _draw_levels(axes, rows, "error_rate", metrics["error_rate"])
    _name_rows(axes, rows)
    axes.set_xlabel("share of wrong decisions", fontsize=9)
    axes.set_xlim(left=0)
    return plot


def _draw_levels(axes: Axes, rows: list[Row], key: str, overall: float | None) -> None:
    """Draw one metric: a square and its interval per level, or why there is none."""
    if overall is not None:
        axes.axvline(overall, color=ORANGE, ls="--", lw=1.2, zorder=1)
    for y, (_, entry) in enumerate(rows):
        if entry is None:
            continue
        value, bounds = entry.get(key), entry.get("ci95", {}).get(key)
        if value is None:
            text = "n < 20" if "note" in entry else "one class only"
            place = axes.get_yaxis_transform()  # x in shares of the axis, y in data
            note = axes.text(0.02, y, text, va="center", fontsize=7, color=GREY, transform=place)
            note.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})
            continue
        if bounds:
            axes.plot(bounds, [y, y], color=BLUE, lw=1.6)
        axes.plot(value, y, "s", color=BLUE, ms=5)
    axes.grid(axis="x", alpha=0.25)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)


def _name_rows(axes: Axes, rows: list[Row]) -> None:
    axes.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=8)
    for tick, (_, entry) in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_fontweight("bold" if entry is None else "normal")
    axes.set_ylim(len(rows) - 0.3, -0.7)


def recalibration(curve: list[dict]) -> Figure:
    """Draw calibration error and Brier score of each entry, with the bounds of its draws."""
    plot, (axes,) = blank(6, 4)
    cases = [entry["cases"] for entry in curve]
    lines = (("ece", "calibration error", BLUE), ("brier", "Brier score", ORANGE))
    for name, text, colour in lines:
        values = [entry[name] for entry in curve]
        low, high = np.transpose([entry[f"{name}_bounds"] or [entry[name]] * 2 for entry in curve])
        axes.plot(cases, values, color=colour, marker="o", label=text)
        axes.fill_between(cases, low, high, color=colour, alpha=0.2)
    axes.set(xlabel="images that the calibration was fitted on again; 0: as it is", ylim=(0, None))
    axes.set_xscale("symlog", linthresh=25)
    axes.set_xticks(cases, [f"{each:,}" for each in cases])
    axes.grid(alpha=0.25)
    axes.legend()
    return plot
