"""The tables beside the manifest: samples.csv; where needed rejected, converted, left_out.csv."""

import hashlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.errors import DataError
from pipeline.shards.manifest import TABLE_NAME
from pipeline.shards.packing.pack import Receipt
from pipeline.shards.plan import LEFT_OUT, TABLE_COLUMNS
from pipeline.shards.storage.store import Store

REJECTED_NAME = "rejected.csv"
CONVERTED_NAME = "converted.csv"
LEFT_OUT_NAME = "left_out.csv"


def write_tables(
    store: Store, placed: pd.DataFrame, receipts: Sequence[Receipt], *, folds: bool
) -> dict[str, str]:
    """Publish the tables and return their sha256 by name."""
    rejected = [pair for receipt in receipts for pair in receipt.rejected]
    converted = [pair for receipt in receipts for pair in receipt.converted]
    contents = {TABLE_NAME: table_bytes(samples_table(placed, receipts, folds=folds))}
    if rejected:
        contents[REJECTED_NAME] = _pairs_bytes(rejected, "reason")
    if converted:
        contents[CONVERTED_NAME] = _pairs_bytes(converted, "conversion")
    left_out = placed[placed["split"] == LEFT_OUT]
    if len(left_out):
        why = [f"shows a lesion of the test set (group {group})" for group in left_out["group"]]
        contents[LEFT_OUT_NAME] = _pairs_bytes(
            zip(left_out["image_id"], why, strict=True), "reason"
        )
    for name, data in contents.items():
        store.publish(name, data)
    return {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}


def samples_table(
    placed: pd.DataFrame, receipts: Sequence[Receipt], *, folds: bool
) -> pd.DataFrame:
    """Return one row for each sample packed, in packing order, with the columns of samples.csv."""
    packed = [(name, r.entry.path) for r in receipts for name, _ in r.sources]
    order = pd.DataFrame(packed, columns=["image_id", "shard"])
    columns = list(TABLE_COLUMNS)
    if folds:
        columns.insert(columns.index("split") + 1, "fold")
    merged = order.merge(placed, on="image_id", how="left", validate="1:1")
    return pd.DataFrame(merged, columns=columns)


def table_bytes(table: pd.DataFrame) -> bytes:
    """Return the CSV of a table: LF line ends, empty where missing."""
    out = io.StringIO()
    table.to_csv(out, index=False, lineterminator="\n")
    return out.getvalue().encode()


def _pairs_bytes(pairs: Iterable[tuple[str, str]], column: str) -> bytes:
    return table_bytes(pd.DataFrame(sorted(pairs), columns=["image_id", column]))


def read_samples(path: Path) -> pd.DataFrame:
    """Read samples.csv: strings, ``age`` float64 (NaN missing), ``label`` and ``fold`` int64."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        if list(table.columns.drop("fold", errors="ignore")) != list(TABLE_COLUMNS):
            raise ValueError(f"its columns are {', '.join(table.columns)}")
        table["age"] = np.array([float(age) if age else np.nan for age in table["age"]])
        for column in table.columns.intersection(["label", "fold"]):
            table[column] = table[column].astype(np.int64)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not a usable table of samples: {error}") from error
    return table
