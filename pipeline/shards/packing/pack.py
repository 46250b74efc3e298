"""Pack one shard: a function of its plan and the source, with no memory of other shards.

``pack_shard`` returns bytes. ``PackWork`` is what an engine calls, in any process and any order:
it packs, publishes to the store, and leaves a receipt, last. A receipt therefore means "this shard
is complete", which is what a build started again goes by; calling it twice changes nothing.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pipeline.errors import DataError
from pipeline.ham10000.taxonomy import DX
from pipeline.shards.format import TarSample, write_tar
from pipeline.shards.manifest import ShardEntry
from pipeline.shards.packing.encode import EncodeSettings, encode
from pipeline.shards.packing.jpeg import BadImageError
from pipeline.shards.packing.shard_plan import ShardPlan
from pipeline.shards.storage.store import Store

RECEIPTS = ".build/receipts"
"""Folder of the receipts below OUT; it goes when the manifest is written."""


class Images(Protocol):
    """Where image bytes come from (``pipeline.ham10000.images.ImageStore``)."""

    def read(self, image_id: str) -> bytes:
        """Return an image file's bytes."""
        ...

    def where(self, image_id: str) -> str:
        """Return where they are, for a message."""
        ...

    def only(self, image_ids: Iterable[str]) -> "Images":
        """Return the same for these images alone."""
        ...


@dataclass(frozen=True)
class Receipt:
    """What packing one shard came to."""

    entry: ShardEntry
    """The shard as the manifest will list it; ``samples`` may be 0, then no file was written."""
    sources: tuple[tuple[str, str], ...]
    """Image id and sha256 of its source file, for each sample packed, in packing order."""
    rejected: tuple[tuple[str, str], ...]
    """Image id and reason of each bad image."""
    converted: tuple[tuple[str, str], ...]
    """Image id and what was done to it."""

    def to_json(self) -> bytes:
        """Return the bytes of the receipt's file."""
        return json.dumps(dataclasses.asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "Receipt":
        """Return the receipt in ``data``."""
        content = json.loads(data)
        entry = ShardEntry(**content.pop("entry"))
        return cls(entry, **{key: tuple(map(tuple, value)) for key, value in content.items()})


@dataclass(frozen=True)
class PackedShard:
    """The bytes of one shard and what they came from."""

    tar: tuple[bytes, ...]
    """The tar, in pieces."""
    index: bytes
    """The index beside it."""
    receipt: Receipt
    """What it came to."""


def pack_shard(
    shard: ShardPlan,
    images: Images,
    settings: EncodeSettings,
    *,
    on_bad_image: Literal["error", "skip"],
) -> PackedShard:
    """Return the bytes of a shard.

    Raises:
        DataError: a bad image, if ``on_bad_image`` is "error".
    """
    samples: list[TarSample] = []
    kept: list[dict[str, Any]] = []
    notes: dict[str, list[tuple[str, str]]] = {"sources": [], "rejected": [], "converted": []}
    for row in shard.rows:
        image_id = row["image_id"]
        try:
            data = images.read(image_id)
            jpeg, conversion = encode(data, settings)
        except (BadImageError, DataError) as error:
            if on_bad_image == "error":
                raise _bad_image(image_id, images.where(image_id), error) from error
            notes["rejected"].append((image_id, str(error)))
            continue
        if conversion:
            notes["converted"].append((image_id, conversion))
        notes["sources"].append((image_id, hashlib.sha256(data).hexdigest()))
        samples.append(tar_sample(row, jpeg))
        kept.append(row)
    tar, index = write_tar(samples)
    entry = _entry(shard, kept, tar, index)
    return PackedShard(tuple(tar), index, Receipt(entry, **{k: tuple(v) for k, v in notes.items()}))


def tar_sample(row: dict[str, Any], jpeg: bytes) -> TarSample:
    """Return the three members of one image."""
    return TarSample(
        image_id=row["image_id"],
        jpg=jpeg,
        cls=str(DX.index(row["dx"])).encode(),
        json=json.dumps(row, sort_keys=True).encode(),
    )


def _entry(
    shard: ShardPlan, kept: list[dict[str, Any]], tar: Sequence[bytes], index: bytes
) -> ShardEntry:
    digest = hashlib.sha256()
    for piece in tar:
        digest.update(piece)
    return ShardEntry(
        path=shard.path,
        split=shard.split,
        fold=shard.fold,
        samples=len(kept),
        bytes=sum(map(len, tar)),
        sha256=digest.hexdigest(),
        index_sha256=hashlib.sha256(index).hexdigest(),
        class_counts={dx: sum(row["dx"] == dx for row in kept) for dx in DX},
    )


def _bad_image(image_id: str, where: str, error: Exception) -> DataError:
    return DataError(
        f"bad image {image_id} ({where}): {error}; mend or remove it, or leave such images out "
        f"with --on-bad-image skip (they are listed in rejected.csv)"
    )


@dataclass(frozen=True)
class PackWork:
    """Pack and publish one shard; picklable, and safe to call again for the same shard."""

    images: Images
    """Where image bytes come from."""
    store: Store
    """Where shards go."""
    settings: EncodeSettings
    """How image bytes are made."""
    on_bad_image: Literal["error", "skip"]
    """Whether a bad image ends the build."""

    def part(self, shard: ShardPlan) -> "PackWork":
        """Return what packing this shard takes, and no more: what is sent to another process."""
        images = self.images.only(row["image_id"] for row in shard.rows)
        return dataclasses.replace(self, images=images)

    def __call__(self, shard: ShardPlan) -> Receipt:
        """Return the receipt, which is also left in the store, after the shard itself."""
        packed = pack_shard(shard, self.images, self.settings, on_bad_image=self.on_bad_image)
        entry = packed.receipt.entry
        if entry.samples:
            self.store.publish(entry.path, *packed.tar)
            self.store.publish(entry.index_path, packed.index)
        self.store.publish(receipt_name(entry.path), packed.receipt.to_json())
        return packed.receipt


def receipt_name(path: str) -> str:
    """Return the name of the receipt of the shard at ``path``."""
    return f"{RECEIPTS}/{path.replace('/', '--').removesuffix('.tar')}.json"


def completed(store: Store, shard: ShardPlan) -> Receipt | None:
    """Return the receipt of a shard that already lies in ``store`` undamaged, else None."""
    data = store.read(receipt_name(shard.path))
    if data is None:
        return None
    receipt = Receipt.from_json(data)
    entry = receipt.entry
    whole = not entry.samples or (
        store.sha256(entry.path) == entry.sha256
        and store.sha256(entry.index_path) == entry.index_sha256
    )
    return receipt if whole else None
