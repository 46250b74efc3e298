"""Plots that compare groups: the forest plot of subgroups, and error rates.

save(forest(metrics), Path("subgroups.png"))
"""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import BLUE, GREY, ORANGE, blank

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
"""Headings of the factors."""

Row = tuple[str, dict | None]
"""A label, and a level's entry; None for a heading."""


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
