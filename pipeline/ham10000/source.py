"""What a ``--source`` folder holds: a table of images and where their bytes are.

source = open_source(Path("data/ham10000"))
source.table, source.store, source.kind
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd

from pipeline.errors import DataError
from pipeline.ham10000.images import (
    ImageStore,
    OnBadImage,
    absent_part,
    hints,
    missing_images,
    require_folder,
    require_images,
)
from pipeline.ham10000.isic2018 import GROUND_TRUTH, WITHOUT_IMAGE, read_ground_truth
from pipeline.ham10000.metadata import find_table, read_metadata
from pipeline.ham10000.own_images import Labels, find_own_table, read_own_table

Kind = Literal["ham10000", "isic2018", "images"]
"""HAM10000 (with or without the official test set), that test set alone, or own images."""


@dataclass(frozen=True)
class Source:
    """Images with their metadata, checked against each other."""

    kind: Kind
    table: pd.DataFrame
    """As ``read_metadata`` gives it, plus official_test (bool) and, for own images, patient_id."""
    store: ImageStore
    """The images; it may hold more than the table names."""
    labels: Labels = "dx"
    """``binary`` where only benign or malignant is known; dx is then nv or mel in its place."""
    together: tuple[str, ...] = ("lesion_id",)
    """Columns of which an equal value means that two images belong together."""
    notes: tuple[str, ...] = ()
    """Facts about this source that the user should read."""
    missing: tuple[str, ...] = ()
    """Ids that have no image and were left out of ``table`` for ``--on-bad-image skip``."""


def open_source(path: Path, *, on_bad_image: OnBadImage = "error") -> Source:
    """Read and check the tables of ``path`` and find the images.

    Tried in this order: HAM10000's metadata (with the official test set where that is there too),
    the official test set alone, a table of own images. With ``on_bad_image="skip"`` rows without an
    image are left out.

    Raises:
        DataError: the folder cannot be used; the message says why.
    """
    path = require_folder(path)
    ham = find_table(path, "HAM10000_metadata")
    truth = find_table(path, GROUND_TRUTH)
    own = None if ham or truth else find_own_table(path)
    store = ImageStore(path)
    if own:
        source = _own_images(own, store)
    elif truth:
        source = _with_official_test(read_metadata(path) if ham else None, truth, store)
    else:
        source = Source("ham10000", read_metadata(path).assign(official_test=False), store)
    if on_bad_image == "skip":
        source = _with_images(source)
    else:
        require_images(source.table["image_id"], store)
    return replace(source, notes=(*source.notes, *_notes(source)))


def _with_images(source: Source) -> Source:
    """Return the source without the rows that have no image."""
    missing = missing_images(source.table["image_id"], source.store)
    if not missing:
        return source
    table = source.table[~source.table["image_id"].isin(missing)].reset_index(drop=True)
    if table.empty:
        require_images(missing, source.store)
    return replace(source, table=pd.DataFrame(table), missing=tuple(missing))


def _notes(source: Source) -> Iterator[str]:
    """Yield what was passed over."""
    if source.missing:
        rows = len(source.missing) + len(source.table)
        part = absent_part(source.store)
        yield f"{len(source.missing):,} of {rows:,} rows have no image and are left out. {part}"
    passed_over = hints(source.store)
    if passed_over:
        yield passed_over.strip()


def _own_images(path: Path, store: ImageStore) -> Source:
    table, labels = read_own_table(path)
    note = (
        f"{path.name} names no diagnoses: benign is packed as nv, malignant as mel; train and "
        f"judge with --task binary only"
    )
    return Source(
        "images",
        table.assign(official_test=False),
        store,
        labels=labels,
        together=tuple(name for name in ("lesion_id", "patient_id") if name in table.columns),
        notes=(note,) if labels == "binary" else (),
    )


def _with_official_test(ham: pd.DataFrame | None, path: Path, store: ImageStore) -> Source:
    """Return the official test set, after HAM10000's rows where ``ham`` has them."""
    table = read_ground_truth(path).assign(official_test=True)
    absent = [name for name in WITHOUT_IMAGE if name in set(table["image_id"]) - store.ids()]
    table = pd.DataFrame(table[~table["image_id"].isin(absent)])
    notes = tuple(f"{name} of {path.name} is left out: it has no image" for name in absent)
    if ham is None:
        return Source("isic2018", table, store, notes=notes)
    both = sorted(set(ham["image_id"]) & set(table["image_id"]))
    if both:
        raise DataError(
            f"{len(both)} images are both in HAM10000's metadata and in the official test set, the "
            f"first is {both[0]}: one of the two tables is not the published one"
        )
    joined = pd.concat([ham.assign(official_test=False), table], ignore_index=True)
    return Source("ham10000", joined, store, notes=notes)
