"""What a ``--source`` folder holds: a table of images and where their bytes are.

source = open_source(Path("data/ham10000"))
source.table, source.store, source.kind

``layouts`` reads the tables and folders that people have; docs/data.md lists them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from pipeline.errors import DataError
from pipeline.ham10000.flags import ImageType
from pipeline.ham10000.images import (
    ImageStore,
    OnBadImage,
    absent_part,
    hints,
    missing_images,
    require_folder,
    require_images,
)
from pipeline.ham10000.layouts.choice import choose_table
from pipeline.ham10000.layouts.folders import read_folders
from pipeline.ham10000.layouts.image_table import EXTRA, Rows, read_images
from pipeline.ham10000.layouts.labels import Kind
from pipeline.ham10000.tables import find_table
from pipeline.ham10000.taxonomy import HAM10000, LABELS, Taxonomy

GROUND_TRUTH = "ISIC2018_Task3_Test_GroundTruth"
"""Name of the official test set's table, without its extension; the deposit has had it one-hot and
in HAM10000's format."""

UNSCORED = "ISIC_0035068"
"""A row of that table that the official scorer gives no weight; the deposit lacks its image."""


@dataclass(frozen=True)
class Source:
    """Images with their metadata, checked against each other."""

    kind: str
    """``ham10000`` (with or without the official test set), ``isic2018`` (that set alone),
    ``isic2019``, ``isic2020``, ``isic2024``, ``isic`` (the archive), ``images`` (own ones) or
    ``several`` (see ``pipeline.ham10000.several``)."""
    table: pd.DataFrame
    """As ``check_metadata`` gives it, plus official_test (bool) and, where the table has them,
    the columns ``image_table.EXTRA``; with file_name where an image id is not the file's name."""
    store: ImageStore
    """The images; it may hold more than the table names."""
    labels: Kind = "dx"
    """``binary`` where only benign or malignant is known; dx is then a class in its place."""
    taxonomy: Taxonomy = HAM10000
    together: tuple[str, ...] = ("lesion_id",)
    """Columns of which an equal value means that two images belong together."""
    notes: tuple[str, ...] = ()
    """Facts about this source that the user should read."""
    left_out: tuple[tuple[str, str], ...] = ()
    """Image id and reason of the rows that are not to be packed."""
    missing: tuple[str, ...] = ()
    """Ids that have no image and were left out of ``table`` for ``--on-bad-image skip``."""
    pairs: tuple[tuple[str, str], ...] = ()
    """Further images that belong together."""


def open_source(
    path: Path,
    taxonomy: Taxonomy = HAM10000,
    *,
    image_types: Sequence[ImageType] = (),
    on_bad_image: OnBadImage = "error",
) -> Source:
    """Read and check the tables of ``path`` and find the images, or raise a DataError.

    Tried in this order: HAM10000's metadata, a table that names images and what they show, images
    in one folder a class; the official test set joins any of them, or stands alone. See
    ``read_images`` for ``image_types``; with ``on_bad_image`` "skip", rows without an image are
    left out.
    """
    path = require_folder(path)
    truth = find_table(path, GROUND_TRUTH)
    choice = choose_table(path, taxonomy, without=truth)
    if choice.table:
        how = {"image_types": image_types, "beside": choice.beside, "required": choice.required}
        rows = read_images(choice.table, taxonomy, **how)
    else:
        rows = None if truth else read_folders(ImageStore(path), taxonomy)
    if not (rows or truth):
        raise DataError(choice.why_none(path))
    store = ImageStore(path, rows.names if rows else None)
    source = _source(choice.kind, rows, store, taxonomy) if rows else None
    source = _with_official_test(source, truth, store, taxonomy) if truth else source
    assert source
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


def _source(kind: str, rows: Rows, store: ImageStore, taxonomy: Taxonomy) -> Source:
    table = rows.table.assign(official_test=False)
    stands = (f"{name} is packed as {taxonomy.stand_in(k)}" for k, name in enumerate(LABELS))
    note = (
        f"the source names no diagnoses: {', '.join(stands)}; train and judge with --task binary "
        "only"
    )
    return Source(
        kind,
        table,
        store,
        labels=rows.labels,
        taxonomy=taxonomy,
        together=tuple(name for name in ("lesion_id", "patient_id") if name in table.columns),
        notes=(*rows.notes, *((note,) if rows.labels == "binary" else ())),
        left_out=rows.left_out,
    )


def _with_official_test(
    source: Source | None, path: Path, store: ImageStore, taxonomy: Taxonomy
) -> Source:
    """Return the official test set, after the rows of ``source`` where that is there."""
    table = read_images(path, taxonomy).table.assign(official_test=True)
    unscored = table["image_id"] == UNSCORED
    table, left_out, notes = pd.DataFrame(table[~unscored]), (), ()
    if unscored.to_numpy().any():
        left_out = ((UNSCORED, f"{path.name}: the official scorer gives it no weight"),)
        notes = (f"{UNSCORED} of {path.name} is left out: the official scorer gives it no weight",)
    if source is None:
        how = {"taxonomy": taxonomy, "notes": notes, "left_out": left_out}
        return Source("isic2018", table, store, **how)
    both = sorted(set(source.table["image_id"]) & set(table["image_id"]))
    if both:
        raise DataError(
            f"{len(both)} images are both in HAM10000's metadata and in the official test set, the "
            f"first is {both[0]}: one of the two tables is not the published one"
        )
    joined = pd.concat([source.table, table], ignore_index=True)
    for name in joined.columns.intersection([*EXTRA, "file_name"]):
        joined[name] = joined[name].fillna("")
    left_out = (*source.left_out, *left_out)
    return replace(source, table=joined, notes=(*source.notes, *notes), left_out=left_out)
