"""Build shards: plan, pack, write the manifest.

- The plan (``build_plan.make_plan``) says which image goes into which shard, before any is packed.
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
from typing import Any

from tqdm import tqdm

from pipeline.errors import DataError
from pipeline.files import sha256
from pipeline.folders import is_clutter
from pipeline.shards.manifest import MANIFEST_NAME, SPLITS, TABLE_NAME, Manifest
from pipeline.shards.origin.croissant import CROISSANT_NAME, croissant
from pipeline.shards.packing.build_plan import BuildPlan, digest_of_images
from pipeline.shards.packing.pack import RECEIPTS, Engine, PackWork, Receipt, completed
from pipeline.shards.packing.shard_plan import ShardPlan
from pipeline.shards.storage.store import Store
from pipeline.shards.tables import write_tables

WORK_FOLDER = ".build"
"""Folder below OUT that exists while a build is unfinished."""

KEY_NAME = f"{WORK_FOLDER}/key.json"
"""What the unfinished build is made from; another build does not continue it."""


def build(plan: BuildPlan, store: Store, engine: Engine, *, progress: bool = True) -> Manifest:
    """Pack the source of ``plan`` into ``store`` and return the manifest, the last file written.

    An interrupted build continues from the shards it completed; the manifest of a finished one is
    returned at once. A bad image, and a store that cannot be written or holds something else, are a
    DataError.
    """
    asked, images = plan.describe(), plan.source.store
    manifest = _finished(store, asked)
    if manifest is None:
        with store.for_one():
            key = _claim(store, asked | {"stamps": digest_of_images(plan.source, "stamp")})
            classes = plan.source.taxonomy.classes
            work = PackWork(images, store, plan.flags.images, plan.flags.on_bad_image, classes)
            if plan.base:
                plan.base.carry(store)
            receipts = _pack(work, plan.shards, engine, progress=progress)
            if store.read(KEY_NAME) != key:
                raise DataError(f"another build has begun in {store}: choose another --out")
            manifest = _publish(plan, store, receipts, asked)
    if plan.flags.croissant:
        header = (store.read(TABLE_NAME) or b"").partition(b"\n")[0].decode()
        store.publish(CROISSANT_NAME, croissant(manifest, header.split(",")))
    store.delete(WORK_FOLDER)
    return manifest


def _finished(store: Store, asked: dict[str, Any]) -> Manifest | None:
    """Return the manifest in ``store`` if it is that of this very build."""
    data = store.read(MANIFEST_NAME)
    if data is None:
        return None
    manifest = Manifest.from_json(data, f"{store}/{MANIFEST_NAME}")
    asked = {"base": None} | asked
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
    """Prepare ``store`` and return its key: keep what this build completed, remove another's."""
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
        store,
        plan.placed,
        receipts,
        missing=missing,
        unpacked=unpacked,
        folds=folds,
        before=plan.base.tables if plan.base else {},
    )
    entries = tuple(receipt.entry for receipt in receipts if receipt.entry.samples)
    entries = plan.base.join(entries) if plan.base else entries
    if not entries:
        raise DataError("no image is left to pack: every one was rejected (see rejected.csv)")
    counts = {name: sum(e.samples for e in entries if e.split == name) for name in SPLITS}
    counts["rejected"] = len(missing) + sum(len(receipt.rejected) for receipt in receipts)
    counts["converted"] = sum(len(receipt.converted) for receipt in receipts)
    if plan.base:
        for kind in ("rejected", "converted"):
            counts[kind] += plan.base.shards.manifest.counts[kind]
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
