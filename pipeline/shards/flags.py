"""The flags of ``python -m pipeline.shards``; without pandas and torch."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pipeline.errors import DataError
from pipeline.ham10000.flags import ImageType
from pipeline.ham10000.images import OnBadImage
from pipeline.shards.packing.shard_plan import EncodeSettings

NAMED = re.compile(r"([A-Za-z0-9][\w-]*)=(.+)")
"""A source with its name."""

TEST_FRACTION = 0.15
"""Share of the test split where nothing else is asked for."""


@dataclass(frozen=True)
class SplitPolicy:
    """Which images go into which split."""

    split_by: Literal["lesion", "image"] = "lesion"
    """What is never divided. image is the common 80/20 split: lesions with several images leak
    between its splits, and --test-fraction is 0 unless given."""
    val_fraction: float = 0.2
    """Share of all images; not used with --folds."""
    test_fraction: float | None = None
    """Share of all images. Default: 0.15; 0 with --split-by image or an official test set. 1: all
    are the test split, as of a set that a model is only judged on."""
    folds: int = 0
    """Cross-validation folds in place of train and val, for --fold of train.py. 0: none."""
    seed: int = 0
    """Seed of the splits and of the order in the shards."""

    splits: Path | None = None
    """Table of image_id and split (train, val, test) that makes the splits in place of all above.
    Default: the column split of the source's table, where it has one. Without a val,
    --val-fraction of its train images is that."""
    allow_crossing: bool = False
    """Pack although lesions or patients cross the splits of --splits or of the column split; the
    manifest, verify and every report say so."""

    def __post_init__(self) -> None:
        """Refuse shares that leave nothing to train on."""
        val, test = self.val_fraction, self.test_fraction or 0.0
        if test == 1:
            val, test = 0.0, 0.0
        for flag, share in (("val", val), ("test", test)):
            if not 0 <= share < 1:
                raise DataError(f"--{flag}-fraction is {share}; expected 0 or more, and below 1")
        if val + test >= 1:
            raise DataError(
                f"--val-fraction {val} and --test-fraction {test} leave nothing to train on; "
                f"their sum must be below 1"
            )
        if self.folds < 0 or self.folds == 1:
            raise DataError(f"--folds is {self.folds}; expected 0 (none) or at least 2")

    def test_share(self) -> float:
        """Return the share of all images that becomes the test split."""
        if self.test_fraction is None:
            return 0.0 if self.split_by == "image" else TEST_FRACTION
        return self.test_fraction

    def fractions(self) -> dict[str, float]:
        """Return the share of each part: the splits, or the folds as ``"0"``, ``"1"`` and test."""
        test = self.test_share()
        if self.folds and test < 1:
            share = (1 - test) / self.folds
            return {str(fold): share for fold in range(self.folds)} | {"test": test}
        if test == 1:
            return {"test": 1.0}
        return {"train": 1 - self.val_fraction - test, "val": self.val_fraction, "test": test}


@dataclass(frozen=True)
class BuildFlags:
    """Pack a dataset into shards."""

    source: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = ()
    """Folder (or s3://bucket/prefix, fetched once) with the images and their metadata. Several:
    --source NAME=DIR for each; an image that two of them hold is taken once, from the first."""
    base: Path | None = None
    """Folder of a finished set to grow: its val and test stay as they are, byte for byte, and train
    is its shards and all new images. Left out are images that it has, by id or bytes, and those of
    a lesion or patient in its val or test. Sizes, classes and name are the base's."""
    out: Path = Path("shards/ham10000")
    """Folder or s3://bucket/prefix to write; an interrupted build continues where it stopped."""
    name: str | None = None
    """First part of the file names. Default: the kind of source, as ham10000."""
    samples_per_shard: int = 250
    """Most samples of one shard."""
    taxonomy: str = "ham10000"
    """Classes of the diagnoses: ham10000, isic2019, pad-ufes-20, milk10k, or an own TOML file
    (docs/data.md has its keys)."""
    image_type: tuple[ImageType, ...] = ()
    """Kinds of photographs to pack where the table names them (as the ISIC Archive's does; tbp:
    crops of total body photographs). Default: dermoscopic, or all where none is."""
    on_bad_image: OnBadImage = "error"
    """skip leaves out damaged images and rows without one, and lists them in OUT/rejected.csv."""
    data_card: Path | None = None
    """TOML file that says whose the images are, their licence, how they were verified, skin tones
    (docs/data.md has its fields); the report shows it, and "not stated" where it is silent."""
    duplicates: Path | None = None
    """Table of further pairs of images of one lesion (image_id_a, image_id_b, score)."""
    test_source: str | None = None
    """Name of the source that is held out whole: it is the test split."""
    ids_are_global: bool = False
    """Equal ids of images, lesions and patients mean the same in all sources. Default: they belong
    to their source, except for the ISIC Archive's image ids."""
    keep_licenses: bool = False
    """Keep each image's licence and attribution (copyright_license, attribution of the table, or
    HAM10000's own) in samples.csv. The next three flags and named sources do so too."""
    license: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Licence of the images whose table names none, as CC-BY; NAME=CC-BY for one source."""
    attribution: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Whom to name for images whose table names nobody; NAME=TEXT for one source."""
    license_in: str = ""
    """Licences to pack, as CC-0,CC-BY; images of others, or of none, are left out and listed."""
    croissant: bool = False
    """Write croissant.json beside the manifest: the set as search engines and loaders read it."""
    workers: int = 0
    """Processes; 0: one per core. The result does not depend on it."""
    engine: Literal["local", "ray"] = "local"
    """ray packs on a cluster; the bytes are the same."""
    address: str | None = None
    """Address of the Ray cluster, as auto; without it one is started on this machine."""
    splits: SplitPolicy = field(default_factory=SplitPolicy)
    images: EncodeSettings = field(default_factory=EncodeSettings)

    def __post_init__(self) -> None:
        """Refuse sources without a name or with the same one."""
        self.sources()

    def sources(self) -> dict[str, Path]:
        """Return the sources by name; a single one without a name has the name ""."""
        found: dict[str, Path] = {}
        for path in self.source:
            named = NAMED.fullmatch(str(path)) if not path.exists() else None
            name = named[1] if named else ""
            if name in found:
                what = f"the name {name}" if name else "no name"
                raise DataError(f"two sources have {what}: give each its own, --source NAME=DIR")
            found[name] = Path(named[2]) if named else path
        if not found or ("" in found and len(found) > 1):
            raise DataError("--source DIR is needed, or --source NAME=DIR for each of several")
        if self.test_source is not None and self.test_source not in found:
            raise DataError(f"--test-source {self.test_source} is no NAME of --source NAME=DIR")
        return found


@dataclass(frozen=True)
class VerifyFlags:
    """Prove that shards are undamaged and that no lesion is in two splits."""

    root: Annotated[Path, tyro.conf.Positional] = Path("shards/ham10000")
    """Folder or s3://bucket/prefix that holds manifest.json."""
    cache: Path = Path("shards/cache")
    """Where shards from object storage are kept on this machine; each is fetched once."""
    quick: bool = False
    """Check sizes, tables, indexes and leaks only; do not read every byte of every shard."""


@dataclass(frozen=True)
class StatsFlags:
    """Describe shards, split by split."""

    root: Annotated[Path, tyro.conf.Positional] = Path("shards/ham10000")
    """Folder that holds manifest.json."""
    out: Path | None = None
    """Picture to write. Default: ROOT/stats.png."""


@dataclass(frozen=True)
class DuplicatesFlags:
    """Find images of one lesion that are filed under different ids."""

    source: Path
    """Folder with the images and their metadata, or shards, or one split of them (SHARDS/test)."""
    out: Path = Path("duplicates.csv")
    """Table of pairs to write; a contact sheet of the best new pairs goes beside it as .png."""
    against: Path | None = None
    """Another such folder: find the images of --source that show an image of this one, whatever
    their ids, also resized, cropped, turned or compressed again (mirrored ones are not found)."""
    taxonomy: str = "ham10000"
    """Classes of the diagnoses, as for build; images of others are not looked at."""
    image_type: tuple[ImageType, ...] = ()
    """Kinds of photographs to look at, as for build."""
    on_bad_image: OnBadImage = "error"
    """skip leaves out damaged images and rows without one, and names them."""
    workers: int = 0
    """Processes; 0: one per core."""
    seed: int = 0
    """Seed of the visual vocabulary."""

    def __post_init__(self) -> None:
        """Refuse a negative number of processes."""
        if self.workers < 0:
            raise DataError(f"--workers is {self.workers}; expected 0 or more")
