"""One's own images: a folder of images and a table of ``image_id`` and ``dx`` or ``label``.

Optional columns: lesion_id, patient_id (images of one patient stay together), dx_type, age, sex,
localization. ``label`` is 0/1 or benign/malignant, for those who know no more than that.
"""

from pathlib import Path
from typing import Literal, NamedTuple

import pandas as pd

from pipeline.errors import DataError
from pipeline.ham10000.images import EXTENSIONS
from pipeline.ham10000.metadata import check_metadata, read_table, require_columns
from pipeline.ham10000.taxonomy import DX

STAND_IN: dict[str, str] = {
    "0": "nv",
    "benign": "nv",
    "1": "mel",
    "malignant": "mel",
}
"""The dx that stands for a label where only benign or malignant is known."""

OPTIONAL: tuple[str, ...] = ("lesion_id", "patient_id", "dx_type", "age", "sex", "localization")


class OwnTable(NamedTuple):
    """A checked table of one's own images."""

    table: pd.DataFrame
    """As ``read_metadata`` gives it, plus patient_id where the file has it."""
    labels: Literal["dx", "binary"]
    """Whether diagnoses are known, or only benign and malignant."""


def find_own_table(source: Path) -> Path | None:
    """Return the only table in ``source`` with a column image_id, None where there is none.

    Raises:
        DataError: there are several.
    """
    tables = sorted(p for p in source.iterdir() if p.suffix.lower() in (".csv", ".tab", ".tsv"))
    found = [path for path in tables if path.is_file() and "image_id" in read_table(path).columns]
    if len(found) > 1:
        raise DataError(
            f"{source} has several tables with a column image_id: "
            f"{', '.join(path.name for path in found)}; leave one"
        )
    return found[0] if found else None


def read_own_table(path: Path) -> OwnTable:
    """Read and check one's own table.

    Raises:
        DataError: a missing column or a value that cannot be.
    """
    raw = read_table(path)
    require_columns(raw, ("image_id",), path)
    if "dx" not in raw.columns and "label" not in raw.columns:
        raise DataError(
            f"{path} has neither a column dx ({', '.join(DX)}) nor a column label (0 = benign, "
            f"1 = malignant); found {', '.join(raw.columns)}"
        )
    labels: Literal["dx", "binary"] = "dx" if "dx" in raw.columns else "binary"
    image_id = [_without_extension(name) for name in raw["image_id"]]
    empty = pd.Series("", index=raw.index)
    columns = {name: pd.Series(raw.get(name, empty)) for name in OPTIONAL}
    lesions = [lesion or name for lesion, name in zip(columns["lesion_id"], image_id, strict=True)]
    table = pd.DataFrame(columns).assign(image_id=image_id, lesion_id=lesions)
    table["dx"] = raw["dx"] if labels == "dx" else _diagnoses(raw, path)
    checked = check_metadata(table, path)
    if "patient_id" in raw.columns:
        patient = dict(zip(table["image_id"], table["patient_id"], strict=True))
        checked["patient_id"] = [patient[name] for name in checked["image_id"]]
    return OwnTable(checked, labels)


def _diagnoses(raw: pd.DataFrame, path: Path) -> list[str]:
    """Return the dx that stands for each label."""
    found = [label.lower().removesuffix(".0") for label in raw["label"]]
    for row, label in enumerate(found):
        if label not in STAND_IN:
            raise DataError(
                f"{path}, line {row + 2}: label is {raw['label'][row]!r}, expected 0, 1, benign or "
                f"malignant (for one of the seven diagnoses call the column dx)"
            )
    return [STAND_IN[label] for label in found]


def _without_extension(name: str) -> str:
    ending = next((end for end in EXTENSIONS if name.lower().endswith(end)), "")
    return name[: len(name) - len(ending)]
