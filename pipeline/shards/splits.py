"""Which images belong together, and which split each lands in: pure functions of the table.

A group is a connected component over everything that says "the same lesion" (or patient): equal
ids, the published pairs, a list of duplicates. Groups are never divided. Within a stratum (dx, and
whether the group has several images) they are dealt out one by one to the split that is furthest
below its share, so every stratum and the whole come within about a group of the fractions asked
for. Order comes from a hash of the seed and the name, not from a generator whose stream a library
may change: the same seed gives the same splits, forever.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from pipeline.ham10000.taxonomy import DX


def shuffle_key(seed: int, purpose: str, name: str) -> bytes:
    """Return a key by which sorting ``name`` among others shuffles, the same everywhere."""
    return hashlib.sha256(f"{seed}:{purpose}:{name}".encode()).digest()


def find_groups(
    table: pd.DataFrame, pairs: Iterable[tuple[str, str]], *, by: Sequence[str] = ("lesion_id",)
) -> pd.Series:
    """Return the group of each row, named by the smallest lesion_id in it.

    Args:
        table: has image_id, lesion_id and the columns ``by``; an empty value joins nothing.
        pairs: image ids that show the same lesion; pairs with an unknown id are ignored.
        by: columns of which an equal value means "together".
    """
    parent = list(range(len(table)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]  # halves the path for whoever comes next
            row = parent[row]
        return row

    row_of = {image_id: row for row, image_id in enumerate(table["image_id"])}
    for a, b in pairs:
        if a in row_of and b in row_of:
            parent[root(row_of[a])] = root(row_of[b])
    for column in by:
        first: dict[str, int] = {}
        for row, value in enumerate(table[column]):
            if value:
                parent[root(row)] = root(first.setdefault(value, row))
    component = [root(row) for row in range(len(table))]
    smallest: dict[int, str] = {}
    for number, lesion in zip(component, table["lesion_id"], strict=True):
        smallest[number] = min(lesion, smallest.get(number, lesion))
    return pd.Series([smallest[number] for number in component], index=table.index, dtype=str)


def assign(
    table: pd.DataFrame, units: pd.Series, fractions: Mapping[str, float], *, seed: int
) -> pd.Series:
    """Return a key of ``fractions`` for each row; rows of one unit get the same.

    Args:
        table: has image_id and dx.
        units: what is never divided, per row: the group, or the image itself.
        fractions: share of all images by split (they sum to 1); a share of 0 stays empty.
        seed: another seed, another choice among equals.
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

    def rank(unit: str) -> tuple[int, bool, int, bytes]:
        size = len(members[unit])
        return _main_dx(members[unit]), size > 1, -size, shuffle_key(seed, "split", unit)

    return [(unit, len(members[unit])) for unit in sorted(members, key=rank)]


def _main_dx(diagnoses: list[str]) -> int:
    """Return the index of the most frequent dx, the first in taxonomy order in a tie."""
    count = Counter(diagnoses)
    return max(range(len(DX)), key=lambda index: (count[DX[index]], -index))


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
