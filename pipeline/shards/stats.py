"""What is in a set of shards: classes, sex, age and site by split, printed and drawn.

python -m pipeline.shards stats shards/ham10000 [--out stats.png]
"""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes

from pipeline.figures import blank, save
from pipeline.files import require_writable
from pipeline.ham10000.metadata import AGE_BANDS, age_band
from pipeline.ham10000.taxonomy import SEXES, Taxonomy
from pipeline.shards.dataset import open_shards
from pipeline.shards.flags import StatsFlags
from pipeline.shards.manifest import SPLITS
from pipeline.shards.origin.licences import NOT_STATED
from pipeline.shards.plan import WHERE_FROM, part_of

TOTALS = "images and lesions"
"""Title of the one table that is printed but not drawn."""


def run(flags: StatsFlags) -> None:
    """Print the tables and draw them."""
    shards = open_shards(flags.root)
    out = flags.out or flags.root / "stats.png"
    require_writable(out, "--out", file=True)
    tables = tabulate(shards.samples, shards.taxonomy)
    for title, table in tables.items():
        print(f"\n{title}\n{table.to_string()}")
    draw(tables, out, shards.taxonomy)
    print(f"\nmanifest sha256 {shards.manifest_sha256}\ndrawn in {out}")


def tabulate(samples: pd.DataFrame, taxonomy: Taxonomy) -> dict[str, pd.DataFrame]:
    """Return counts by title: one row a value, one column a split (with folds, a fold)."""
    part = pd.Series(part_of(samples), index=samples.index)
    ages = pd.Series(age_band(samples["age"].to_numpy()), index=samples.index)
    columns = {
        "diagnosis": (samples["dx"], taxonomy.classes),
        "sex": (samples["sex"], SEXES),
        "age": (ages, AGE_BANDS),
        "site": (samples["localization"], sorted(set(samples["localization"]))),
    }
    for name in samples.columns.intersection(WHERE_FROM):
        values = samples[name].replace("", NOT_STATED)
        columns[name.replace("_", " ")] = (values, sorted(set(values)))
    folds = sorted(set(part) - set(SPLITS), key=lambda name: int(name.removeprefix("fold ")))
    order = [name for name in ("train", *folds, "val", "test") if name in set(part)]
    groups = samples.groupby(part)
    totals = {
        "images": groups.size(),
        "groups (lesions)": groups["group"].nunique(),
        "malignant images": groups["label"].sum(),
    }
    tables = {TOTALS: pd.DataFrame(totals).T.reindex(columns=order)}
    for title, (values, rows) in columns.items():
        table = pd.crosstab(values, part)
        tables[title] = table.reindex(index=rows, columns=order, fill_value=0)
        tables[title].index.name = tables[title].columns.name = None
    return tables


def draw(tables: dict[str, pd.DataFrame], out: Path, taxonomy: Taxonomy) -> None:
    """Draw each table as shares within its split, one picture."""
    shown = {title: table for title, table in tables.items() if title != TOTALS}
    figure, row = blank(24, 8, len(shown))
    for axes, (title, table) in zip(row, shown.items(), strict=True):
        names = taxonomy.names if title == "diagnosis" else {}
        _bars(axes, title, table, [names.get(row, row) for row in map(str, table.index)])
    row[0].legend(loc="lower right")
    figure.suptitle("Share of each split's images; the numbers are images")
    save(figure, out)


def _bars(axes: Axes, title: str, table: pd.DataFrame, names: list[str]) -> None:
    (table / table.sum()).plot.barh(ax=axes, width=0.8, legend=False)
    for bars, split in zip(axes.containers, table.columns, strict=True):
        axes.bar_label(bars, [f" {count:,}" for count in table[split]], fontsize=7)  # type: ignore[arg-type]
    axes.set_yticks(range(len(table)), names, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.set_title(title)
