"""Build shards: plan, pack, publish the manifest.

Three parts that know little of each other, so that each can be replaced:

- the plan (``plan.place``, ``plan.plan_shards``): which image goes into which shard; pure;
- the work (``pack.PackWork``): packs one ``ShardPlan`` and publishes it to a ``store.Store``,
  leaving a receipt; picklable, idempotent, the same bytes wherever it runs;
- the engine (``Engine``, below): calls the work for every shard that has no receipt yet and yields
  the receipts in any order. ``engine.run_here`` uses this machine's cores; a cluster's engine has
  the same signature, and another store only has to have ``LocalStore``'s methods.

``build`` joins them: it leaves out what a killed build completed, and writes samples.csv and, as
the last file, manifest.json from the receipts in the order of the plan. So neither the engine, nor
the number of workers, nor a kill can change a byte.

    python -m pipeline.shards build --source data/ham10000 --out shards/ham10000
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
from tqdm import tqdm

from pipeline.errors import DataError
from pipeline.ham10000.source import Source
from pipeline.shards import tables
from pipeline.shards.format import NAME
from pipeline.shards.manifest import MANIFEST_NAME, Manifest
from pipeline.shards.packing.encode import EncodeSettings
from pipeline.shards.packing.pack import PackWork, Receipt, completed, receipt_name
from pipeline.shards.packing.shard_plan import ShardPlan
from pipeline.shards.plan import SplitPolicy, place, plan_shards
from pipeline.shards.storage.store import Store

WORK_FOLDER = ".build"
"""Folder below OUT that exists while a build is unfinished."""

KEY_NAME = f"{WORK_FOLDER}/key.json"

Engine = Callable[[PackWork, Sequence[ShardPlan]], Iterator[Receipt]]
"""Yields the receipt of every shard given, in any order; raises what the work raises."""


@dataclass(frozen=True)
class BuildSettings:
    """What decides the bytes of the result, besides the source."""

    name: str
    """First part of every shard's file name."""
    policy: SplitPolicy
    """How images are dealt out."""
    encode: EncodeSettings
    """How image bytes are made."""
    samples_per_shard: int = 250
    """Most samples of one shard."""
    on_bad_image: Literal["error", "skip"] = "error"
    """Whether a bad image ends the build."""
    pairs: tuple[tuple[str, str], ...] = ()
    """Image ids that show one lesion under two ids."""
    pairs_sha256: str | None = None
    """Of the file that added pairs to the published ones, if one did."""

    def describe_split(self) -> dict[str, Any]:
        """Return what the manifest says of the splits."""
        return {
            "by": self.policy.by,
            "val_fraction": None if self.policy.folds else self.policy.val_fraction,
            "test_fraction": self.policy.test_fraction,
            "folds": self.policy.folds,
            "seed": self.policy.seed,
            "samples_per_shard": self.samples_per_shard,
            "on_bad_image": self.on_bad_image,
            "duplicates_sha256": self.pairs_sha256,
        }


@dataclass(frozen=True)
class BuildPlan:
    """Which image goes into which shard; known before any image is read."""

    placed: pd.DataFrame
    """The source's table with group, split and fold."""
    shards: tuple[ShardPlan, ...]
    """Every shard, in packing order."""


def make_plan(source: Source, settings: BuildSettings) -> BuildPlan:
    """Return the plan: a pure function of the source's table and the settings.

    Raises:
        DataError: an image id that cannot be packed, or too few images for the splits.
    """
    check_names(source)
    placed = place(source.table, settings.pairs, settings.policy, together=source.together)
    shards = plan_shards(
        placed,
        name=settings.name,
        samples_per_shard=settings.samples_per_shard,
        seed=settings.policy.seed,
    )
    return BuildPlan(placed, shards)


def build(
    plan: BuildPlan,
    source: Source,
    store: Store,
    settings: BuildSettings,
    engine: Engine,
    *,
    progress: bool = True,
) -> Manifest:
    """Pack ``source`` into ``store`` and return the manifest, the last file written.

    A build that was killed goes on from the shards it completed; one that is already finished is
    returned as it is.

    Raises:
        DataError: an image is bad, the store cannot be written, or it holds something else.
    """
    identity = _identity(source, settings)
    finished = _finished(store, identity, settings)
    if finished:
        return finished
    _claim(store, {"source": identity, "stamps": _stamps(source)} | _flags(settings))
    work = PackWork(source.store, store, settings.encode, settings.on_bad_image)
    receipts = _pack(work, plan.shards, engine, progress=progress)
    manifest = _publish(source, store, settings, plan.placed, receipts, identity)
    store.delete(WORK_FOLDER)
    return manifest


