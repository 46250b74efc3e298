"""Figures that compare groups: the subgroup forest, and error rates by what an image is like.

save(forest(metrics), Path("subgroups.png"))
"""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.evaluation.report.plots import BLUE, GREY, ORANGE, blank

FACTOR_NAMES = {
    "sex": "Sex",
    "age_band": "Age, years",
    "localization": "Site",
    "dx_type": "Diagnosed by",
    "dx": "Diagnosis",
    "sharpness_band": "Sharpness, quarter",
    "brightness_band": "Brightness, quarter",
}
"""How each factor is called where a person reads it."""

Row = tuple[str, dict | None]


def rows_of(tables: dict[str, dict[str, dict]]) -> list[Row]:
    """A heading row (no entry) for each factor, then its levels."""
    rows: list[Row] = []
    for factor, levels in tables.items():
        rows.append((FACTOR_NAMES.get(factor, factor), None))
        rows += [(f"{level}  (n = {entry['n']:,})", entry) for level, entry in levels.items()]
    return rows


def _column(ax: Axes, rows: list[Row], figure_name: str, overall: float | None) -> None:
    for y, (_, entry) in enumerate(rows):
        if entry is None:
            continue
        value = entry.get(figure_name)
        bounds = entry.get("ci95", {}).get(figure_name)
        if value is None:
            text = "n < 20" if "note" in entry else "one class only"
            ax.text(0.02, y, text, va="center", fontsize=7, color=GREY, transform=_rowwise(ax))
            continue
        if bounds:
            ax.plot(bounds, [y, y], color=BLUE, lw=1.6)
        ax.plot(value, y, "s", color=BLUE, ms=5)
    if overall is not None:
        ax.axvline(overall, color=ORANGE, ls="--", lw=1.2)
    ax.grid(axis="x", alpha=0.25)


def _rowwise(ax: Axes):
    return ax.get_yaxis_transform()  # x in shares of the axis, y in data


def _label(ax: Axes, rows: list[Row]) -> None:
    ax.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=8)
    for tick, (_, entry) in zip(ax.get_yticklabels(), rows, strict=True):
        tick.set_fontweight("bold" if entry is None else "normal")
    ax.set_ylim(len(rows) - 0.3, -0.7)
    ax.tick_params(axis="y", length=0)


def forest(metrics: dict) -> Figure:
    """ROC-AUC, sensitivity and specificity of each subgroup with intervals; dashed: all images."""
    rows = rows_of(metrics["subgroups"])
    figure, axes = blank(9, 1.1 + 0.21 * len(rows), 3, sharey=True)
    names = {"roc_auc": "ROC-AUC", "sensitivity": "Sensitivity", "specificity": "Specificity"}
    for ax, (key, title) in zip(axes, names.items(), strict=True):
        _column(ax, rows, key, metrics[key])
        ax.set_title(title, fontsize=10)
        ax.set_xlim(right=1.01)
    _label(axes[0], rows)
    return figure


def error_rates(metrics: dict) -> Figure:
    """Share of wrong decisions by diagnosis, site, age, way of diagnosis and image quality."""
    tables = metrics["errors"]
    names = list(tables)
    halves = [{k: tables[k] for k in names[0::2]}, {k: tables[k] for k in names[1::2]}]
    height = 1.0 + 0.21 * max(len(rows_of(half)) for half in halves)
    figure, axes = blank(9.5, height, 2)
    for ax, half in zip(axes, halves, strict=True):
        rows = rows_of(half)
        _column(ax, rows, "error_rate", metrics["error_rate"])
        _label(ax, rows)
        ax.set_xlabel("share of wrong decisions", fontsize=8)
        ax.set_xlim(left=0)
    return figure
