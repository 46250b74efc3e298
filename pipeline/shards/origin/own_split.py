"""A split of one's own: a column ``split`` of the table, or ``--splits FILE``; and what crosses it.

    source = with_splits(source, Path("published_splits.csv"))      # image_id,split
    crossings(placed, source.together, pairs)["lesions"]            # ["HAM_0000118", ...]

Images without a split are not packed. Without a val, ``plan.place`` takes it from train.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.errors import DataError
from pipeline.ham10000.layouts.image_table import counts_of, our_columns
from pipeline.ham10000.names import key
from pipeline.ham10000.source import Source
from pipeline.ham10000.tables import read_table, refuse_rows, require_columns
from pipeline.shards.splits import crossing, crossing_pairs

WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "holdout"), "test"),
    "": "",
}
"""Our split by the word for it, in lower case."""

SHOWN = 12
"""Names in a message; the manifest has all of them."""


def with_splits(source: Source, path: Path | None) -> Source:
    """Return ``source`` with the column split (train, val or test) where there is a split to read.

    ``path`` is a table of image_id and split; without it the column ``split`` of the source counts.
    Rows of the official test set stay in it, whatever the file says. A word that is none of
    ``WORDS``, and that no image has a split, are a DataError.
    """
    table, notes = source.table, [*source.notes]
    if path is not None:
        words = _read(path)
        known = pd.Series(words.index.isin(list(table["image_id"])), index=words.index)
        if not known.all():
            notes.append(f"{(~known).sum():,} images of {path} are not in the source")
        table = table.assign(split=[words.get(name, "") for name in table["image_id"]])
    elif "split" in table:
        words = pd.Series(table["split"]).str.lower()
        where = Path("the table's column split")
        refuse_rows(~words.isin(WORDS), words, "split", f"one of {_EXPECTED}", where)
        table = table.assign(split=words.map(WORDS))
    else:
        return source
    where = path or "the column split"
    none = ((table["split"] == "") & ~table["official_test"]).to_numpy()
    if none.all():
        raise DataError(f"{where} gives no image of the source a split: are the image ids others?")
    if none.any():
        notes.append(f"{none.sum():,} images are left out: {where} gives them no split")
    left_out = ((name, f"{where} gives it no split") for name in table.loc[none, "image_id"])
    kept = pd.DataFrame(table[~none]).reset_index(drop=True)
    notes.append(f"{where} makes the splits: {counts_of(kept.loc[kept['split'] != '', 'split'])}")
    left_out = (*source.left_out, *left_out)
    return replace(source, table=kept, notes=tuple(notes), left_out=left_out)


_EXPECTED = ", ".join(sorted(set(WORDS) - {""})) + " or nothing"


def _read(path: Path) -> pd.Series:
    """Return our split by image id from a table of image_id and split."""
    if not path.is_file():
        raise DataError(f"no such file: {path}; --splits is a table of image_id and split")
    table = read_table(path)
    table = table.rename(columns=our_columns(list(table.columns)))
    require_columns(table, ("image_id", "split"), path)
    words = pd.Series(table["split"]).str.lower()
    refuse_rows(~words.isin(WORDS), words, "split", f"one of {_EXPECTED}", path)
    ids = pd.Series(table["image_id"]).map(key)
    rows = pd.DataFrame({"image_id": ids, "split": words.map(WORDS)}).drop_duplicates()
    again = pd.Series(rows["image_id"]).duplicated()
    refuse_rows(again, pd.Series(rows["image_id"]), "image_id", "each id in one split", path)
    return pd.Series(rows["split"].to_numpy(), index=rows["image_id"])


def crossings(
    placed: pd.DataFrame, together: Sequence[str], pairs: Iterable[tuple[str, str]]
) -> dict[str, Any]:
    """Return the groups, lesions, patients and pairs of images that lie in more than one split.

    A pair counts where neither a lesion nor a patient says the same.
    """
    part = placed["split"]
    named = {"lesion_id": "lesions", "patient_id": "patients"}
    found: dict[str, Any] = {"groups": crossing(placed["group"], part)}
    for column in together:
        found[named[column]] = [name for name in crossing(placed[column], part) if name]
    ids = {
        column: dict(zip(placed["image_id"], placed[column], strict=True)) for column in together
    }
    found["pairs"] = [
        [a, b]
        for a, b in crossing_pairs(placed["image_id"], part, pairs)
        if not any(known[a] and known[a] == known[b] for known in ids.values())
    ]
    return found


def in_words(crossed: dict[str, Any]) -> str:
    """Return what crosses, by name, for a message; "" where nothing does."""
    parts = []
    for what in ("lesions", "patients", "pairs"):
        names = [" and ".join(n) if what == "pairs" else n for n in crossed.get(what, ())]
        more = f", {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
        if names:
            parts.append(f"{len(names):,} {what} ({', '.join(names[:SHOWN])}{more})")
    return "; ".join(parts)
