"""A set of photographs in which lesions are looked for: a source folder, shards, or one split.

open_photographs(Path("shards/ham10000/test")).read("ISIC_0024306")
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pipeline.errors import DataError
from pipeline.ham10000.flags import ImageType
from pipeline.ham10000.images import OnBadImage
from pipeline.ham10000.source import Source, open_source
from pipeline.ham10000.taxonomy import HAM10000, Taxonomy
from pipeline.shards.dataset import ShardSet, open_shards
from pipeline.shards.format import read_index
from pipeline.shards.manifest import MANIFEST_NAME, SPLITS


@dataclass(frozen=True)
class Photographs:
    """Images with the ids that say which belong together."""

    table: pd.DataFrame
    """image_id and the columns of ``together``; one row an image."""
    together: tuple[str, ...]
    """Columns of which an equal value means that two images are known to belong together."""
    read: Callable[[str], bytes]
    """The file of an image, by id; raises a DataError that names it."""
    where: Callable[[str], str]
    """Where an image is, for a message."""


def open_photographs(
    path: Path,
    taxonomy: Taxonomy = HAM10000,
    *,
    image_types: Sequence[ImageType] = (),
    on_bad_image: OnBadImage = "error",
) -> Photographs:
    """Open a source folder, shards, or a split's folder in them; raise a DataError for all else."""
    for root, splits in ((path, SPLITS), (path.parent, (path.name,))):
        if (root / MANIFEST_NAME).is_file() and set(splits) <= set(SPLITS):
            shards = open_shards(root)
            table = shards.samples
            return packed(shards, pd.DataFrame(table[table["split"].isin(splits)]))
    source = open_source(path, taxonomy, image_types=image_types, on_bad_image=on_bad_image)
    return of_source(source)


def of_source(source: Source) -> Photographs:
    """Return the photographs of an open source."""
    return Photographs(source.table, source.together, source.store.read, source.store.where)


def packed(shards: ShardSet, table: pd.DataFrame) -> Photographs:
    """Return those photographs of shards that are rows of ``table`` (as samples.csv)."""
    wanted = set(table["image_id"])
    places: dict[str, tuple[Path, int, int]] = {}
    for entry in shards.manifest.shards:
        index = read_index(shards.root / entry.index_path)
        facts = zip(index.names, index.jpg_offset, index.jpg_size, strict=True)
        tar = shards.root / entry.path
        places |= {name: (tar, int(a), int(n)) for name, a, n in facts if name in wanted}

    def where(image_id: str) -> str:
        return f"{image_id} in {places[image_id][0]}"

    def read(image_id: str) -> bytes:
        tar, offset, size = places[image_id]
        try:
            with tar.open("rb") as file:
                file.seek(offset)
                return file.read(size)
        except OSError as error:
            raise DataError(f"cannot read {where(image_id)}: {error.strerror or error}") from error

    return Photographs(table.reset_index(drop=True), ("group",), read, where)
