"""Build shards: plan, pack, write the manifest.

- The plan (``make_plan``) says which image goes into which shard, before any image is read.
- The work (``pack.PackWork``) packs one shard, publishes it to a ``Store`` and leaves a receipt. It
  is picklable and can be repeated; the bytes are the same wherever it runs.
- The engine (``pack.Engine``) calls the work for every shard without a receipt:
  ``local_engine.run_here`` on this machine's cores, ``ray_engine.run_on_ray`` on a cluster.

``build`` skips shards that an interrupted build completed, and writes samples.csv and, last,
manifest.json from the receipts in the order of the plan. So neither the engine, nor the number of
workers, nor an interruption changes a byte.

    manifest = build(make_plan(source, flags), LocalStore(out), run_here(workers=0))
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from pipeline.errors import DataError
from pipeline.files import sha256, sha256_of
from pipeline.folders import is_clutter
from pipeline.ham10000.known_duplicates import OFFICIAL_TEST_PAIRS, SAME_LESION_PAIRS
from pipeline.ham10000.layouts.data_card import read_card
from pipeline.ham10000.names import IMAGE_ID
from pipeline.ham10000.source import Source
from pipeline.shards.flags import BuildFlags, SplitPolicy
from pipeline.shards.manifest import MANIFEST_NAME, SPLITS, TABLE_NAME, Manifest
from pipeline.shards.origin import licences
from pipeline.shards.origin.croissant import CROISSANT_NAME, croissant
from pipeline.shards.origin.own_split import crossings, in_words, with_splits
from pipeline.shards.packing.pack import RECEIPTS, Engine, PackWork, Receipt, completed
from pipeline.shards.packing.shard_plan import ShardPlan
from pipeline.shards.plan import LEFT_OUT, place, plan_shards
from pipeline.shards.splits import read_pairs
from pipeline.shards.storage.store import Store
from pipeline.shards.tables import table_bytes, write_tables

WORK_FOLDER = ".build"
"""Folder below OUT that exists while a build is unfinished."""

KEY_NAME = f"{WORK_FOLDER}/key.json"
"""What the unfinished build is made from; another build does not continue it."""


@dataclass(frozen=True)
class BuildPlan:
    """Which image goes into which shard."""

    source: Source
    """Table and images."""
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
            "listing_sha256": _digest_of_images(self.source, "size"),
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
        source |= licences.counts(self.placed.query("split != @LEFT_OUT"))
        encode = self.flags.images.describe()
        asked = {"source": source, "split": split, "encode": encode, "name": self.flags.name}
        if self.flags.data_card:
            asked["data_card"] = read_card(self.flags.data_card)
        return asked | {"taxonomy": self.source.taxonomy.describe()}


def make_plan(source: Source, flags: BuildFlags) -> BuildPlan:
    """Return the plan: a function of the source's table and the flags.

    Raises:
        DataError: flags that do not suit the source, an image id that cannot be packed, or too few
            images for the splits.
    """
    if flags.splits.test_fraction == 1:  # then all are the test split, whatever a table says
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
    if _official(source.table, flags).any():
        pairs += OFFICIAL_TEST_PAIRS
    added = read_pairs(flags.duplicates, image_ids) if flags.duplicates else ()
    pairs += added
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


def build(plan: BuildPlan, store: Store, engine: Engine, *, progress: bool = True) -> Manifest:
    """Pack the source of ``plan`` into ``store`` and return the manifest, the last file written.

    An interrupted build continues from the shards it completed; the manifest of a finished one is
    returned at once.

    Raises:
        DataError: an image is bad, the store cannot be written, or it holds something else.
    """
    asked, images = plan.describe(), plan.source.store
    manifest = _finished(store, asked)
    if manifest is None:
        with store.for_one():
            key = _claim(store, asked | {"stamps": _digest_of_images(plan.source, "stamp")})
            classes = plan.source.taxonomy.classes
            work = PackWork(images, store, plan.flags.images, plan.flags.on_bad_image, classes)
            receipts = _pack(work, plan.shards, engine, progress=progress)
            if store.read(KEY_NAME) != key:
                raise DataError(f"another build has begun in {store}: choose another --out")
            manifest = _publish(plan, store, receipts, asked)
    if plan.flags.croissant:
        header = (store.read(TABLE_NAME) or b"").partition(b"\n")[0].decode()
        store.publish(CROISSANT_NAME, croissant(manifest, header.split(",")))
    store.delete(WORK_FOLDER)
    return manifest


def _digest_of_images(source: Source, fact: str) -> str:
    """Return a digest over the size or the stamp (CRC-32 or mtime) of each image file."""
    locations = source.store.locations
    names = source.table["image_id"]
    return sha256(*(f"{name} {getattr(locations[name][0], fact)}\n".encode() for name in names))


def _finished(store: Store, asked: dict[str, Any]) -> Manifest | None:
    """Return the manifest in ``store`` if it is that of this very build."""
    data = store.read(MANIFEST_NAME)
    if data is None:
        return None
    manifest = Manifest.from_json(data, f"{store}/{MANIFEST_NAME}")
    found = {key: getattr(manifest, key) for key in asked}
    found["source"] = {key: manifest.source.get(key) for key in asked["source"]}
    differing = [key for key in asked if asked[key] != found[key]]
    if differing:
        raise DataError(
            f"{store} already holds finished shards made from another "
            f"{' and another '.join(differing)}: remove that folder or choose another --out"
        )
    return manifest


def _claim(store: Store, asked: dict[str, Any]) -> bytes:
    """Prepare ``store``: keep what the same build completed, remove another unfinished one.

    Returns:
        What the unfinished build is made from.
    """
    key = json.dumps(asked, sort_keys=True).encode()
    earlier = store.read(KEY_NAME)
    others = [name for name in store.sizes() if not any(map(is_clutter, name.split("/")))]
    if earlier is None and others:
        raise DataError(
            f"{store} holds files that are no shards ({others[0]}, {len(others)} in all): choose "
            f"an empty or a new folder for --out"
        )
    if earlier != key:
        if earlier is not None:
            for folder in (*SPLITS, RECEIPTS):
                store.delete(folder)
        store.publish(KEY_NAME, key)
    store.sweep()
    return key


def _pack(
    work: PackWork, shards: Sequence[ShardPlan], engine: Engine, *, progress: bool
) -> list[Receipt]:
    """Return the receipts of all shards in the order of the plan."""
    total = sum(len(shard.rows) for shard in shards)
    receipts: dict[str, Receipt] = {}
    with tqdm(total=total, unit="img", desc="packing", disable=not progress) as bar:
        for shard in shards:
            receipt = completed(work.store, shard)
            if receipt is not None:
                receipts[shard.path] = receipt
                bar.update(len(shard.rows))
        bar.initial = bar.n
        for receipt in engine(work, [shard for shard in shards if shard.path not in receipts]):
            receipts[receipt.entry.path] = receipt
            bar.update(receipt.entry.samples + len(receipt.rejected))
    return [receipts[shard.path] for shard in shards]


def _publish(
    plan: BuildPlan, store: Store, receipts: Sequence[Receipt], asked: dict[str, Any]
) -> Manifest:
    """Write the tables and the manifest."""
    folds = bool(plan.flags.splits.folds)
    missing, unpacked = plan.source.missing, plan.source.left_out
    written = write_tables(
        store, plan.placed, receipts, missing=missing, unpacked=unpacked, folds=folds
    )
    entries = tuple(receipt.entry for receipt in receipts if receipt.entry.samples)
    if not entries:
        raise DataError("no image is left to pack: every one was rejected (see rejected.csv)")
    counts = {name: sum(e.samples for e in entries if e.split == name) for name in SPLITS}
    counts["rejected"] = len(missing) + sum(len(receipt.rejected) for receipt in receipts)
    counts["converted"] = sum(len(receipt.converted) for receipt in receipts)
    read = sorted(pair for receipt in receipts for pair in receipt.sources)
    images = {
        "images_sha256": sha256(*(f"{name} {digest}\n".encode() for name, digest in read)),
        "images": len(plan.source.table),
    }
    manifest = Manifest(
        **asked | {"source": asked["source"] | images},
        labels=plan.source.labels,
        counts=counts,
        files=written,
        shards=entries,
    )
    store.publish(MANIFEST_NAME, manifest.to_json())
    return manifest
