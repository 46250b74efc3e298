"""The tables beside the manifest: samples.csv; where needed rejected, converted, left_out.csv.

read_samples(Path("shards/ham10000/samples.csv"))["age"]
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.errors import DataError
from pipeline.files import sha256
from pipeline.shards.manifest import TABLE_NAME
from pipeline.shards.packing.pack import Receipt
from pipeline.shards.plan import FILE_NAME, LEFT_OUT, SKIN_TONE, TABLE_COLUMNS, WHERE_FROM
from pipeline.shards.storage.store import Store


def write_tables(
    store: Store,
    placed: pd.DataFrame,
    receipts: Sequence[Receipt],
    *,
    missing: Sequence[str],
    unpacked: Sequence[tuple[str, str]],
    folds: bool,
) -> dict[str, str]:
    """Publish the tables and return their sha256 by name.

    ``missing`` are ids without an image, ``unpacked`` ids that are not to be packed, with the
    reason.
    """
    left_out = placed[placed["split"] == LEFT_OUT]
    reasons = "shows a lesion of the test set (group " + left_out["group"] + ")"
    rejected = [(name, "there is no image of this id in the source") for name in missing]
    rejected += [pair for receipt in receipts for pair in receipt.rejected]
    notes = (
        ("rejected.csv", "reason", rejected),
        ("converted.csv", "conversion", [pair for r in receipts for pair in r.converted]),
        ("left_out.csv", "reason", [*zip(left_out["image_id"], reasons, strict=True), *unpacked]),
    )
    contents = {TABLE_NAME: table_bytes(_samples(placed, receipts, folds=folds))}
    for name, column, pairs in notes:
        if pairs:
            contents[name] = table_bytes(pd.DataFrame(sorted(pairs), columns=["image_id", column]))
    for name, data in contents.items():
        store.publish(name, data)
    return {name: sha256(data) for name, data in contents.items()}


def _samples(placed: pd.DataFrame, receipts: Sequence[Receipt], *, folds: bool) -> pd.DataFrame:
    """Return samples.csv: one row for each sample packed, in packing order."""
    packed = [(name, receipt.entry.path) for receipt in receipts for name, _ in receipt.sources]
    order = pd.DataFrame(packed, columns=["image_id", "shard"])
    added = (SKIN_TONE, *WHERE_FROM, FILE_NAME)
    columns = [*TABLE_COLUMNS, *(name for name in added if name in placed)]
    if folds:
        columns.insert(columns.index("split") + 1, "fold")
    return pd.DataFrame(order.merge(placed, on="image_id", how="left", validate="1:1")[columns])


def table_bytes(table: pd.DataFrame) -> bytes:
    """Return the CSV of a table: LF line ends, empty where missing."""
    return table.to_csv(index=False, lineterminator="\n").encode()


def read_samples(path: Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Read samples.csv: strings, ``age`` float64 (NaN missing), ``label`` and ``fold`` int64.

    ``columns`` are those wanted; none: all. A rank that needs two of 400,000 rows saves 80 MB.
    """
    try:
        if columns:
            return pd.read_csv(path, dtype=str, keep_default_na=False, usecols=list(columns))
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        added = ["fold", SKIN_TONE, *WHERE_FROM, FILE_NAME]
        if list(table.columns.drop(added, errors="ignore")) != list(TABLE_COLUMNS):
            raise ValueError(f"its columns are {', '.join(table.columns)}")
        table["age"] = np.array([float(age) if age else np.nan for age in table["age"]])
        for column in table.columns.intersection(["label", "fold"]):
            table[column] = table[column].astype(np.int64)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not a usable table of samples: {error}") from error
    return table