def check_names(source: Source) -> None:
    """Refuse image ids that cannot be the name of a tar member."""
    wrong = [name for name in source.table["image_id"] if not NAME.fullmatch(name)]
    if wrong:
        raise DataError(
            f"{len(wrong)} image ids cannot be packed, the first is {wrong[0]!r}: expected up to "
            f"80 letters, digits, '-' and '_' (no dot, space or slash); rename those images"
        )


def _identity(source: Source, settings: BuildSettings) -> dict[str, Any]:
    """Return what a finished set of shards must agree with to be the one asked for."""
    table = source.table.to_csv(index=False, lineterminator="\n").encode()
    locations = source.store.locations
    listing = "".join(f"{name} {locations[name].size}\n" for name in source.table["image_id"])
    return {
        "kind": source.kind,
        "table_sha256": hashlib.sha256(table).hexdigest(),
        "listing_sha256": hashlib.sha256(listing.encode()).hexdigest(),
        "pairs_sha256": hashlib.sha256(json.dumps(sorted(settings.pairs)).encode()).hexdigest(),
    }


def _stamps(source: Source) -> str:
    """Return a digest that changes when an image is written anew (CRC-32 or mtime)."""
    locations = source.store.locations
    stamps = "".join(f"{name} {locations[name].stamp}\n" for name in source.table["image_id"])
    return hashlib.sha256(stamps.encode()).hexdigest()


def _finished(store: Store, identity: dict[str, Any], settings: BuildSettings) -> Manifest | None:
    """Return the manifest in ``store`` if it is that of this very build."""
    data = store.read(MANIFEST_NAME)
    if data is None:
        return None
    manifest = Manifest.from_json(data, f"{store.describe()}/{MANIFEST_NAME}")
    found = {
        "source": {key: manifest.source.get(key) for key in identity},
        "split": manifest.split,
        "encode": manifest.encode,
        "name": manifest.name,
    }
    asked = {"source": identity} | _flags(settings)
    differing = [key for key in asked if asked[key] != found[key]]
    if differing:
        raise DataError(
            f"{store.describe()} already holds finished shards made from another "
            f"{' and another '.join(differing)}: remove that folder or choose another --out"
        )
    store.delete(WORK_FOLDER)
    return manifest


def _flags(settings: BuildSettings) -> dict[str, Any]:
    """Return what the flags decide of the bytes."""
    return {
        "split": settings.describe_split(),
        "encode": settings.encode.describe(),
        "name": settings.name,
    }


def _claim(store: Store, build_key: dict[str, Any]) -> None:
    """Make ``store`` ready: go on from the same build, clear away another unfinished one."""
    key = json.dumps(build_key, sort_keys=True).encode()
    earlier = store.read(KEY_NAME)
    if earlier is None and (strange := store.list()):
        raise DataError(
            f"{store.describe()} holds files that are no shards ({strange[0]}, "
            f"{len(strange)} in all): choose an empty or a new folder for --out"
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
                receipts[receipt_name(shard.path)] = receipt
                bar.update(len(shard.rows))
        rest = [shard for shard in shards if receipt_name(shard.path) not in receipts]
        bar.initial = bar.n
        for receipt in engine(work, rest):
            receipts[receipt_name(receipt.entry.path)] = receipt
            bar.update(receipt.entry.samples + len(receipt.rejected))
    return [receipts[receipt_name(shard.path)] for shard in shards]


def _publish(
    source: Source,
    store: Store,
    settings: BuildSettings,
    placed: pd.DataFrame,
    receipts: Sequence[Receipt],
    identity: dict[str, Any],
) -> Manifest:
    """Write the tables and the manifest."""
    written = tables.write_tables(store, placed, receipts, folds=bool(settings.policy.folds))
    sources = sorted(pair for receipt in receipts for pair in receipt.sources)
    digest = hashlib.sha256("".join(f"{name} {sha}\n" for name, sha in sources).encode())
    entries = tuple(receipt.entry for receipt in receipts if receipt.entry.samples)
    manifest = Manifest(
        name=settings.name,
        labels=source.labels,
        source=identity | {"images_sha256": digest.hexdigest(), "images": len(source.table)},
        split=settings.describe_split(),
        encode=settings.encode.describe(),
        counts={
            split: sum(entry.samples for entry in entries if entry.split == split)
            for split in ("train", "val", "test")
        }
        | {
            "rejected": sum(len(receipt.rejected) for receipt in receipts),
            "converted": sum(len(receipt.converted) for receipt in receipts),
        },
        files=written,
        shards=entries,
    )
    if not entries:
        raise DataError("no image is left to pack: every one was rejected (see rejected.csv)")
    store.publish(MANIFEST_NAME, manifest.to_json())
    return manifest
