"""The plan: which image goes into which shard, at which place; a function of table and flags.

    placed = place(table, pairs, SplitPolicy())
    shards = plan_shards(placed, "ham10000", 250, seed=0)

No image is read here, so the plan is the same on one machine and on a cluster, before and after an
interruption. An image found to be bad while packing is left out of its shard; no other image moves.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from pipeline.errors import DataError
from pipeline.ham10000.metadata import COLUMNS
from pipeline.shards.flags import SplitPolicy
from pipeline.shards.manifest import SPLITS
from pipeline.shards.packing.shard_plan import ShardPlan
from pipeline.shards.splits import assign, find_groups, shuffle_key

TABLE_COLUMNS: tuple[str, ...] = (
    *("image_id", "lesion_id", "group", "dx", "label", "split", "shard"),
    *("age", "sex", "localization", "dx_type"),
)
"""Columns of samples.csv; with folds, ``fold`` follows ``split``."""

WHERE_FROM: tuple[str, ...] = ("source", "copyright_license", "attribution")
"""Columns that follow where flags of build ask for them."""

FILE_NAME = "file_name"
"""Last column of samples.csv where an image id is not its file's name: the name in the source."""

SKIN_TONE = "skin_tone"
"""Column of samples.csv after ``TABLE_COLUMNS`` where the source has it: its own scale, as text."""

LEFT_OUT = "left_out"
"""The ``split`` of images that are not packed, as they show a lesion of the test set."""


def place(
    table: pd.DataFrame,
    pairs: Iterable[tuple[str, str]],
    policy: SplitPolicy,
    *,
    together: tuple[str, ...] = ("lesion_id",),
) -> pd.DataFrame:
    """Return ``table`` with the columns group, split and fold (-1 = in none).

    A column ``split`` of ``table`` is kept; where it has no val, ``val_fraction`` of train is that.
    Rows whose column ``official_test`` is true become the test split. One group are ``pairs`` of
    image ids, and rows with an equal value in a column of ``together``.
    """
    placed = table.copy()
    placed["group"] = find_groups(placed, pairs, by=together)
    own = placed.get("split")
    placed["split"] = "test"
    placed["fold"] = -1
    official = placed["official_test"]
    if policy.split_by == "lesion":
        known = list(placed.loc[official, "group"])
        placed.loc[~official & placed["group"].isin(known), "split"] = LEFT_OUT
    free = pd.DataFrame(placed[~official & (placed["split"] != LEFT_OUT)])
    fractions = policy.fractions()
    if own is not None and policy.test_fraction != 1:
        placed.loc[free.index, "split"] = own
        if "val" in set(own[free.index]):
            return placed
        free = pd.DataFrame(free[own[free.index] == "train"])
        fractions = {"train": 1 - policy.val_fraction, "val": policy.val_fraction}
    units = pd.Series(free["group" if policy.split_by == "lesion" else "image_id"])
    part = assign(free, units, fractions, seed=policy.seed)
    if "0" in fractions:
        placed.loc[free.index, "split"] = part.where(part == "test", "train")
        placed.loc[free.index, "fold"] = part.where(part != "test", "-1").astype(int)
    else:
        placed.loc[free.index, "split"] = part
    _require_every_part(part, fractions, len(free))
    return placed


def _require_every_part(part: pd.Series, fractions: dict[str, float], images: int) -> None:
    """Raise a ``DataError`` if a split or fold that was asked for got no image."""
    if not images:
        return
    empty = [n for n, share in fractions.items() if share > 0 and not (part == n).any()]
    if empty:
        raise DataError(
            f"{images} images are too few: no group of images is left for {', '.join(empty)}; "
            f"ask for fewer parts (--val-fraction 0, --test-fraction 0) or bring more images"
        )


def part_of(table: pd.DataFrame) -> list[str]:
    """Return each row's split, or with folds its fold or ``test``: parts that share no lesion."""
    if "fold" not in table.columns:
        return list(table["split"])
    parts = zip(table["split"], table["fold"], strict=True)
    return [f"fold {fold}" if fold >= 0 else split for split, fold in parts]


def plan_shards(
    placed: pd.DataFrame, name: str, samples_per_shard: int, *, seed: int, first: int = 0
) -> tuple[ShardPlan, ...]:
    """Cut what ``place`` returned into shards: shuffled, of nearly equal size, one fold each.

    ``first`` is the number of the first train shard.
    """
    if samples_per_shard < 1:
        raise DataError(f"--samples-per-shard is {samples_per_shard}; expected at least 1")
    plans: list[ShardPlan] = []
    for split in SPLITS:
        number = first if split == "train" else 0
        for fold in sorted(set(placed.loc[placed["split"] == split, "fold"])):
            part = placed.query("split == @split and fold == @fold")
            rows = metadata_rows(part)
            rows.sort(key=lambda row: shuffle_key(seed, "order", row["image_id"]))
            for chunk in _even_chunks(rows, samples_per_shard):
                path = f"{split}/{name}-{split}-{number:06d}.tar"
                plans.append(ShardPlan(path, split, None if fold < 0 else int(fold), chunk))
                number += 1
    return tuple(plans)


def metadata_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return what each row's ``.json`` holds (``metadata.COLUMNS``; None where missing)."""
    columns = [table[name].astype(object).where(table[name].notna(), None) for name in COLUMNS]
    return [dict(zip(COLUMNS, row, strict=True)) for row in zip(*columns, strict=True)]


def _even_chunks(rows: list[dict[str, Any]], most: int) -> Iterator[tuple[dict[str, Any], ...]]:
    """Yield consecutive chunks of at most ``most`` rows whose sizes differ by at most one."""
    chunks = math.ceil(len(rows) / most)
    borders = [len(rows) * number // chunks for number in range(chunks + 1)]
    for start, stop in itertools.pairwise(borders):
        yield tuple(rows[start:stop])
