"""What a ``--source`` folder holds: a table of images and where their bytes are.

source = open_source(Path("data/ham10000"))
source.table, source.store, source.kind
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from pipeline.errors import DataError
from pipeline.ham10000.images import ImageStore, require_folder, require_images
from pipeline.ham10000.metadata import find_metadata, read_metadata
from pipeline.ham10000.official_test import WITHOUT_IMAGE, find_ground_truth, read_ground_truth
from pipeline.ham10000.own_images import find_own_table, read_own_table

Kind = Literal["ham10000", "isic2018", "images"]
"""HAM10000 (perhaps with the official test set), that test set alone, or one's own images."""


@dataclass(frozen=True)
class Source:
    """Images with their metadata, checked against each other."""

    kind: Kind
    """What sort of source it is."""
    table: pd.DataFrame
    """As ``read_metadata`` gives it, plus official_test (bool) and, for own images, patient_id."""
    store: ImageStore
    """The images; it may hold more than the table names."""
    labels: Literal["dx", "binary"] = "dx"
    """``binary`` where only benign or malignant is known; dx is then nv or mel in its place."""
    together: tuple[str, ...] = ("lesion_id",)
    """Columns of which an equal value means that two images belong together."""
    notes: tuple[str, ...] = ()
    """What a person should be told about it."""


def open_source(path: Path) -> Source:
    """Read and check the tables of ``path`` and find the images.

    Looked for, in this order: HAM10000's metadata (joined by the official test set where that is
    there too), the official test set alone, a table of one's own.

    Raises:
        DataError: whatever keeps the folder from being used.
    """
    path = require_folder(path)
    has_ham = find_metadata(path) is not None
    ground_truth = find_ground_truth(path)
    own = None if has_ham or ground_truth else find_own_table(path)
    if own is not None:
        return _own_source(path, own)
    table = read_metadata(path).assign(official_test=False) if has_ham or not ground_truth else None
    store = ImageStore(path)
    notes: list[str] = []
    if ground_truth is not None:
        test, notes = _official_test(ground_truth, store)
        table = test if table is None else _join(table, test)
    assert table is not None
    require_images(table["image_id"], store)
    return Source("ham10000" if has_ham else "isic2018", table, store, notes=tuple(notes))


def _own_source(path: Path, own: Path) -> Source:
    table, labels = read_own_table(own)
    store = ImageStore(path)
    require_images(table["image_id"], store)
    notes: list[str] = []
    if labels == "binary":
        notes.append(
            f"{own.name} names no diagnoses: benign is packed as nv, malignant as mel; train and "
            f"judge with --task binary only"
        )
    together = tuple(name for name in ("lesion_id", "patient_id") if name in table.columns)
    table = table.assign(official_test=False)
    return Source("images", table, store, labels=labels, together=together, notes=tuple(notes))


def _official_test(path: Path, store: ImageStore) -> tuple[pd.DataFrame, list[str]]:
    """Return the official test set's rows, and a note for each that is known to lack its image."""
    table = read_ground_truth(path).assign(official_test=True)
    absent = [name for name in WITHOUT_IMAGE if name in set(table["image_id"]) - store.ids()]
    notes = [
        f"{name} of {path.name} is left out: the deposit has no image of it" for name in absent
    ]
    return pd.DataFrame(table[~table["image_id"].isin(absent)]), notes


def _join(table: pd.DataFrame, test: pd.DataFrame) -> pd.DataFrame:
    both = sorted(set(table["image_id"]) & set(test["image_id"]))
    if both:
        raise DataError(
            f"{len(both)} images are both in HAM10000's metadata and in the official test set, the "
            f"first is {both[0]}: one of the two tables is not the published one"
        )
    return pd.concat([table, test], ignore_index=True)
