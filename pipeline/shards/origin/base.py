"""Growing sets, ``build --base OLD``: val and test stay OLD's, train is OLD's and new images.

base = open_base(flags)                              # refuses what would change OLD's splits
base, source, placed = admit(base, source, pairs)    # of ``admission``: what is new
base.carry(store)                                    # OLD's shards, byte for byte
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.errors import DataError
from pipeline.files import forget
from pipeline.ham10000.layouts.data_card import SYNTHETIC, card_of
from pipeline.ham10000.source import Source
from pipeline.ham10000.taxonomy import load
from pipeline.shards.dataset import ShardSet, open_shards
from pipeline.shards.flags import BuildFlags, SplitPolicy
from pipeline.shards.manifest import ShardEntry
from pipeline.shards.packing.shard_plan import EncodeSettings
from pipeline.shards.storage.object_store import is_remote
from pipeline.shards.storage.store import LocalStore, Store
from pipeline.shards.tables import PATIENTS_NAME, read_text


@dataclass(frozen=True)
class Base:
    """A finished set that a new one grows from."""

    shards: ShardSet
    flags: BuildFlags
    """Of the build, with the settings that are OLD's."""
    held: Mapping[str, Mapping[str, str]]
    """Split by lesion, and by hashed patient, of what left-out images say belongs to val or test:
    no row of samples.csv tells it when the set grows again."""

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """OLD's tables by file name, all columns text."""
        root = self.shards.root
        return {name: read_text(root / name) for name in self.shards.manifest.files}

    @property
    def samples(self) -> pd.DataFrame:
        """OLD's samples.csv as text."""
        return self.tables["samples.csv"]

    @property
    def patients_known(self) -> bool:
        """Say whether OLD says which images are of one patient."""
        return PATIENTS_NAME in self.tables and not (self.shards.manifest.base or {}).get("unknown")

    @property
    def official(self) -> bool:
        """Say whether OLD's test split is the official test set."""
        return "official_test" in self.shards.manifest.source

    def first_free(self) -> int:
        """Return the number of the first new train shard."""
        paths = [entry.path for entry in self.shards.manifest.shards if entry.split == "train"]
        return max((int(re.split(r"[-.]", path)[-2]) for path in paths), default=-1) + 1

    def join(self, entries: Sequence[ShardEntry]) -> tuple[ShardEntry, ...]:
        """Return OLD's train shards, the new ones, then OLD's val and test."""
        old = self.shards.manifest.shards
        train = [entry for entry in old if entry.split == "train"]
        return (*train, *entries, *(entry for entry in old if entry.split != "train"))

    def describe(self, source: Source) -> dict[str, Any]:
        """Return what the manifest says of OLD."""
        old = self.shards.manifest
        found: dict[str, Any] = {
            "name": old.name,
            "manifest_sha256": self.shards.manifest_sha256,
            "counts": old.counts,
            "base": old.base,
            "held": self.held,
        }
        new_patients = "patient_id" in source.table and not self.patients_known
        if (old.base or {}).get("unknown") or new_patients:
            found["unknown"] = "patients of the base"
        return found

    def card(self) -> dict[str, Any] | None:
        """Return OLD's data card; made-up images stay announced where it has none."""
        old = self.shards.manifest
        facts = {"data_card": old.data_card, "source": old.source}
        known = card_of(facts, self.samples["lesion_id"])
        return old.data_card or (known if known.get(SYNTHETIC) else None)

    def carry(self, store: Store) -> None:
        """Link OLD's tars and indexes into ``store``, or copy them where links cannot be made."""
        for entry in self.shards.manifest.shards:
            for name in (entry.path, entry.index_path):
                if not (isinstance(store, LocalStore) and _linked(self.shards.root, store, name)):
                    store.publish(name, (self.shards.root / name).read_bytes())

    def require_alike(self, source: Source) -> None:
        """Raise a ``DataError`` where the source's labels, test set or names do not suit OLD."""
        root, old = self.shards.root, self.shards.manifest
        if source.labels != old.labels:
            raise DataError(
                f"--base {root} has labels of the kind {old.labels!r}, the new images of the kind "
                f"{source.labels!r}: build them into a set of their own"
            )
        if source.table["official_test"].to_numpy().any():
            raise DataError(
                f"the source holds the official test set, but val and test are those of --base "
                f"{root}: take its table out of the source"
            )
        if "source" in self.samples and "source" not in source.table:
            raise DataError(
                f"--base {root} names its sources, so ids belong to them: give the new images' "
                f"too, --source NAME=DIR (NAME as in the base where they are of the same clinic)"
            )


def open_base(flags: BuildFlags) -> Base:
    """Open ``--base`` and return it with the build's flags; those that contradict: DataError."""
    assert flags.base
    root = flags.base
    if is_remote(root):
        raise DataError(f"--base {root}: expected a folder on this machine; fetch the set first")
    if not is_remote(flags.out) and flags.out.resolve() == root.resolve():
        raise DataError(f"--out and --base are both {root}: choose another --out")
    shards = open_shards(root)
    old = shards.manifest
    if old.split["folds"]:
        raise DataError(
            f"--base {root} is packed in folds: expected a set with train, val and test"
        )
    if flags.splits != SplitPolicy() or flags.test_source:
        raise DataError(
            f"val and test are those of --base {root}, and all new images are train: leave the "
            f"flags of the splits out (--val-fraction, --test-fraction, --splits, --folds, "
            f"--split-by, --seed, --allow-crossing, --test-source)"
        )
    encoded = {key: old.encode[key] for key in ("image_size", "jpeg_quality")}
    images, plain = EncodeSettings(**encoded), EncodeSettings()
    for name, value in encoded.items():
        asked = getattr(flags.images, name)
        if asked not in (value, getattr(plain, name)):
            flag = f"--{name.replace('_', '-')}"
            raise DataError(f"{flag} is {asked}, --base {root} has {value}: leave {flag} out")
    if images.describe() != old.encode:
        raise DataError(f"--base {root} was encoded in another way, {old.encode}: build it again")
    if flags.name not in (None, old.name):
        raise DataError(f"--name is {flags.name}, --base {root} has {old.name}: leave --name out")
    if flags.taxonomy != BuildFlags.taxonomy and load(flags.taxonomy) != shards.taxonomy:
        raise DataError(f"--taxonomy {flags.taxonomy} has other classes than --base {root}")
    splits = SplitPolicy(seed=old.split["seed"])
    held = (old.base or {}).get("held", {})
    return Base(shards, replace(flags, name=old.name, images=images, splits=splits), held)


def _linked(root: Path, store: LocalStore, name: str) -> bool:
    """Say whether a file of ``root`` could be linked into ``store``."""
    path = store.root / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        forget(path)
        os.link((root / name).resolve(), path)
    except OSError:
        return False
    return True
