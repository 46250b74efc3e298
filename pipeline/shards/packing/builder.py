"""Build shards: plan, pack, write the manifest.

- The plan (``make_plan``) says which image goes into which shard, before any image is read.
- The work (``pack.PackWork``) packs one shard, publishes it to a ``Store`` and leaves a receipt. It
  is picklable and can be repeated; the bytes are the same wherever it runs.
- The engine (``pack.Engine``) calls the work for every shard without a receipt:
  ``local_engine.run_here`` on this machine's cores, ``ray_engine.run_on_ray`` on a cluster.

``build`` joins them. It skips shards that an interrupted build completed, and writes samples.csv
and, as the last file, manifest.json from the receipts in the order of the plan. So neither the
engine, nor the number of workers, nor an interruption changes a byte.

    manifest = build(make_plan(source, settings), LocalStore(out), run_here(workers=0))
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from tqdm import tqdm

from pipeline.errors import DataError
from pipeline.files import sha256
from pipeline.ham10000.source import Source
from pipeline.shards.flags import SplitPolicy
from pipeline.shards.format import IMAGE_ID
from pipeline.shards.manifest import MANIFEST_NAME, SPLITS, Manifest
from pipeline.shards.packing.pack import Engine, PackWork, Receipt, completed
from pipeline.shards.packing.shard_plan import EncodeSettings, OnBadImage, ShardPlan
from pipeline.shards.plan import place, plan_shards
from pipeline.shards.storage.store import Store
from pipeline.shards.tables import table_bytes, write_tables

WORK_FOLDER = ".build"
"""Folder below OUT that exists while a build is unfinished."""

KEY_NAME = f"{WORK_FOLDER}/key.json"
"""What the unfinished build is made from; another build does not continue it."""


@dataclass(frozen=True)
class BuildSettings:
    """What decides the bytes of the result, besides the source."""

    name: str
    """First part of every shard's file name."""
    splits: SplitPolicy
    """Which images go into which split."""
    encode: EncodeSettings
    """How image bytes are made."""
    samples_per_shard: int = 250
    """Most samples of one shard."""
    on_bad_image: OnBadImage = "error"
    """Whether a bad image ends the build."""
    pairs: tuple[tuple[str, str], ...] = ()
    """Image ids that show one lesion under two ids."""
    pairs_sha256: str | None = None
    """Of the table that added pairs to the published ones, if one did."""

    def describe(self) -> dict[str, Any]:
        """Return what the manifest says of it, by the manifest's key."""
        split = {
            "by": self.splits.split_by,
            "val_fraction": None if self.splits.folds else self.splits.val_fraction,
            "test_fraction": self.splits.test_share(),
            "folds": self.splits.folds,
            "seed": self.splits.seed,
            "samples_per_shard": self.samples_per_shard,
            "on_bad_image": self.on_bad_image,
            "duplicates_sha256": self.pairs_sha256,
        }
        return {"split": split, "encode": self.encode.describe(), "name": self.name}


@dataclass(frozen=True)
class BuildPlan:
    """Which image goes into which shard."""

    source: Source
    """Table and images."""
    settings: BuildSettings
    """How they are packed."""
    placed: pd.DataFrame
    """The source's table with group, split and fold."""
    shards: tuple[ShardPlan, ...]
    """Every shard, in packing order."""


def make_plan(source: Source, settings: BuildSettings) -> BuildPlan:
    """Return the plan: a function of the source's table and the settings.

    Raises:
        DataError: an image id that cannot be packed, or too few images for the splits.
    """
    wrong = [name for name in source.table["image_id"] if not IMAGE_ID.fullmatch(name)]
    if wrong:
        raise DataError(
            f"{len(wrong)} image ids cannot be packed, the first is {wrong[0]!r}: expected up to "
            f"80 letters, digits, '-' and '_' (no dot, space or slash); rename those images"
        )
    placed = place(source.table, settings.pairs, settings.splits, together=source.together)
    shards = plan_shards(
        placed,
        name=settings.name,
        samples_per_shard=settings.samples_per_shard,
        seed=settings.splits.seed,
    )
    return BuildPlan(source, settings, placed, shards)


def build(plan: BuildPlan, store: Store, engine: Engine, *, progress: bool = True) -> Manifest:
    """Pack the source of ``plan`` into ``store`` and return the manifest, the last file written.

    An interrupted build continues from the shards it completed; the manifest of a finished one is
    returned at once.

    Raises:
        DataError: an image is bad, the store cannot be written, or it holds something else.
    """
    source, settings = plan.source, plan.settings
    asked = {"source": _identity(plan)} | settings.describe()
    manifest = _finished(store, asked)
    if manifest is None:
        _claim(store, asked | {"stamps": _digest_of_images(source, "stamp")})
        work = PackWork(source.store, store, settings.encode, settings.on_bad_image)
        receipts = _pack(work, plan.shards, engine, progress=progress)
        manifest = _publish(plan, store, receipts, asked)
    store.delete(WORK_FOLDER)
    return manifest


def _identity(plan: BuildPlan) -> dict[str, Any]:
    """Return what a finished set of shards must agree with to be the one asked for."""
    pairs = json.dumps(sorted(plan.settings.pairs)).encode()
    return {
        "kind": plan.source.kind,
        "table_sha256": sha256(table_bytes(plan.source.table)),
        "listing_sha256": _digest_of_images(plan.source, "size"),
        "pairs_sha256": sha256(pairs),
    }


def _digest_of_images(source: Source, fact: str) -> str:
    """Return a digest over the size or the stamp (CRC-32 or mtime) of each image file."""
    locations = source.store.locations
    names = source.table["image_id"]
    return sha256(*(f"{name} {getattr(locations[name], fact)}\n".encode() for name in names))


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


def _claim(store: Store, asked: dict[str, Any]) -> None:
    """Prepare ``store``: keep what the same build completed, remove another unfinished one."""
    key = json.dumps(asked, sort_keys=True).encode()
    earlier = store.read(KEY_NAME)
    if earlier is None and (others := store.list()):
        raise DataError(
            f"{store} holds files that are no shards ({others[0]}, {len(others)} in all): choose "
            f"an empty or a new folder for --out"
        )
    if earlier is not None and earlier != key:
        for name in store.list(WORK_FOLDER):
            _withdraw(store, name)
    if earlier != key:
        store.publish(KEY_NAME, key)
    store.sweep()


def _withdraw(store: Store, receipt: str) -> None:
    """Remove the shard of a receipt that another build left, then the receipt."""
    data = store.read(receipt)
    if receipt != KEY_NAME and data is not None:
        entry = Receipt.from_json(data).entry
        store.delete(entry.path)
        store.delete(entry.index_path)
    store.delete(receipt)


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
    folds = bool(plan.settings.splits.folds)
    written = write_tables(store, plan.placed, receipts, folds=folds)
    entries = tuple(receipt.entry for receipt in receipts if receipt.entry.samples)
    if not entries:
        raise DataError("no image is left to pack: every one was rejected (see rejected.csv)")
    counts = {name: sum(e.samples for e in entries if e.split == name) for name in SPLITS}
    counts["rejected"] = sum(len(receipt.rejected) for receipt in receipts)
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
