"""What the columns of a table say of each image's diagnosis, whichever of them there are.

    labels = read_labels(table, path)
    labels.dx, labels.none, labels.kind

In this order: ``dx`` (codes or full names), one column a class (the ISIC challenges of 2018 and
2019), 0/1 or benign/malignant (``label``; ``target`` of 2020 and 2024), the ISIC Archive's
diagnosis_1 to diagnosis_5, its older ``diagnosis``, its ``benign_malignant``.

``diagnoses.csv`` maps names, each with its source. An archive path holds for the paths below it
that have no row of their own. The seven hold what HAM10000's paper says: akiec is actinic keratosis
and Bowen's disease, bkl seborrheic keratosis, solar lentigo and lichen-planus like keratosis, nv
every nevus, mel melanoma, in situ too, vasc angioma, angiokeratoma, pyogenic granuloma and
haemorrhage. Metastases, invasive squamous cell carcinoma and a name that can be two are none.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from pipeline.errors import DataError
from pipeline.ham10000.tables import refuse_rows
from pipeline.ham10000.taxonomy import DX

Kind = Literal["dx", "binary"]
"""Whether a table names diagnoses, or only benign and malignant."""

STAND_IN = {
    **dict.fromkeys(("0", "0.0", "benign", "false"), "nv"),
    **dict.fromkeys(("1", "1.0", "malignant", "true"), "mel"),
}
"""The dx stored for a label where the diagnosis is not known."""

with Path(__file__).with_name("diagnoses.csv").open(encoding="utf-8", newline="") as _file:
    DIAGNOSES = {row["name"].lower(): row["dx"] for row in csv.DictReader(_file)}
"""Diagnosis by name, code or path of the archive, in lower case; "" for none of the seven."""

ONE_HOT = ("mel", "nv", "bcc", "akiec", "ak", "bkl", "df", "vasc", "scc", "unk")
BINARY = ("label", "target", "malignant")
LEVELS = tuple(f"diagnosis_{level}" for level in range(1, 6))
SINGLE = ("dx", *BINARY, "diagnosis_1", "diagnosis", "benign_malignant")
COLUMNS = {*SINGLE, *ONE_HOT, *LEVELS}
"""Columns that can name a diagnosis; of ``SINGLE`` one is enough."""


class ImageLabels(NamedTuple):
    """The diagnosis of each image of a table."""

    dx: list[str]
    """One of the seven, "" for an image that is none of them."""
    none: list[str]
    """The source's own word where ``dx`` is "", else "" ."""
    kind: Kind = "dx"


def to_dx(name: str) -> str | None:
    """Return the diagnosis for a code, a name or a path of the archive.

    "" is none of the seven, None a name that is not known.
    """
    levels = " ".join(name.lower().replace("_", " ").split()).split(":")
    for length in range(len(levels), 0, -1):
        dx = DIAGNOSES.get(":".join(levels[:length]))
        if dx is not None:
            return dx
    return "" if len(levels) > 1 else None


def has_labels(columns: Sequence[str]) -> bool:
    """Say whether a table with these columns says what its images show."""
    return set(columns) >= {"mel", "nv", "bcc"} or any(name in columns for name in SINGLE)


def read_labels(table: pd.DataFrame, path: Path) -> ImageLabels:
    """Return the labels of a table for which ``has_labels`` is true.

    Raises:
        DataError: a value that is not understood.
    """
    columns = list(table.columns)
    if "dx" in columns:
        column = pd.Series(table["dx"])
        dx = column.map({name: to_dx(name) for name in set(column)})
        refuse_rows(dx.isna(), column, "dx", f"one of {', '.join(DX)}, or a full name", path)
        return ImageLabels(dx.tolist(), column.where(dx == "", "").tolist())
    if set(columns) >= {"mel", "nv", "bcc"}:
        return _named(_one_hot(table, path))
    binary = next((name for name in BINARY if name in columns), None)
    if binary:
        column = pd.Series(table[binary])
        dx = column.str.lower().map(STAND_IN)
        expected = "0, 1, benign or malignant (for one of the seven diagnoses call the column dx)"
        refuse_rows(dx.isna(), column, binary, expected, path)
        return ImageLabels(dx.tolist(), [""] * len(dx), "binary")
    if "diagnosis_1" in columns or "diagnosis" in columns:
        paths = table.reindex(columns=[*LEVELS], fill_value="").agg(":".join, axis=1).str.strip(":")
        older = table.get("diagnosis", paths)
        return _named(paths.mask(paths == "", older).tolist())
    column = pd.Series(table["benign_malignant"]).str.lower()
    dx = column.map(STAND_IN).fillna("")
    none = column.replace("", "no diagnosis").where(dx == "", "")
    return ImageLabels(dx.tolist(), none.tolist(), "binary")


def _named(words: list[str]) -> ImageLabels:
    """Return the labels for the source's own words; one that is not known is none of the seven."""
    dx_of = {word: to_dx(word) or "" for word in set(words)}
    ends = {w: "" if dx else w.rpartition(":")[2] or "no diagnosis" for w, dx in dx_of.items()}
    return ImageLabels([dx_of[word] for word in words], [ends[word] for word in words])


def _one_hot(table: pd.DataFrame, path: Path) -> list[str]:
    """Return the class of each image from one column a class."""
    classes = [name for name in ONE_HOT if name in table.columns]
    try:
        chosen = table[classes].astype(float).to_numpy()
    except ValueError as error:
        raise DataError(f"{path}: a diagnosis column is neither 0 nor 1: {error}") from error
    wrong = ~(np.isin(chosen, (0, 1)).all(axis=1) & (chosen.sum(axis=1) == 1))
    found = pd.Series(chosen.tolist(), index=table.index)
    expected = f"a 1 in exactly one of {', '.join(classes)}"
    refuse_rows(pd.Series(wrong, index=table.index), found, "the diagnosis", expected, path)
    return [classes[index] for index in chosen.argmax(axis=1)]
