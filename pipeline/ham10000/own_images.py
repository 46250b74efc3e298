"""Own images: a folder of image files and a table of ``image_id`` and ``dx`` or ``label``.

Optional columns: lesion_id, patient_id (images of one patient stay together), dx_type, age, sex,
localization. ``label`` (0/1 or benign/malignant) serves where the diagnosis is not known.

    table, labels = read_own_table(Path("data/mine/table.csv"))
"""

import re
from pathlib import Path
from typing import Literal

import pandas as pd

from pipeline.errors import DataError
from pipeline.ham10000.decoding.formats import EXTENSIONS
from pipeline.ham10000.metadata import check_metadata, read_table, require_columns
from pipeline.ham10000.taxonomy import DX

Labels = Literal["dx", "binary"]
"""Whether a table names diagnoses, or only benign and malignant."""

STAND_IN = {"0": "nv", "benign": "nv", "1": "mel", "malignant": "mel"}
"""The dx stored for a label where the diagnosis is not known."""

OPTIONAL = ("lesion_id", "patient_id", "dx_type", "age", "sex", "localization")


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


def read_own_table(path: Path) -> tuple[pd.DataFrame, Labels]:
    """Return a checked table as ``read_metadata`` does, plus patient_id where the file has it.

    Raises:
        DataError: a missing column or an impossible value.
    """
    raw = read_table(path)
    require_columns(raw, ("image_id",), path)
    if "dx" not in raw.columns and "label" not in raw.columns:
        raise DataError(
            f"{path} has neither a column dx ({', '.join(DX)}) nor a column label (0 = benign, "
            f"1 = malignant); found {', '.join(raw.columns)}"
        )
    labels: Labels = "dx" if "dx" in raw.columns else "binary"
    table = raw.reindex(columns=["image_id", *OPTIONAL], fill_value="")
    endings = "|".join(map(re.escape, EXTENSIONS))
    table["image_id"] = raw["image_id"].str.replace(f"({endings})$", "", case=False, regex=True)
    table["lesion_id"] = table["lesion_id"].mask(table["lesion_id"] == "", table["image_id"])
    table["dx"] = raw["dx"] if labels == "dx" else _diagnoses(raw["label"].tolist(), path)
    checked = check_metadata(table, path)
    if "patient_id" in raw.columns:
        patients = dict(zip(table["image_id"], table["patient_id"], strict=True))
        checked["patient_id"] = [patients[image_id] for image_id in checked["image_id"]]
    return checked, labels


def _diagnoses(labels: list[str], path: Path) -> list[str]:
    """Return the dx that stands for each label."""
    names = [STAND_IN.get(label.lower().removesuffix(".0"), "") for label in labels]
    if "" in names:
        row = names.index("")
        raise DataError(
            f"{path}, line {row + 2}: label is {labels[row]!r}, expected 0, 1, benign or "
            f"malignant (for one of the seven diagnoses call the column dx)"
        )
    return names
