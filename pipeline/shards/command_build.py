"""``python -m pipeline.shards build``: the flags, and what is said before and after.

python -m pipeline.shards build --source data/ham10000 --out shards/ham10000 --image-size 256
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.cli import parse
from pipeline.errors import DataError
from pipeline.ham10000.known_duplicates import SAME_LESION_PAIRS
from pipeline.ham10000.source import Source, open_source
from pipeline.shards.build import BuildSettings, build
from pipeline.shards.encode import EncodeSettings
from pipeline.shards.engine import run_here
from pipeline.shards.manifest import Manifest
from pipeline.shards.plan import SplitPolicy
from pipeline.shards.store import LocalStore

TEST_FRACTION = 0.15


@dataclass(frozen=True)
class BuildOptions:
    """Flags of ``build``."""

    source: Path
    """Folder with the images and their metadata."""
    out: Path = Path("shards/ham10000")
    """Folder to write; started again with the same flags, an unfinished build goes on."""
    image_size: int | None = None
    """Pixels of the shorter side; larger images shrink to it. Without it bytes stay untouched."""
    workers: int = 0
    """Processes; 0 is one a core. The result does not depend on it."""
    samples_per_shard: int = 250
    """Most samples of one shard."""
    split_by: Literal["lesion", "image"] = "lesion"
    """What stays whole. image is the 80/20 of old: it leaks, and implies --test-fraction 0."""
    val_fraction: float = 0.2
    """Share of all images."""
    test_fraction: float | None = None
    """Share of all images; 0.15 unless given (0 with --split-by image or an official test set)."""
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
    options = parse(BuildOptions, description="Pack a dataset into shards.", argv=argv)
    manifest = build_shards(options)
    print(describe(manifest, options.out))


def build_shards(options: BuildOptions, *, progress: bool = True) -> Manifest:
    """Do what ``python -m pipeline.shards build`` does, without printing the result.

    Raises:
        DataError: whatever the user can mend.
    """
    source = open_source(options.source)
    for note in source.notes:
        print(f"note: {note}", file=sys.stderr)
    settings = settings_for(options, source)
    return build(
        source, LocalStore(options.out), settings, run_here(options.workers), progress=progress
    )


def settings_for(options: BuildOptions, source: Source) -> BuildSettings:
    """Return what decides the result's bytes: the flags, with defaults that suit the source."""
    test_fraction = options.test_fraction
    if test_fraction is None:
        test_fraction = 0.0 if options.split_by == "image" else TEST_FRACTION
    return BuildSettings(
        name=options.name or source.kind,
        policy=SplitPolicy(
            by=options.split_by,
            val_fraction=options.val_fraction,
            test_fraction=test_fraction,
            seed=options.seed,
        ),
        encode=EncodeSettings(options.image_size, options.jpeg_quality),
        samples_per_shard=options.samples_per_shard,
        on_bad_image=options.on_bad_image,
        pairs=SAME_LESION_PAIRS,
    )


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
    if manifest.counts["converted"]:
        lines.append(f"converted: {manifest.counts['converted']:,} images, see {out}/converted.csv")
    lines.append(f"written to {out}; `python -m pipeline.shards verify {out}` proves it whole")
    return "\n".join(lines)
