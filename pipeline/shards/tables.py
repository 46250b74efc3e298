"""The tables beside the manifest: samples.csv; where needed rejected, converted, left_out.csv.

patients.csv says which images are of one patient, where the source does.

read_samples(Path("shards/ham10000/samples.csv"))["age"]
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.errors import DataError
from pipeline.files import sha256
from pipeline.shards.manifest import SPLITS, TABLE_NAME
from pipeline.shards.packing.pack import Receipt
from pipeline.shards.plan import FILE_NAME, LEFT_OUT, SKIN_TONE, TABLE_COLUMNS, WHERE_FROM
from pipeline.shards.storage.store import Store

PATIENTS_NAME = "patients.csv"
PATIENT = "patient"
"""Its column beside image_id: ``hashed`` patient ids."""


def write_tables(
    store: Store,
    placed: pd.DataFrame,
    receipts: Sequence[Receipt],
    *,
    missing: Sequence[str],
    unpacked: Sequence[tuple[str, str]],
    folds: bool,
    before: Mapping[str, pd.DataFrame],
) -> dict[str, str]:
    """Publish the tables and return their sha256 by name.

    ``missing`` are ids without an image, ``unpacked`` ids that are not to be packed, with the
    reason, ``before`` the tables of the base that the set grows from, all columns text.
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
    tables = {TABLE_NAME: _samples(placed, receipts, folds=folds)}
    for name, column, pairs in notes:
        if pairs:
            tables[name] = pd.DataFrame(sorted(pairs), columns=["image_id", column])
    if "patient_id" in placed:
        packed = placed["image_id"].isin(tables[TABLE_NAME]["image_id"])
        named = packed & (placed["patient_id"] != "")
        patients = pd.DataFrame(placed.loc[named, ["image_id"]])
        tables[PATIENTS_NAME] = patients.assign(patient=hashed(placed.loc[named, "patient_id"]))
    for name, old in before.items():
        tables[name] = _after(old, tables[name]) if name in tables else old
    contents = {name: table_bytes(table) for name, table in tables.items()}
    for name, data in contents.items():
        store.publish(name, data)
    return {name: sha256(data) for name, data in contents.items()}


def hashed(patient_ids: Iterable[str]) -> list[str]:
    """Return a name for each patient that tells nothing but who is the same; "" where unknown."""
    return [name and sha256(name.encode())[:16] for name in patient_ids]


def _after(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of ``old`` and ``new``; new samples follow the train split of the old ones.

    The order of columns is that of samples.csv; what one of the two lacks is empty there.
    """
    both = pd.concat([old, new], ignore_index=True)
    if "split" in both:
        both = both.sort_values("split", key=lambda s: s.map(SPLITS.index), kind="stable")
    order = [*TABLE_COLUMNS, SKIN_TONE, *WHERE_FROM, FILE_NAME]
    known = [name for name in order if name in both]
    return both.loc[:, [*known, *both.columns.drop(known)]]


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


def read_text(path: Path) -> pd.DataFrame:
    """Read a table beside the manifest as it is: all columns text, nothing missing."""
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def read_samples(path: Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Read samples.csv: strings, ``age`` float64 (NaN missing), ``label`` and ``fold`` int64.

    ``columns`` are those wanted; none: all. A rank that needs two of 400,000 rows saves 80 MB.
    """
    try:
        if columns:
            return pd.read_csv(path, dtype=str, keep_default_na=False, usecols=list(columns))
        table = read_text(path)
        added = ["fold", SKIN_TONE, *WHERE_FROM, FILE_NAME]
        if list(table.columns.drop(added, errors="ignore")) != list(TABLE_COLUMNS):
            raise ValueError(f"its columns are {', '.join(table.columns)}")
        table["age"] = np.array([float(age) if age else np.nan for age in table["age"]])
        for column in table.columns.intersection(["label", "fold"]):
            table[column] = table[column].astype(np.int64)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not a usable table of samples: {error}") from error
    return table
