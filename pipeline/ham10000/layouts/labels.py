"""What the columns of a table say of each image's diagnosis, whichever of them there are.

    labels = read_labels(table, path, taxonomy)
    labels.dx, labels.none, labels.kind

In this order: ``dx`` (codes or full names), one column a class (the ISIC challenges of 2018 and
2019), 0/1 or benign/malignant (``label``; ``target`` of 2020 and 2024), the ISIC Archive's
diagnosis_1 to diagnosis_5, its older ``diagnosis``, its ``benign_malignant``.

A ``Taxonomy`` says which names and codes are which class, and which are none of them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from pipeline.errors import DataError
from pipeline.ham10000.tables import refuse_rows
from pipeline.ham10000.taxonomy import LABELS, Taxonomy

Kind = Literal["dx", "binary"]
"""Whether a table names diagnoses, or only benign and malignant."""

LABEL_OF = {
    **dict.fromkeys(("0", "0.0", "benign", "false"), LABELS.index("benign")),
    **dict.fromkeys(("1", "1.0", "malignant", "true"), LABELS.index("malignant")),
}
"""The binary label by what tables and folders write for it."""

BINARY = ("label", "target", "malignant")
LEVELS = tuple(f"diagnosis_{level}" for level in range(1, 6))
SINGLE = ("dx", "diagnostic", *BINARY, "diagnosis_1", "diagnosis", "benign_malignant")
COLUMNS = {*SINGLE, *LEVELS}
"""Columns that can name a diagnosis, besides one a class; of ``SINGLE`` one is enough."""


class ImageLabels(NamedTuple):
    """The diagnosis of each image of a table."""

    dx: list[str]
    """A class of the taxonomy, "" for an image that is none of them."""
    none: list[str]
    """The source's own word where ``dx`` is "", else "" ."""
    kind: Kind = "dx"


def one_hot_columns(columns: Sequence[str], taxonomy: Taxonomy) -> list[str]:
    """Return the columns that stand for a class, or for none of them; [] where too few do."""
    meant = {name: taxonomy.find(name) for name in columns if name not in (*SINGLE, *LEVELS)}
    named = [name for name, dx in meant.items() if dx is not None]
    return named if len({*meant.values()} - {"", None}) >= min(3, len(taxonomy.classes)) else []


def has_labels(columns: Sequence[str], taxonomy: Taxonomy) -> bool:
    """Say whether a table with these columns says what its images show."""
    return bool(one_hot_columns(columns, taxonomy)) or any(name in columns for name in SINGLE)


def read_labels(table: pd.DataFrame, path: Path, taxonomy: Taxonomy) -> ImageLabels:
    """Return a table's labels (see ``has_labels``); a value that means nothing is a DataError."""
    columns = list(table.columns)
    named = next((name for name in ("dx", "diagnostic") if name in columns), None)
    if named:
        column = pd.Series(table[named])
        dx = column.map({name: taxonomy.find(name) for name in set(column)})
        expected = f"one of {', '.join(taxonomy.classes)}, or a full name"
        refuse_rows(dx.isna(), column, named, expected, path)
        return ImageLabels(dx.tolist(), column.where(dx == "", "").tolist())
    if classes := one_hot_columns(columns, taxonomy):
        return _named(_one_hot(table, classes, path), taxonomy)
    stand_in = {word: taxonomy.stand_in(label) for word, label in LABEL_OF.items()}
    binary = next((name for name in BINARY if name in columns), None)
    if binary:
        column = pd.Series(table[binary])
        dx = column.str.lower().map(stand_in)
        expected = "0, 1, benign or malignant (for a diagnosis call the column dx)"
        refuse_rows(dx.isna(), column, binary, expected, path)
        return ImageLabels(dx.tolist(), [""] * len(dx), "binary")
    if "diagnosis_1" in columns or "diagnosis" in columns:
        paths = table.reindex(columns=[*LEVELS], fill_value="").agg(":".join, axis=1).str.strip(":")
        older = table.get("diagnosis", paths)
        return _named(paths.mask(paths == "", older).tolist(), taxonomy)
    column = pd.Series(table["benign_malignant"]).str.lower()
    dx = column.map(stand_in).fillna("")
    none = column.replace("", "no diagnosis").where(dx == "", "")
    return ImageLabels(dx.tolist(), none.tolist(), "binary")


def _named(words: list[str], taxonomy: Taxonomy) -> ImageLabels:
    """Return the labels for the source's own words; an unknown one is none of the classes."""
    dx_of = {word: taxonomy.find(word) or "" for word in set(words)}
    ends = {w: "" if dx else w.rpartition(":")[2] or "no diagnosis" for w, dx in dx_of.items()}
    return ImageLabels([dx_of[word] for word in words], [ends[word] for word in words])


def _one_hot(table: pd.DataFrame, classes: list[str], path: Path) -> list[str]:
    """Return the class of each image from one column a class."""
    try:
        chosen = table[classes].astype(float).to_numpy()
    except ValueError as error:
        raise DataError(f"{path}: a diagnosis column is neither 0 nor 1: {error}") from error
    wrong = ~(np.isin(chosen, (0, 1)).all(axis=1) & (chosen.sum(axis=1) == 1))
    found = pd.Series(chosen.tolist(), index=table.index)
    expected = f"a 1 in exactly one of {', '.join(classes)}"
    refuse_rows(pd.Series(wrong, index=table.index), found, "the diagnosis", expected, path)
    return [classes[index] for index in chosen.argmax(axis=1)]
