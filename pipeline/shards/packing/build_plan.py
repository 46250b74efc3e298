"""The plan of a build: which image goes into which shard, and what the manifest will say of it.

    plan = make_plan(source, flags)
    plan.shards, plan.describe()

It is a function of the source's table and the flags; only with ``--base`` are images read.
"""

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from pipeline.errors import DataError
from pipeline.files import sha256, sha256_of
from pipeline.ham10000.known_duplicates import OFFICIAL_TEST_PAIRS, SAME_LESION_PAIRS
from pipeline.ham10000.layouts.data_card import read_card
from pipeline.ham10000.names import IMAGE_ID
from pipeline.ham10000.source import Source
from pipeline.shards.flags import BuildFlags, SplitPolicy
from pipeline.shards.origin import licences
from pipeline.shards.origin.admission import admit
from pipeline.shards.origin.base import Base
from pipeline.shards.origin.own_split import crossings, in_words, with_splits
from pipeline.shards.packing.shard_plan import ShardPlan
from pipeline.shards.plan import LEFT_OUT, WHERE_FROM, place, plan_shards
from pipeline.shards.splits import read_pairs
from pipeline.shards.tables import table_bytes


@dataclass(frozen=True)
class BuildPlan:
    """Which image goes into which shard."""

    source: Source
    flags: BuildFlags
    """Of the command, with defaults that suit the source."""
    pairs: tuple[tuple[str, str], ...]
    """Image ids that show one lesion: the published pairs, then those of --duplicates."""
    placed: pd.DataFrame
    """The source's table with group, split and fold."""
    shards: tuple[ShardPlan, ...]
    """Every shard, in packing order."""
    crossing: dict[str, Any] | None = None
    """Names of what crosses a split of one's own; None where build makes the splits."""
    added_pairs: int = 0
    """How many of the pairs are from --duplicates."""
    base: Base | None = None

    @property
    def official_test(self) -> dict[str, int]:
        """Images and groups of the official test set, training images left out; {} without it."""
        groups = self.placed.loc[_official(self.placed, self.flags), "group"].tolist()
        left_out = self.placed["split"].tolist().count(LEFT_OUT)
        counts = {"images": len(groups), "groups": len(set(groups)), "left_out": left_out}
        return counts if groups else {}

    def describe(self) -> dict[str, Any]:
        """Return what a set of shards from this plan has in its manifest, before any is packed."""
        source: dict[str, Any] = {
            "kind": self.source.kind,
            "table_sha256": sha256(table_bytes(self.source.table)),
            "listing_sha256": digest_of_images(self.source, "size"),
            "pairs_sha256": sha256(json.dumps(sorted(self.pairs)).encode()),
        }
        splits, duplicates = self.flags.splits, self.flags.duplicates
        split = {
            "by": splits.split_by if self.crossing is None else "table",
            "val_fraction": None if splits.folds else splits.val_fraction,
            "test_fraction": splits.test_share(),
            "folds": splits.folds,
            "seed": splits.seed,
            "samples_per_shard": self.flags.samples_per_shard,
            "on_bad_image": self.flags.on_bad_image,
            "duplicates_sha256": sha256_of(duplicates) if duplicates else None,
            **({} if self.crossing is None else {"crossing": self.crossing}),
        }
        if self.official_test:
            source["official_test"] = self.official_test
        if self.flags.test_source:
            source["test_source"] = self.flags.test_source
        packed = self.placed.query("split != @LEFT_OUT")
        if self.base:
            old = self.base.shards.manifest
            facts = ("official_test", "test_source")
            source |= {key: old.source[key] for key in facts if key in old.source}
            own = ("samples_per_shard", "on_bad_image", "duplicates_sha256")
            split = old.split | {key: split[key] for key in own}
            packed = pd.concat([self.base.samples, packed]).filter(WHERE_FROM).fillna("")
        source |= licences.counts(packed)
        encode = self.flags.images.describe()
        asked = {"source": source, "split": split, "encode": encode, "name": self.flags.name}
        if self.flags.data_card:
            asked["data_card"] = read_card(self.flags.data_card)
        if self.base:
            asked["base"] = self.base.describe(self.source)
            asked.setdefault("data_card", self.base.card())
        return asked | {"taxonomy": self.source.taxonomy.describe()}


