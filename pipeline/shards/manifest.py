"""The manifest: what a set of shards is. It is written last, so a set that has one is complete.

It holds nothing about the machine, the time or the number of workers: equal source, flags and
seed give an equal manifest, so its sha256 names the set. ``self_sha256`` covers all other fields,
so that an edit by hand is noticed.

    manifest, sha256 = load_manifest(Path("shards/ham10000"))
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import DataError
from pipeline.files import sha256, sha256_of_values
from pipeline.ham10000.taxonomy import HAM10000

FORMAT_VERSION = 1
"""Raised whenever older readers would misread newer shards."""

MANIFEST_NAME = "manifest.json"
TABLE_NAME = "samples.csv"
SPLITS: tuple[str, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class ShardEntry:
    """One shard as the manifest lists it."""

    path: str
    """Path of the tar below the root, with forward slashes."""
    split: str
    """Folder it lies in: train, val or test."""
    fold: int | None
    """Cross-validation fold of its samples; None without folds, and for test."""
    samples: int
    bytes: int
    """Size of the tar."""
    sha256: str
    """Of the tar."""
    index_sha256: str
    """Of the index beside it."""
    class_counts: dict[str, int]
    """Samples by dx; every dx is named."""

    @property
    def index_path(self) -> str:
        """Path of the index below the root."""
        return self.path.removesuffix(".tar") + ".idx"


@dataclass(frozen=True)
class Manifest:
    """What a set of shards is."""

    name: str
    """First part of every shard's file name."""
    labels: str
    """``dx``: ``.cls`` is the diagnosis; ``binary``: only benign or malignant is known, and a class
    (``Taxonomy.stand_in``: nv, mel) stands for it."""
    source: dict[str, Any]
    """Kind of source, and digests of its metadata, of its image files, and of their listing."""
    split: dict[str, Any]
    """How the splits were made: by, val_fraction, test_fraction, folds, seed, and so on."""
    encode: dict[str, Any]
    """How image bytes were made: image_size (pixels, shorter side; null = untouched), and so on."""
    counts: dict[str, int]
    """Samples by split, and how many images were rejected or converted."""
    files: dict[str, str]
    """sha256 by name of the tables beside the manifest."""
    shards: tuple[ShardEntry, ...]
    """Shards in packing order: train, val, test."""
    taxonomy: dict[str, Any] = dataclasses.field(default_factory=HAM10000.describe)
    """The classes by index, which are malignant, and what else ``Taxonomy.describe`` returned."""
    data_card: dict[str, Any] | None = None
    """What ``build --data-card`` said of the data; see ``pipeline.ham10000.layouts.data_card``."""
    base: dict[str, Any] | None = None
    """Of a set that grew from another: its name, manifest_sha256, counts, its own base, and what is
    not known of it; see ``pipeline.shards.origin.base``."""
    format_version: int = FORMAT_VERSION
    """Version of the shard format."""

    def to_json(self) -> bytes:
        """Return the bytes of manifest.json."""
        content = dataclasses.asdict(self)
        for name in ("data_card", "base"):  # where there is none, the bytes of earlier versions
            if content[name] is None:
                del content[name]
        content["self_sha256"] = sha256_of_values(content)
        return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes, path: Path | str) -> "Manifest":
        """Return the manifest in ``data``, read from ``path``; edited or too new is a DataError."""
        try:
            content = json.loads(data)
            version = content.pop("format_version")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise DataError(f"{path} is not a shard manifest: {error!r}") from error
        if version != FORMAT_VERSION:
            raise DataError(
                f"{path} is of shard format {version}; this program reads format "
                f"{FORMAT_VERSION}: build the shards again with this program"
            )
        claimed = content.pop("self_sha256", None)
        if claimed != sha256_of_values(content | {"format_version": version}):
            raise DataError(
                f"{path} was changed after it was written (its own sha256 does not match): "
                f"restore it or build the shards again"
            )
        try:
            shards = tuple(ShardEntry(**entry) for entry in content.pop("shards"))
            return cls(**content, shards=shards)
        except (KeyError, TypeError) as error:
            raise DataError(f"{path} has missing or unknown fields: {error}") from error


def load_manifest(root: Path) -> tuple[Manifest, str]:
    """Return the manifest of the shards in ``root`` and its file's sha256, or raise a DataError."""
    path = root / MANIFEST_NAME
    if not root.is_dir():
        raise DataError(
            f"no such folder: {root}; expected a folder made by `python -m pipeline.shards build`"
        )
    if not path.is_file():
        raise DataError(
            f"no {MANIFEST_NAME} in {root}: it holds no shards, or their build did not finish; "
            f"run `python -m pipeline.shards build --out {root} ...` (again)"
        )
    data = path.read_bytes()
    return Manifest.from_json(data, path), sha256(data)
