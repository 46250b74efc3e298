"""What a search's trials look like: values over time, curves, parallel coordinates, importance.

Each function takes trials and returns a matplotlib figure. What a colour says is said by a shape
or a label too.

    history(trials).savefig("history.png")
"""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#595959"

ENOUGH = 4
"""Trials that must be done before an importance means anything."""

SHADES = matplotlib.colormaps["viridis"]


def roc_auc(trial: FrozenTrial) -> float:
    """Return the best epoch's ROC-AUC so far; nan before the first epoch."""
    return max(trial.intermediate_values.values(), default=math.nan)


def best_of(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """Return the trial with the highest value among those that were done, the first in a tie."""
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return max(done, key=lambda t: (roc_auc(t), -t.number), default=None)


def blank(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    """Return a figure of ``width`` x ``height`` inches with axes under a title."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title)
    return figure, axes


def history(trials: Sequence[FrozenTrial]) -> Figure:
    """Draw each trial's ROC-AUC by number, and the best of those done so far."""
    figure, axes = blank(8, 4.5, "Trials in the order of their making")
    kinds = {
        TrialState.COMPLETE: ("done", "o", BLUE),
        TrialState.PRUNED: ("pruned", "x", GREY),
        TrialState.RUNNING: ("running", "^", ORANGE),
        TrialState.FAIL: ("failed, up to there", "v", ORANGE),
    }
    for state, (name, marker, colour) in kinds.items():
        of_kind = [t for t in trials if t.state == state and t.intermediate_values]
        if of_kind:
            numbers = [trial.number for trial in of_kind]
            values = [roc_auc(trial) for trial in of_kind]
            axes.scatter(numbers, values, marker=marker, color=colour, s=45, label=name, zorder=3)
    done = sorted((t for t in trials if t.state == TrialState.COMPLETE), key=lambda t: t.number)
    if done:
        so_far = np.maximum.accumulate([roc_auc(trial) for trial in done])
        numbers = [trial.number for trial in done]
        axes.step(numbers, so_far, where="post", color=BLUE, alpha=0.5, label="best so far")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="trial", ylabel="best validation ROC-AUC")
    axes.grid(alpha=0.25)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=9)
    return figure


def curves(trials: Sequence[FrozenTrial]) -> Figure:
    """Draw validation ROC-AUC over the epochs, one line a trial; where a line ends, so did it."""
    figure, axes = blank(8, 4.5, "Epoch by epoch")
    best = best_of(trials)
    shown: set[str] = set()
    for trial in trials:
        epochs = sorted(trial.intermediate_values)
        if not epochs:
            continue
        pruned = trial.state == TrialState.PRUNED
        label, style = ("pruned", {"color": GREY, "ls": "--"}) if pruned else ("others", {})
        style = style or {"color": BLUE, "alpha": 0.5}
        if best is not None and trial.number == best.number:
            label, style = f"best: trial {trial.number}", {"color": ORANGE, "lw": 2.5, "zorder": 4}
        values = [trial.intermediate_values[epoch] for epoch in epochs]
        name = None if label in shown else label
        axes.plot(epochs, values, marker=".", label=name, **style)  # type: ignore[arg-type]
        shown.add(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch", ylabel="validation ROC-AUC")
    axes.grid(alpha=0.25)
    if shown:
        axes.legend(fontsize=9)
    return figure


def importance(study: optuna.Study, trials: Sequence[FrozenTrial]) -> Figure:
    """Draw how much of the spread among done trials each parameter explains (PED-ANOVA)."""
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    figure, axes = blank(8, 3.8, f"Importance, from {len(done)} trials that were done")
    try:
        if len(done) < ENOUGH:
            raise ValueError(f"needs {ENOUGH} trials that were done")
        shares = optuna.importance.get_param_importances(study)
    except (ValueError, RuntimeError) as error:
        axes.text(0.5, 0.5, f"no importance yet: {error}", ha="center", transform=axes.transAxes)
        axes.set_axis_off()
        return figure
    names = list(shares)[::-1]
    bars = axes.barh(names, [shares[name] for name in names], color=BLUE)
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set(xlabel="share of the explained spread", xlim=(0, 1.08 * max(shares.values())))
    return figure


def position(values: BaseDistribution, value: Any) -> float:
    """Return where ``value`` stands on its axis, from 0 (lowest or first) to 1."""
    if isinstance(values, CategoricalDistribution):
        return values.choices.index(value) / max(1, len(values.choices) - 1)
    low, high = values.low, values.high  # type: ignore[attr-defined]
    if values.log:  # type: ignore[attr-defined]
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low) if high > low else 0.5


