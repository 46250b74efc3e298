"""Which images belong together, and which split each goes into.

    groups = find_groups(table, pairs)
    split = assign(table, groups, {"train": 0.65, "val": 0.2, "test": 0.15}, seed=0)

A group is a connected component over everything that says "the same lesion" (or patient): equal
ids, the published pairs, a table of duplicates. Groups are never divided. Within a stratum (dx, and
whether the group has several images) each group goes to the split that is furthest below its
share, so every stratum and the whole come within about a group of the fractions asked for. The
order comes from a hash of the seed and the name, not from a random generator that a library may
change: the same seed always gives the same splits.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.errors import DataError
from pipeline.ham10000.tables import read_table, require_columns

PAIR_COLUMNS: tuple[str, ...] = ("image_id_a", "image_id_b", "score")
"""Columns of a table of duplicates; further ones are ignored."""


def read_pairs(path: Path, image_ids: Collection[str]) -> tuple[tuple[str, str], ...]:
    """Return the pairs of a table of duplicates; an id not in ``image_ids`` is a DataError."""
    if not path.is_file():
        raise DataError(f"no such file: {path}; --duplicates is a table of {PAIR_COLUMNS}")
    table = read_table(path)
    require_columns(table, PAIR_COLUMNS, path)
    pairs = tuple(zip(table["image_id_a"], table["image_id_b"], strict=True))
    for row, pair in enumerate(pairs):
        unknown = [name for name in pair if name not in image_ids]
        if unknown:
            raise DataError(
                f"{path}, line {row + 2}: the source has no image {unknown[0]!r}; the pairs must "
                f"have been found in the same source"
            )
    return pairs


def shuffle_key(seed: int, purpose: str, name: str) -> bytes:
    """Return a key by which sorting ``name`` among others shuffles, the same everywhere."""
    return hashlib.sha256(f"{seed}:{purpose}:{name}".encode()).digest()


def find_groups(
    table: pd.DataFrame, pairs: Iterable[tuple[str, str]], *, by: Sequence[str] = ("lesion_id",)
) -> pd.Series:
    """Return the group of each row of ``table``, named by the smallest lesion_id in it.

    An equal value in a column of ``by`` joins rows, an empty one nothing. ``pairs`` are image ids
    that show the same lesion; those with an unknown id are ignored.
    """
    row_of = {image_id: row for row, image_id in enumerate(table["image_id"])}
    links = [(row_of[a], row_of[b]) for a, b in pairs if a in row_of and b in row_of]
    for column in by:
        first: dict[str, int] = {}
        rows = enumerate(table[column])
        links += [(row, first.setdefault(value, row)) for row, value in rows if value]
    ends, size = np.array(links, dtype=np.int64).reshape(-1, 2).T, (len(table), len(table))
    graph = coo_array((np.ones(len(links)), (ends[0], ends[1])), size)
    place, lesions = pd.factorize(table["lesion_id"], sort=True)
    smallest = pd.Series(place).groupby(connected_components(graph)[1]).transform("min")
    return pd.Series(np.asarray(lesions)[smallest], index=table.index, dtype=str)


def largest_group(placed: pd.DataFrame) -> str:
    """Return a sentence on the group with most images."""
    group, images = Counter(placed["group"]).most_common(1)[0]
    lesions = sorted(set(placed.loc[placed["group"] == group, "lesion_id"]))
    named = ", ".join(lesions[:6]) + (", ..." if len(lesions) > 6 else "")
    return f"the largest group has {images} images of {len(lesions)} lesion ids ({named})"


def assign(
    table: pd.DataFrame, units: pd.Series, fractions: Mapping[str, float], *, seed: int
) -> pd.Series:
    """Return a key of ``fractions`` for each row of ``table``, which has image_id and dx.

    Rows of one unit (per row: the group, or the image itself) get the same. ``fractions`` are
    shares of all images by split (they sum to 1); a share of 0 stays empty. ``seed`` decides the
    order among units of equal rank.
    """
    names = [name for name, share in fractions.items() if share > 0]
    share = np.array([fractions[name] for name in names])
    assigned = np.zeros(len(names))
    dealt = 0
    choice: dict[str, str] = {}
    for unit, size in _deal_order(table, units, seed):
        dealt += size
        best = int(np.argmax(share * dealt - assigned))
        assigned[best] += size
        choice[unit] = names[best]
    return units.map(choice)


def _deal_order(table: pd.DataFrame, units: pd.Series, seed: int) -> list[tuple[str, int]]:
    """Return units with their sizes: stratum by stratum, large ones first, else shuffled."""
    members: dict[str, list[str]] = {}
    for unit, dx in zip(units, table["dx"], strict=True):
        members.setdefault(unit, []).append(dx)

    def rank(unit: str) -> tuple[str, bool, int, bytes]:
        size = len(members[unit])
        main_dx = max(sorted(set(members[unit])), key=members[unit].count)  # the first in a tie
        return main_dx, size > 1, -size, shuffle_key(seed, "split", unit)

    return [(unit, len(members[unit])) for unit in sorted(members, key=rank)]


def crossing(units: Iterable[str], splits: Iterable[str]) -> list[str]:
    """Return the values of ``units`` that occur in more than one split, sorted."""
    first: dict[str, str] = {}
    pairs = zip(units, splits, strict=True)
    return sorted({unit for unit, split in pairs if first.setdefault(unit, split) != split})


def crossing_pairs(
    image_ids: Iterable[str], splits: Iterable[str], pairs: Iterable[tuple[str, str]]
) -> list[tuple[str, str]]:
    """Return the pairs of image ids whose two images lie in different splits."""
    split = dict(zip(image_ids, splits, strict=True))
    return [(a, b) for a, b in pairs if a in split and b in split and split[a] != split[b]]
