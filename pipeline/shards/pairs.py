"""Pairs of images of one lesion that a person or a program found: ``image_id_a,image_id_b,score``.

``python -m pipeline.shards duplicates`` writes such a file, ``build --duplicates`` reads it.
"""

from collections import Counter
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from pipeline.errors import DataError
from pipeline.ham10000.metadata import read_table, require_columns

PAIR_COLUMNS: tuple[str, ...] = ("image_id_a", "image_id_b", "score")
"""Columns of a file of pairs; further ones are ignored."""


def read_pairs(path: Path, image_ids: Collection[str]) -> tuple[tuple[str, str], ...]:
    """Return the pairs in ``path``; every image id must be one of ``image_ids``.

    Raises:
        DataError: no such file, a missing column, or an id that the source does not have.
    """
    if not path.is_file():
        raise DataError(f"no such file: {path}; --duplicates is a table of {PAIR_COLUMNS}")
    table = read_table(path)
    require_columns(table, PAIR_COLUMNS, path)
    pairs = tuple(zip(table["image_id_a"], table["image_id_b"], strict=True))
    known = set(image_ids)
    for row, pair in enumerate(pairs):
        strange = [name for name in pair if name not in known]
        if strange:
            raise DataError(
                f"{path}, line {row + 2}: the source has no image {strange[0]!r}; the pairs must "
                f"have been found in the same source"
            )
    return pairs


def largest_component(placed: pd.DataFrame) -> str:
    """Return a sentence on the group with most images."""
    group, images = Counter(placed["group"]).most_common(1)[0]
    lesions = sorted(set(placed.loc[placed["group"] == group, "lesion_id"]))
    named = ", ".join(lesions[:6]) + (", ..." if len(lesions) > 6 else "")
    return f"the largest group has {images} images of {len(lesions)} lesion ids ({named})"