def ticks(values: BaseDistribution) -> list[Any]:
    """Return the values that an axis is labelled with."""
    if isinstance(values, CategoricalDistribution):
        return list(values.choices)
    low, high = values.low, values.high  # type: ignore[attr-defined]
    if values.log:  # type: ignore[attr-defined]
        first, last = math.ceil(math.log10(low) - 0.2), math.floor(math.log10(high) + 0.2)
        between = [10.0**power for power in range(first, last + 1)]
        apart = [v for v in between if min(v / low, high / v) > 2]
        return [low, *apart, high]
    return sorted({low, (low + high) // 2 if isinstance(low, int) else (low + high) / 2, high})


def short(value: Any) -> str:
    """Return a value as a person writes it: three digits, no trailing zeros."""
    if not isinstance(value, float):
        return str(value)
    if value and (abs(value) < 1e-3 or abs(value) >= 1e5):
        digits, power = f"{value:.1e}".split("e")
        return f"{digits.removesuffix('.0')}e{int(power)}"
    return f"{value:.3g}"


def parallel(trials: Sequence[FrozenTrial], space: dict[str, BaseDistribution]) -> Figure:
    """Draw each finished trial as a line through its parameters to its ROC-AUC."""
    shown = [
        t
        for t in trials
        if t.intermediate_values and t.state in (TrialState.COMPLETE, TrialState.PRUNED)
    ]
    width = max(6.0, 1.75 * (len(space) + 1))
    figure, axes = blank(width, 5.2, "Parameters and what came of them")
    axes.set_axis_off()
    scores = [roc_auc(trial) for trial in shown]
    low, high = (min(scores), max(scores)) if shown else (0.5, 1.0)
    low, high = (low, high) if high > low else (low - 0.01, high + 0.01)
    best = best_of(trials)
    for trial, score in zip(shown, scores, strict=True):
        share = (score - low) / (high - low)
        aside = 0.012 * (trial.number % 5 - 2)  # so that trials with the same choice lie apart
        heights = [
            position(values, trial.params[name])
            + aside * isinstance(values, CategoricalDistribution)
            for name, values in space.items()
        ]
        is_best = best is not None and trial.number == best.number
        axes.plot(
            [*heights, share],
            color=ORANGE if is_best else SHADES(0.9 * share),
            ls="--" if trial.state == TrialState.PRUNED else "-",
            lw=3 if is_best else 1.4,
            alpha=1 if is_best else 0.75,
            zorder=3 if is_best else 2,
        )
    marks = {name: [(position(v, t), short(t)) for t in ticks(v)] for name, v in space.items()}
    marks["ROC-AUC"] = [(k / 4, f"{low + k / 4 * (high - low):.3f}") for k in range(5)]
    for x, (name, labels) in enumerate(marks.items()):
        axes.axvline(x, 0.03, 0.92, color=GREY, lw=1, zorder=1)
        axes.text(x, 1.1, name, ha="center", va="bottom", weight="bold", fontsize=10)
        for height, text in labels:
            box = {"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 1}
            axes.text(x + 0.03, height, text, fontsize=8.5, va="center", zorder=5, bbox=box)
    axes.set(xlim=(-0.15, len(space) + 0.45), ylim=(-0.06, 1.18))
    return figure
