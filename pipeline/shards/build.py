"""``python -m pipeline.shards build``: from the flags to the builder, and what is printed.

python -m pipeline.shards build --source data/ham10000 --out shards/ham10000 --image-size 256
"""

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from pipeline.ham10000.several import merge
from pipeline.ham10000.source import Source, open_source
from pipeline.ham10000.taxonomy import load
from pipeline.shards.flags import BuildFlags
from pipeline.shards.manifest import SPLITS, Manifest
from pipeline.shards.origin.base import Base, open_base
from pipeline.shards.origin.licences import with_licences
from pipeline.shards.origin.own_split import in_words
from pipeline.shards.packing.build_plan import BuildPlan, make_plan
from pipeline.shards.packing.builder import build
from pipeline.shards.packing.local_engine import run_here
from pipeline.shards.packing.pack import Engine
from pipeline.shards.packing.ray_engine import run_on_ray
from pipeline.shards.plan import LEFT_OUT, part_of
from pipeline.shards.splits import crossing, largest_group
from pipeline.shards.storage.object_store import is_remote, mirrored, store_for


def run(flags: BuildFlags) -> None:
    """Build and print the result."""
    print(describe(build_shards(flags), flags.out))


def build_shards(
    flags: BuildFlags, *, engine: Engine | None = None, progress: bool = True
) -> Manifest:
    """Do what ``python -m pipeline.shards build`` does, without printing the result.

    ``engine`` packs the shards; None is the one that the flags name. What the user can correct is a
    DataError.
    """
    if engine is None:
        local = flags.engine == "local"
        engine = run_here(flags.workers) if local else run_on_ray(flags.address)
    base = open_base(flags) if flags.base else None
    flags = base.flags if base else flags
    plan = make_plan(open_all(flags, base, progress=progress), flags, base)
    for note in [*plan.source.notes, *plan_notes(plan)]:
        print(f"note: {note}", file=sys.stderr, flush=True)
    return build(plan, store_for(flags.out), engine, progress=progress)


def open_all(flags: BuildFlags, base: Base | None, *, progress: bool) -> Source:
    """Return the source, or the sources as one, with the licences that the flags ask for."""
    how = {"image_types": flags.image_type, "on_bad_image": flags.on_bad_image}
    taxonomy, opened = base.shards.taxonomy if base else load(flags.taxonomy), {}
    for name, path in flags.sources().items():
        source = open_source(mirrored(path, progress=progress).absolute(), taxonomy, **how)
        opened[name] = with_licences(source, name, flags)
    if "" in opened:
        return opened[""]
    return merge(opened, ids_are_global=flags.ids_are_global, test_source=flags.test_source)


def plan_notes(plan: BuildPlan) -> Iterator[str]:
    """Yield what a person should know of the plan before it is carried out."""
    flags, placed = plan.flags, plan.placed
    if flags.splits.split_by == "image":
        leaks = crossing(placed["group"], part_of(placed))
        yield (
            f"--split-by image LEAKS: {len(leaks):,} lesions have images in more than one split, "
            f"so scores will be too good; --split-by lesion does not leak"
        )
    if flags.duplicates is not None:
        yield f"{flags.duplicates} adds {plan.added_pairs:,} pairs; {largest_group(placed)}"
    if plan.crossing is not None and "val" not in set(plan.source.table["split"]):
        yield f"no image is in val: {flags.splits.val_fraction:.0%} of train are, whole groups"
    if plan.crossing and plan.crossing["groups"]:
        yield f"--allow-crossing LEAKS, so scores will be too good: {in_words(plan.crossing)}"
    packed = placed.query("split != @LEFT_OUT")
    parts = len(set(part_of(packed)))
    for dx, rows in packed.groupby("dx"):
        groups = len(set(rows["group"]))
        if groups < parts:
            yield (
                f"{dx} has {groups} groups of images ({len(rows)} images) for {parts} splits or "
                f"folds: some have none of it"
            )
    left_out = list(placed["split"]).count(LEFT_OUT)
    if left_out:
        yield f"{left_out} images are left out: they show lesions of the test set"
    if plan.official_test:
        yield (
            f"the official test set has {plan.official_test['images']:,} images in "
            f"{plan.official_test['groups']:,} groups of one lesion, by lesion_id and known pairs"
        )


def describe(manifest: Manifest, out: Path) -> str:
    """Return what a person should know of a finished build."""
    size = sum(entry.bytes for entry in manifest.shards)
    samples = sum(entry.samples for entry in manifest.shards)
    splits = ", ".join(f"{name} {manifest.counts[name]:,}" for name in SPLITS)
    lines = [
        f"{samples:,} samples in {len(manifest.shards)} shards ({size / 1e6:,.1f} MB): {splits}"
    ]
    for kind in ("rejected", "converted", "left_out"):
        if f"{kind}.csv" in manifest.files:
            count = f"{manifest.counts[kind]:,} images, " if kind in manifest.counts else ""
            lines.append(f"{kind.replace('_', ' ')}: {count}see {out}/{kind}.csv")
    if manifest.base:
        lines.append(f"val and test are those of base {manifest.base['manifest_sha256'][:12]}")
    where = str(store_for(out)) if is_remote(out) else shlex.quote(str(out))
    lines.append(f"written to {out}; check it with `python -m pipeline.shards verify {where}`")
    return "\n".join(lines)
