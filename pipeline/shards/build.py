"""``python -m pipeline.shards build``: the flags, and what is said before and after.

python -m pipeline.shards build --source data/ham10000 --out shards/ham10000 --image-size 256
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.cli import parse
from pipeline.errors import DataError
from pipeline.files import sha256_of
from pipeline.ham10000.known_duplicates import SAME_LESION_PAIRS
from pipeline.ham10000.source import Source, open_source
from pipeline.shards.manifest import Manifest
from pipeline.shards.packing.builder import BuildPlan, BuildSettings, build, make_plan
from pipeline.shards.packing.encode import EncodeSettings
from pipeline.shards.packing.local_engine import run_here
from pipeline.shards.packing.ray_engine import run_on_ray
from pipeline.shards.pairs import largest_component, read_pairs
from pipeline.shards.plan import LEFT_OUT, SplitPolicy, part_of
from pipeline.shards.splits import crossing
from pipeline.shards.storage.object_store import mirrored, source_cache, store_for
from pipeline.shards.tables import LEFT_OUT_NAME

TEST_FRACTION = 0.15


@dataclass(frozen=True)
class BuildOptions:
    """Flags of ``build``."""

    source: Path
    """Folder (or s3://bucket/prefix, fetched once) with the images and their metadata."""
    out: Path = Path("shards/ham10000")
    """Folder or s3://bucket/prefix to write; an unfinished build goes on where it stopped."""
    image_size: int | None = None
    """Pixels of the shorter side; larger images shrink to it. Without it bytes stay untouched."""
    workers: int = 0
    """Processes; 0 is one a core. The result does not depend on it."""
    engine: Literal["local", "ray"] = "local"
    """ray packs on a cluster: the same plan, the same bytes."""
    address: str | None = None
    """Of the Ray cluster, as in auto; without it one is started on this machine."""
    samples_per_shard: int = 250
    """Most samples of one shard."""
    split_by: Literal["lesion", "image"] = "lesion"
    """What stays whole. image is the 80/20 of old: it leaks, and implies --test-fraction 0."""
    val_fraction: float = 0.2
    """Share of all images; not used with --folds."""
    test_fraction: float | None = None
    """Share of all images; 0.15 unless given (0 with --split-by image or an official test set)."""
    folds: int = 0
    """Cross-validation folds in place of train and val; train.py and eval.py take --fold k."""
    duplicates: Path | None = None
    """Table of further pairs of images of one lesion (image_id_a, image_id_b, score)."""
    seed: int = 0
    """Another seed, other splits and another order."""
    on_bad_image: Literal["error", "skip"] = "error"
    """skip leaves damaged images out and lists them in OUT/rejected.csv."""
    jpeg_quality: int = 95
    """Quality of the JPEGs written, 1 to 100."""
    name: str | None = None
    """First part of the file names; by default what the source is."""

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be."""
        if self.image_size is not None and self.image_size < 1:
            raise DataError(f"--image-size is {self.image_size}; expected at least 1 pixel")
        if not 1 <= self.jpeg_quality <= 100:
            raise DataError(f"--jpeg-quality is {self.jpeg_quality}; expected 1 to 100")


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    options = parse(BuildOptions, about="Pack a dataset into shards.", argv=argv)
    manifest = build_shards(options)
    print(describe(manifest, options.out))


def build_shards(options: BuildOptions, *, progress: bool = True) -> Manifest:
    """Do what ``python -m pipeline.shards build`` does, without printing the result.

    Raises:
        DataError: whatever the user can mend.
    """
    engine = run_here(options.workers) if options.engine == "local" else run_on_ray(options.address)
    source = open_source(mirrored(options.source, source_cache(), progress=progress).absolute())
    settings = settings_for(options, source)
    plan = make_plan(source, settings)
    for note in [*source.notes, *plan_notes(options, settings, plan)]:
        print(f"note: {note}", file=sys.stderr, flush=True)
    return build(plan, source, store_for(options.out), settings, engine, progress=progress)


def settings_for(options: BuildOptions, source: Source) -> BuildSettings:
    """Return what decides the result's bytes: the flags, with defaults that suit the source."""
    pairs, digest = SAME_LESION_PAIRS, None
    if options.duplicates is not None:
        pairs += read_pairs(options.duplicates, set(source.table["image_id"]))
        digest = sha256_of(options.duplicates)
    return BuildSettings(
        name=options.name or source.kind,
        policy=SplitPolicy(
            by=options.split_by,
            val_fraction=options.val_fraction,
            test_fraction=_test_fraction(options, source),
            folds=options.folds,
            seed=options.seed,
        ),
        encode=EncodeSettings(options.image_size, options.jpeg_quality),
        samples_per_shard=options.samples_per_shard,
        on_bad_image=options.on_bad_image,
        pairs=pairs,
        pairs_sha256=digest,
    )


def _test_fraction(options: BuildOptions, source: Source) -> float:
    """Return the share of images that becomes the test split."""
    if True not in list(source.table["official_test"]):
        default = 0.0 if options.split_by == "image" else TEST_FRACTION
        return default if options.test_fraction is None else options.test_fraction
    if options.test_fraction:
        raise DataError(
            f"{options.source} holds the official test set, which is the test split: leave "
            f"--test-fraction {options.test_fraction} out (or take the test set out of the folder)"
        )
    return 0.0


def plan_notes(options: BuildOptions, settings: BuildSettings, plan: BuildPlan) -> Iterator[str]:
    """Yield what a person should know of the plan before it is carried out."""
    placed = plan.placed
    if options.split_by == "image":
        crossing_groups = crossing(placed["group"], part_of(placed))
        yield (
            f"--split-by image LEAKS: {len(crossing_groups):,} lesions have images in more than "
            f"one split, so scores will be better than they deserve; lesion is the honest choice"
        )
    if options.duplicates is not None:
        added = len(settings.pairs) - len(SAME_LESION_PAIRS)
        yield f"{options.duplicates} adds {added:,} pairs; {largest_component(placed)}"
    left_out = list(placed["split"]).count(LEFT_OUT)
    if left_out:
        yield f"{left_out} images are left out: they show lesions of the official test set"


def describe(manifest: Manifest, out: Path) -> str:
    """Return what a person should know of a finished build."""
    size = sum(entry.bytes for entry in manifest.shards)
    samples = sum(entry.samples for entry in manifest.shards)
    splits = ", ".join(f"{name} {manifest.counts[name]:,}" for name in ("train", "val", "test"))
    lines = [
        f"{samples:,} samples in {len(manifest.shards)} shards ({size / 1e6:,.1f} MB): {splits}",
    ]
    if manifest.counts["rejected"]:
        lines.append(f"rejected: {manifest.counts['rejected']:,} images, see {out}/rejected.csv")
    if LEFT_OUT_NAME in manifest.files:
        lines.append(f"left out: the images in {out}/{LEFT_OUT_NAME}")
    if manifest.counts["converted"]:
        lines.append(f"converted: {manifest.counts['converted']:,} images, see {out}/converted.csv")
    lines.append(f"written to {out}; `python -m pipeline.shards verify {out}` proves it whole")
    return "\n".join(lines)
