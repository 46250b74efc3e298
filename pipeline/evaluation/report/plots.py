"""The curves of a report as figures: ROC, precision-recall, reliability, confusion, scores by dx.

Each function takes a checked predictions table and the metrics computed from it and returns a
matplotlib figure; ``save`` writes it. Colours are told apart by colour-blind eyes, and what a
colour says is said by text or shape too.

    save(roc(frame, metrics), Path("roc.png"))
"""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from pipeline.evaluation.metrics.calibration import Bin, reliability
from pipeline.ham10000.taxonomy import DX, DX_NAMES, MALIGNANT

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#595959"
DPI = 110

COUNT_TINT, RATE_TINT = "Greys", "Blues"


def save(figure: Figure, path: Path) -> None:
    """Write the figure as PNG; the same figure gives the same bytes."""
    figure.savefig(path, dpi=DPI, metadata={"Software": None})


def blank(width: float, height: float, columns: int = 1, **kwargs) -> tuple[Figure, list[Axes]]:
    """A figure of ``width`` x ``height`` inches with a row of axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False, **kwargs)[0]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


def with_interval(metrics: dict, name: str) -> str:
    """A figure and its interval as text, for example "0.905 (0.88 to 0.93)"."""
    value, bounds = metrics[name], metrics["ci95"].get(name)
    text = "not defined" if value is None else f"{value:.3f}"
    return text if not bounds else f"{text} ({bounds[0]:.3f} to {bounds[1]:.3f})"


def square(ax: Axes, x: str, y: str) -> None:
    """Name the axes and give both the scale from 0 to 1."""
    ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel=x, ylabel=y, aspect="equal")
    ax.grid(alpha=0.25)


def roc(frame: pd.DataFrame, metrics: dict) -> Figure:
    """Sensitivity against 1 - specificity, with the operating point and the diagonal of chance."""
    figure, (ax,) = blank(5, 5)
    fpr, tpr, _ = roc_curve(frame["label"], frame["prob_malignant"])
    ax.plot(fpr, tpr, color=BLUE, lw=2, label=f"AUC {with_interval(metrics, 'roc_auc')}")
    ax.plot([0, 1], [0, 1], color=GREY, ls="--", lw=1, label="chance, AUC 0.500")
    x, y = 1 - metrics["specificity"], metrics["sensitivity"]
    text = f"threshold {metrics['threshold']:.3f}: sens. {y:.3f}, spec. {1 - x:.3f}"
    ax.plot(x, y, "o", color=ORANGE, ms=9, mec="white", label=text)
    square(ax, "1 - specificity (benign called malignant)", "sensitivity (malignant found)")
    ax.legend(loc="lower right", fontsize=8)
    ax.set_title(f"ROC, {metrics['n']:,} images")
    return figure


def precision_recall(frame: pd.DataFrame, metrics: dict) -> Figure:
    """Precision against recall of the malignant class, with the share that is malignant."""
    figure, (ax,) = blank(5, 5)
    precision, recall, _ = precision_recall_curve(frame["label"], frame["prob_malignant"])
    text = f"average precision {with_interval(metrics, 'pr_auc')}"
    ax.step(recall, precision, where="post", color=BLUE, lw=2, label=text)
    share = metrics["malignant"] / metrics["n"]
    ax.axhline(share, color=GREY, ls="--", lw=1, label=f"share malignant {share:.3f}")
    x, y = metrics["sensitivity"], metrics["precision"]
    text = f"threshold {metrics['threshold']:.3f}: precision {y:.3f}, recall {x:.3f}"
    ax.plot(x, y, "o", color=ORANGE, ms=9, mec="white", label=text)
    square(ax, "recall (malignant found)", "precision (called malignant, and is)")
    ax.legend(loc="lower left", fontsize=8)
    ax.set_title("Precision and recall")
    return figure


def _matrix(ax: Axes, values: np.ndarray, names: list[str], rates: bool) -> None:
    shares = values / np.maximum(values.sum(axis=1, keepdims=True), 1)
    ax.imshow(shares, cmap=RATE_TINT if rates else COUNT_TINT, vmin=0, vmax=1.25)
    for (i, j), share in np.ndenumerate(shares):
        text = f"{share:.0%}" if rates else f"{values[i, j]:,}"
        ax.text(j, i, text, ha="center", va="center", color="white" if share > 0.6 else "black",
                fontsize=13 if len(names) == 2 else 8)  # fmt: skip
    ax.set_xticks(range(len(names)), names)
    ax.set_yticks(range(len(names)), names, rotation=90 if len(names) == 2 else 0, va="center")
    ax.set(xlabel="predicted", ylabel="actual")
    ax.set_title("share of the actual class" if rates else "images")
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.tick_params(length=0)


def confusion(matrix: list[list[int]], names: list[str]) -> Figure:
    """A confusion matrix in counts and in shares of each actual class, side by side."""
    figure, axes = blank(8.4 if len(names) == 2 else 10, 4.1 if len(names) == 2 else 4.9, 2)
    for ax, rates in zip(axes, (False, True), strict=True):
        _matrix(ax, np.array(matrix), names, rates)
    return figure


def _reliability_line(ax: Axes, bins: list[Bin], text: str, color: str, marker: str) -> None:
    filled = [b for b in bins if b.n]
    x = np.array([b.mean_probability for b in filled], dtype=float)
    y = np.array([b.malignant_fraction for b in filled], dtype=float)
    n = np.array([b.n for b in filled])
    spread = 1.96 * np.sqrt(y * (1 - y) / n)
    bars = [np.minimum(spread, y), np.minimum(spread, 1 - y)]
    ax.errorbar(x, y, yerr=bars, color=color, marker=marker, ms=5, lw=1.4, elinewidth=0.8,
                capsize=2, label=text)  # fmt: skip


def calibration(frame: pd.DataFrame, metrics: dict) -> Figure:
    """Reliability diagram before and after calibration, over how many images each bin has."""
    figure = Figure(figsize=(5, 5.8), layout="constrained")
    ax, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    label, change = frame["label"].to_numpy(), metrics["calibration"]
    ax.plot([0, 1], [0, 1], color=GREY, ls="--", lw=1, label="perfectly calibrated")
    if "before" in change:
        before = reliability(label, frame["prob_uncalibrated"].to_numpy())
        text = f"before, ECE {change['before']['ece']:.3f}"
        _reliability_line(ax, before, text, ORANGE, "s")
    after = reliability(label, frame["prob_malignant"].to_numpy())
    how = f"temperature {change['temperature']:.2f}, bias {change['bias']:.2f}"
    text = f"after {how}, ECE {change['after']['ece']:.3f}"
    _reliability_line(ax, after, text, BLUE, "o")
    ax.set(ylim=(-0.02, 1.02), ylabel="share that is malignant", title="Calibration")
    ax.legend(loc="upper left", fontsize=8)
    ax.grid(alpha=0.25)
    below.bar([(b.low + b.high) / 2 for b in after], [b.n for b in after], width=0.055, color=BLUE)
    below.set(
        yscale="log", ylim=(0.7, None), ylabel="images", xlabel="predicted probability of malignant"
    )
    below.minorticks_off()
    for each in (ax, below):
        each.spines[["top", "right"]].set_visible(False)
    return figure


def scores_by_dx(frame: pd.DataFrame, metrics: dict) -> Figure:
    """Histogram of the probability of malignant, one row per diagnosis, malignant ones hatched."""
    order = [*MALIGNANT, *(dx for dx in DX if dx not in MALIGNANT)]
    figure = Figure(figsize=(7.5, 7), layout="constrained")
    axes = figure.subplots(len(order), 1, sharex=True)
    for ax, dx in zip(axes, order, strict=True):
        scores = frame.loc[frame["dx"] == dx, "prob_malignant"].to_numpy()
        malignant = dx in MALIGNANT
        shares = np.full(len(scores), 1 / max(len(scores), 1))
        ax.hist(scores, bins=40, range=(0, 1), weights=shares,
                color=ORANGE if malignant else BLUE, hatch="///" if malignant else None,
                edgecolor="white", lw=0.3)  # fmt: skip
        ax.axvline(metrics["threshold"], color="black", ls=":", lw=1.2)
        kind = "malignant" if malignant else "benign"
        ax.set_title(f"{dx}: {DX_NAMES[dx]}, {kind}, n = {len(scores):,}", fontsize=9, loc="left")
        ax.set_yticks([])
        ax.spines[["top", "right", "left"]].set_visible(False)
    axes[-1].set_xlabel(f"probability of malignant (dotted: threshold {metrics['threshold']:.3f})")
    return figure
