"""``python -m pipeline.shards build``: from the flags to the builder, and what is printed.

python -m pipeline.shards build --source data/ham10000 --out shards/ham10000 --image-size 256
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pipeline.errors import DataError
from pipeline.files import sha256_of
from pipeline.ham10000.known_duplicates import SAME_LESION_PAIRS
from pipeline.ham10000.source import Source, open_source
from pipeline.shards.flags import BuildFlags, SplitPolicy
from pipeline.shards.manifest import SPLITS, Manifest
from pipeline.shards.packing.builder import BuildPlan, BuildSettings, build, make_plan
from pipeline.shards.packing.local_engine import run_here
from pipeline.shards.packing.pack import Engine
from pipeline.shards.packing.ray_engine import run_on_ray
from pipeline.shards.plan import LEFT_OUT, part_of
from pipeline.shards.splits import crossing, largest_group, read_pairs
from pipeline.shards.storage.object_store import mirrored, store_for
from pipeline.shards.tables import LEFT_OUT_NAME


def run(flags: BuildFlags) -> None:
    """Build and print the result."""
    print(describe(build_shards(flags), flags.out))


def build_shards(
    flags: BuildFlags, *, engine: Engine | None = None, progress: bool = True
) -> Manifest:
    """Do what ``python -m pipeline.shards build`` does, without printing the result.

    Args:
        flags: of the command.
        engine: packs the shards; the one that the flags name when None.
        progress: show bars.

    Raises:
        DataError: whatever the user can correct.
    """
    if engine is None:
        local = flags.engine == "local"
        engine = run_here(flags.workers) if local else run_on_ray(flags.address)
    source = open_source(mirrored(flags.source, progress=progress).absolute())
    plan = make_plan(source, settings_for(flags, source))
    for note in [*source.notes, *plan_notes(flags, plan)]:
        print(f"note: {note}", file=sys.stderr, flush=True)
    return build(plan, store_for(flags.out), engine, progress=progress)


def settings_for(flags: BuildFlags, source: Source) -> BuildSettings:
    """Return what decides the result's bytes: the flags, with defaults that suit the source."""
    pairs, digest = SAME_LESION_PAIRS, None
    if flags.duplicates is not None:
        pairs += read_pairs(flags.duplicates, set(source.table["image_id"]))
        digest = sha256_of(flags.duplicates)
    return BuildSettings(
        name=flags.name or source.kind,
        splits=_splits(flags, source),
        encode=flags.images,
        samples_per_shard=flags.samples_per_shard,
        on_bad_image=flags.on_bad_image,
        pairs=pairs,
        pairs_sha256=digest,
    )


def _splits(flags: BuildFlags, source: Source) -> SplitPolicy:
    """Return the policy with its share of test images."""
    if not source.table["official_test"].to_numpy().any():
        return replace(flags.splits, test_fraction=flags.splits.test_share())
    if flags.splits.test_fraction:
        raise DataError(
            f"{flags.source} holds the official test set, which is the test split: leave "
            f"--test-fraction {flags.splits.test_fraction} out (or take the test set out of the "
            f"folder)"
        )
    return replace(flags.splits, test_fraction=0.0)


def plan_notes(flags: BuildFlags, plan: BuildPlan) -> Iterator[str]:
    """Yield what a person should know of the plan before it is carried out."""
    placed = plan.placed
    if flags.splits.split_by == "image":
        leaks = crossing(placed["group"], part_of(placed))
        yield (
            f"--split-by image LEAKS: {len(leaks):,} lesions have images in more than one split, "
            f"so scores will be too good; --split-by lesion does not leak"
        )
    if flags.duplicates is not None:
        added = len(plan.settings.pairs) - len(SAME_LESION_PAIRS)
        yield f"{flags.duplicates} adds {added:,} pairs; {largest_group(placed)}"
    left_out = list(placed["split"]).count(LEFT_OUT)
    if left_out:
        yield f"{left_out} images are left out: they show lesions of the official test set"


def describe(manifest: Manifest, out: Path) -> str:
    """Return what a person should know of a finished build."""
    size = sum(entry.bytes for entry in manifest.shards)
    samples = sum(entry.samples for entry in manifest.shards)
    splits = ", ".join(f"{name} {manifest.counts[name]:,}" for name in SPLITS)
    lines = [
        f"{samples:,} samples in {len(manifest.shards)} shards ({size / 1e6:,.1f} MB): {splits}"
    ]
    if LEFT_OUT_NAME in manifest.files:
        lines.append(f"left out: the images in {out}/{LEFT_OUT_NAME}")
    lines += [
        f"{kind}: {manifest.counts[kind]:,} images, see {out}/{kind}.csv"
        for kind in ("rejected", "converted")
        if manifest.counts[kind]
    ]
    lines.append(f"written to {out}; check it with `python -m pipeline.shards verify {out}`")
    return "\n".join(lines)
