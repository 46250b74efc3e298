"""What is in a set of shards: classes, sex, age and site by split, printed and drawn.

python -m pipeline.shards stats shards/ham10000 [--out stats.png]
"""

import itertools
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import matplotlib as mpl
import pandas as pd
import tyro
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.cli import parse
from pipeline.errors import DataError
from pipeline.ham10000.taxonomy import DX, DX_NAMES, SEXES
from pipeline.shards.dataset import open_shards
from pipeline.shards.manifest import SPLITS
from pipeline.shards.plan import part_of

AGE_BANDS = (0, 20, 30, 40, 50, 60, 70, 80, 121)
"""Borders of the age bands, years."""


@dataclass(frozen=True)
class StatsOptions:
    """Flags of ``stats``."""

    root: Annotated[Path, tyro.conf.Positional] = Path("shards/ham10000")
    """Folder that holds manifest.json."""
    out: Path | None = None
    """Picture to write; by default ROOT/stats.png."""


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    options = parse(StatsOptions, about="Describe shards, split by split.", argv=argv)
    shards = open_shards(options.root)
    tables = tabulate(shards.samples)
    for title, table in tables.items():
        print(f"\n{title}\n{table.to_string()}")
    out = options.out or options.root / "stats.png"
    draw(tables, out)
    print(f"\nmanifest sha256 {shards.manifest_sha256}\ndrawn in {out}")


def tabulate(samples: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return counts by title: one row a value, one column a split (with folds, a fold)."""
    part = pd.Series(part_of(samples), index=samples.index)
    order = list(dict.fromkeys(sorted(part, key=_part_rank)))
    ages = pd.Series([_age_band(age) for age in samples["age"]], index=samples.index)
    sites = sorted(set(samples["localization"]))
    columns = {
        "diagnosis": (samples["dx"], list(DX)),
        "sex": (samples["sex"], list(SEXES)),
        "age": (ages, [*_band_names(), "unknown"]),
        "site": (samples["localization"], sites),
    }
    tables = {"images and lesions": _totals(samples, part, order)}
    for title, (values, rows) in columns.items():
        table = pd.crosstab(values, part)
        tables[title] = table.reindex(index=rows, columns=order, fill_value=0)
        tables[title].index.name = tables[title].columns.name = None
    return tables


def _part_rank(name: str) -> tuple[int, int]:
    if name in SPLITS:
        return SPLITS.index(name), 0
    return 0, int(name.removeprefix("fold "))


def _totals(samples: pd.DataFrame, part: pd.Series, order: Sequence[str]) -> pd.DataFrame:
    groups = samples.groupby(part)
    rows = {
        "images": groups.size(),
        "groups (lesions)": groups["group"].nunique(),
        "malignant images": groups["label"].sum(),
    }
    return pd.DataFrame(rows).T.reindex(columns=list(order))


def _band_names() -> list[str]:
    pairs = itertools.pairwise(AGE_BANDS)
    return [f"{low}-{high - 1}" if high < AGE_BANDS[-1] else f"{low}+" for low, high in pairs]


def _age_band(age: float) -> str:
    return "unknown" if math.isnan(age) else _band_names()[bisect_right(AGE_BANDS, age) - 1]


def draw(tables: dict[str, pd.DataFrame], out: Path) -> None:
    """Draw each table as shares within its split, one picture.

    Raises:
        DataError: the picture cannot be written.
    """
    figure = Figure(figsize=(13, 12), layout="constrained")
    FigureCanvasAgg(figure)
    shown = {title: table for title, table in tables.items() if title != "images and lesions"}
    heights = [len(shown["diagnosis"]), max(len(shown["age"]), len(shown["site"]))]
    grid = figure.subplots(2, 2, height_ratios=heights)
    for axes, (title, table) in zip(grid.flat, shown.items(), strict=True):
        _bars(axes, title, table)
    grid[0, 0].legend(loc="lower right")
    figure.suptitle("Share of each split's images; the numbers are images")
    partial = out.with_name(f".partial-{out.name}")
    try:
        with mpl.rc_context({"svg.hashsalt": "shards"}):
            figure.savefig(partial, dpi=110, format="png", metadata={"Software": None})
        partial.replace(out)
    except OSError as error:
        raise DataError(f"cannot write {out}: {error.strerror or error}") from error


def _bars(axes: Axes, title: str, table: pd.DataFrame) -> None:
    shares = table / table.sum()
    width = 0.8 / len(table.columns)
    for number, split in enumerate(table.columns):
        places = [
            place + (number - (len(table.columns) - 1) / 2) * width for place in range(len(table))
        ]
        bars = axes.barh(places, shares[split], height=width, label=str(split))
        axes.bar_label(bars, [f" {count:,}" for count in table[split]], fontsize=7)
    names = [DX_NAMES[name] if title == "diagnosis" else name for name in map(str, table.index)]
    axes.set_yticks(range(len(table)), names, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.set_title(title)
