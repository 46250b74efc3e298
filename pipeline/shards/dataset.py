"""Open shards for reading: which tars a split has, its table, where each JPEG lies.

    shards = open_shards(Path("shards/ham10000"))
    train = shards.split("train")
    train.tars, train.samples, train.locations()

Opening checks what is cheap (manifest, table and index digests, sizes);
``intact.ensure_intact(shards, ["train"])`` reads every byte of the tars. Tables are read from disk
each time that ``samples`` is asked for: in memory one has some 600 bytes a row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.files import sha256_of
from pipeline.ham10000.taxonomy import Taxonomy, described
from pipeline.shards.format import read_index
from pipeline.shards.manifest import SPLITS, TABLE_NAME, Manifest, ShardEntry, load_manifest
from pipeline.shards.tables import read_samples


@dataclass(frozen=True)
class Locations:
    """Where each sample's JPEG lies, in the order of ``Split.samples``."""

    shard: NDArray[np.int32]
    """Index into ``Split.tars`` [n]."""
    offset: NDArray[np.int64]
    """Bytes from the start of the tar [n]."""
    size: NDArray[np.int32]
    """Bytes [n]."""


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a set of shards, or its part in a cross-validation."""

    name: str
    """train, val or test."""
    root: Path
    """Folder of the manifest."""
    entries: tuple[ShardEntry, ...]
    """Its shards, in packing order."""
    read: Callable[[Sequence[str]], pd.DataFrame]
    """Reads columns of samples.csv, all where none is named: one row a sample in packing order,
    RangeIndex."""
    taxonomy: Taxonomy

    @property
    def samples(self) -> pd.DataFrame:
        """All columns, read anew."""
        return self.read(())

    @property
    def tars(self) -> tuple[Path, ...]:
        """Paths of the tars."""
        return tuple(self.root / entry.path for entry in self.entries)

    def __len__(self) -> int:
        """Return the number of samples."""
        return sum(entry.samples for entry in self.entries)

    def locations(self) -> Locations:
        """Return where each sample's JPEG lies; indexes unlike the table are a DataError."""
        indexes = [read_index(self.root / entry.index_path) for entry in self.entries]
        names = [name for index in indexes for name in index.names]
        if names != self.read(("image_id",))["image_id"].to_list():
            raise DataError(
                f"the indexes of split {self.name} in {self.root} name other samples than "
                f"{TABLE_NAME}: build the shards again"
            )
        sizes = [len(index.names) for index in indexes]
        empty = np.zeros(0, dtype=np.int64)
        size = np.concatenate([empty, *(index.jpg_size for index in indexes)])
        return Locations(
            shard=np.repeat(np.arange(len(indexes), dtype=np.int32), sizes),
            offset=np.concatenate([empty, *(index.jpg_offset for index in indexes)]),
            size=size.astype(np.int32),
        )


@dataclass(frozen=True, eq=False)
class ShardSet:
    """A finished set of shards."""

    root: Path
    """Folder of the manifest."""
    manifest: Manifest
    manifest_sha256: str
    """Names the set: equal for equal source, flags and seed."""

    @property
    def samples(self) -> pd.DataFrame:
        """samples.csv: all splits, in packing order. Read anew."""
        return read_samples(self.root / TABLE_NAME)

    @property
    def taxonomy(self) -> Taxonomy:
        """Return the classes of dx."""
        return described(self.manifest.taxonomy)

    def split(self, name: str, fold: int | None = None) -> Split:
        """Return a split; with ``fold`` of a cross-validation, val is that fold, train the others.

        No such split or fold, and a fold that has to be named, are a DataError.
        """
        entries = self._entries(name, fold)
        if not entries:
            counts = {split: self.manifest.counts[split] for split in SPLITS}
            raise DataError(
                f"{self.root} has no samples in split {name!r}; it has {counts}: choose another "
                f"split or build with another --val-fraction or --test-fraction"
            )
        shards = [entry.path for entry in entries]

        def read(columns: Sequence[str]) -> pd.DataFrame:
            samples = read_samples(self.root / TABLE_NAME, [*columns, "shard"] if columns else ())
            own = samples[samples["shard"].isin(shards)].reset_index(drop=True)
            return pd.DataFrame(own[[*columns]]) if columns else own.assign(split=name)

        return Split(name, self.root, entries, read, self.taxonomy)

    def _entries(self, name: str, fold: int | None) -> tuple[ShardEntry, ...]:
        folds = int(self.manifest.split["folds"])
        if name not in SPLITS:
            raise DataError(f"there is no split {name!r}; there are {', '.join(SPLITS)}")
        if not folds and fold is not None:
            raise DataError(f"{self.root} has no folds; build with --folds K, or give no fold")
        if not folds or name == "test":
            return tuple(entry for entry in self.manifest.shards if entry.split == name)
        if fold is None or not 0 <= fold < folds:
            raise DataError(
                f"{self.root} is packed for {folds}-fold cross-validation: name a fold from 0 to "
                f"{folds - 1} (found {fold})"
            )
        inside = (entry for entry in self.manifest.shards if entry.split == "train")
        return tuple(entry for entry in inside if (entry.fold == fold) == (name == "val"))


def open_shards(root: Path) -> ShardSet:
    """Open a finished set of shards; raise a DataError for what is cheap to find wrong.

    Checked: the manifest's version and own digest, the digests of samples.csv and of every index,
    that every tar is there and has its size.
    """
    root = Path(root)
    manifest, digest = load_manifest(root)
    problems = cheap_problems(root, manifest)
    if problems:
        more = f" ({len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise DataError(
            f"{problems[0]}{more}; `python -m pipeline.shards verify {root}` lists them: restore "
            f"the shards or build them again"
        )
    return ShardSet(root, manifest, digest)


def cheap_problems(root: Path, manifest: Manifest) -> list[str]:
    """Return what is wrong with a set, as far as sizes, the tables and the indexes tell."""
    problems: list[str] = []
    for name, expected in manifest.files.items():
        problems += _digest_problem(root / name, expected)
    for entry in manifest.shards:
        path = root / entry.path
        if not path.is_file():
            problems.append(f"{path} is missing")
        elif (size := path.stat().st_size) != entry.bytes:
            problems.append(f"{path} has {size:,} bytes, the manifest says {entry.bytes:,}")
        problems += _digest_problem(root / entry.index_path, entry.index_sha256)
    return problems


def _digest_problem(path: Path, expected: str) -> list[str]:
    if not path.is_file():
        return [f"{path} is missing"]
    if sha256_of(path) != expected:
        return [f"{path} was changed after it was written (its sha256 is not the manifest's)"]
    return []