def make_plan(source: Source, flags: BuildFlags, base: Base | None = None) -> BuildPlan:
    """Return the plan, a function of source and flags; what does not suit is a DataError."""
    if base:
        base.require_alike(source)
    elif flags.splits.test_fraction == 1:  # then all are the test split, whatever a table says
        source = replace(source, table=source.table.drop(columns="split", errors="ignore"))
    else:
        source = with_splits(source, flags.splits.splits)
    image_ids = set(source.table["image_id"])
    wrong = sorted(name for name in image_ids if not IMAGE_ID.fullmatch(name))
    if wrong:
        raise DataError(
            f"{len(wrong)} image ids cannot be packed, the first is {wrong[0]!r}: expected up to "
            f"80 letters, digits, '-' and '_' (no dot, space or slash); rename those images"
        )
    pairs = SAME_LESION_PAIRS + source.pairs
    if _official(source.table, flags).any() or (base and base.official):
        pairs += OFFICIAL_TEST_PAIRS
    known = image_ids.union(base.samples["image_id"] if base else ())
    added = read_pairs(flags.duplicates, known) if flags.duplicates else ()
    pairs += added
    if base:
        base, source, placed = admit(base, source, pairs)
        how = {"seed": flags.splits.seed, "first": base.first_free()}
        shards = plan_shards(placed, flags.name or "", flags.samples_per_shard, **how)
        return BuildPlan(source, flags, pairs, placed, shards, added_pairs=len(added), base=base)
    name, splits = flags.name or source.kind, _splits(flags, source)
    placed = place(source.table, pairs, splits, together=source.together)
    shards = plan_shards(placed, name, flags.samples_per_shard, seed=splits.seed)
    crossing = None
    if "split" in source.table:
        crossing = crossings(placed.query("split != @LEFT_OUT"), source.together, pairs)
        if crossing["groups"] and not splits.allow_crossing:
            raise DataError(
                f"the split leaks: images of one lesion or patient are in more than one of its "
                f"parts: {in_words(crossing)}; correct it, or pack it as it is with "
                f"--allow-crossing (the manifest, verify and every report then say so)"
            )
    flags = replace(flags, name=name, splits=splits)
    return BuildPlan(source, flags, pairs, placed, shards, crossing, len(added))


def _official(table: pd.DataFrame, flags: BuildFlags) -> np.ndarray:
    """Return which rows are of the official test set, ``[n] bool``."""
    official = table["official_test"].to_numpy(dtype=bool)
    return official & (table["source"] != flags.test_source) if flags.test_source else official


def _splits(flags: BuildFlags, source: Source) -> SplitPolicy:
    """Return the policy with its share of test images."""
    asked = flags.splits
    if "split" in source.table:
        if asked.folds or asked.test_fraction is not None or asked.split_by != "lesion":
            raise DataError(
                f"{asked.splits or 'the column split of the table'} makes the splits: leave "
                f"--folds, --test-fraction and --split-by out, or that table"
            )
        return replace(asked, test_fraction=0.0)
    if not source.table["official_test"].to_numpy().any():
        return replace(flags.splits, test_fraction=flags.splits.test_share())
    if flags.splits.test_fraction:
        held = flags.test_source and f"--test-source {flags.test_source}"
        test = held or "the official test set, which the source holds"
        raise DataError(
            f"the test split is {test}: leave --test-fraction {flags.splits.test_fraction} out, or "
            f"that test set"
        )
    return replace(flags.splits, test_fraction=0.0)


def digest_of_images(source: Source, fact: str) -> str:
    """Return a digest over the size or the stamp (CRC-32 or mtime) of each image file."""
    locations = source.store.locations
    names = source.table["image_id"]
    return sha256(*(f"{name} {getattr(locations[name][0], fact)}\n".encode() for name in names))
