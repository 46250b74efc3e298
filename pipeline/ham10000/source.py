"""What a ``--source`` folder holds: a table of images and where their bytes are.

source = open_source(Path("data/ham10000"))
source.table, source.store, source.kind
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from pipeline.ham10000.images import ImageStore, require_images
from pipeline.ham10000.metadata import read_metadata

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
    """Read and check the table of ``path`` and find the images.

    Raises:
        DataError: whatever keeps the folder from being used.
    """
    table = read_metadata(path)
    store = ImageStore(path)
    require_images(table["image_id"], store)
    return Source("ham10000", table.assign(official_test=False), store)
