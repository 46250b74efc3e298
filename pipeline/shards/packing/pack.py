"""Pack one shard: a function of its plan and the source, independent of all other shards.

``PackWork`` is what an engine calls, in any process and any order: it packs, publishes tar and
index to the store, then a receipt. A receipt therefore means that its shard is complete; a build
that is started again skips such shards. Calling the work twice changes nothing.

    receipt = PackWork(source.store, store, EncodeSettings(256), "error", classes)(shard_plan)
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import DataError
from pipeline.files import sha256
from pipeline.ham10000.decoding.jpeg import BadImageError
from pipeline.ham10000.images import ImageStore, OnBadImage
from pipeline.shards.format import TarSample, write_tar
from pipeline.shards.manifest import ShardEntry
from pipeline.shards.packing.encode import encode
from pipeline.shards.packing.shard_plan import EncodeSettings, ShardPlan
from pipeline.shards.storage.store import Store

RECEIPTS = ".build/receipts"
"""Folder of the receipts below OUT; removed once the manifest is written."""


@dataclass(frozen=True)
class Receipt:
    """What packing one shard resulted in."""

    entry: ShardEntry
    """The shard as the manifest will list it; ``samples`` may be 0, then no file was written."""
    sources: tuple[tuple[str, str], ...]
    """Image id and sha256 of its source file, for each sample packed, in packing order."""
    rejected: tuple[tuple[str, str], ...]
    """Image id and reason of each bad image."""
    converted: tuple[tuple[str, str], ...]
    """Image id and kind of conversion."""

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
class PackWork:
    """Pack and publish one shard; picklable, and safe to call again for the same shard."""

    images: ImageStore
    store: Store
    settings: EncodeSettings
    on_bad_image: OnBadImage
    classes: tuple[str, ...]
    """Of the taxonomy, by index."""

    def part(self, shard: ShardPlan) -> "PackWork":
        """Return what packing this shard needs, and no more: what is sent to another process."""
        images = self.images.only(row["image_id"] for row in shard.rows)
        return dataclasses.replace(self, images=images)

    def __call__(self, shard: ShardPlan) -> Receipt:
        """Pack and publish ``shard``; a bad image is a DataError if ``on_bad_image`` is "error"."""
        tar, index, receipt = self._pack(shard)
        entry = receipt.entry
        if entry.samples:
            self.store.publish(entry.path, *tar)
            self.store.publish(entry.index_path, index)
        self.store.publish(receipt_name(entry.path), receipt.to_json())
        return receipt

    def _pack(self, shard: ShardPlan) -> tuple[list[bytes], bytes, Receipt]:
        """Return the bytes of tar (in pieces) and index, and the receipt."""
        samples: list[TarSample] = []
        counts = dict.fromkeys(self.classes, 0)
        notes: dict[str, list[tuple[str, str]]] = {"sources": [], "rejected": [], "converted": []}
        for row in shard.rows:
            image_id = row["image_id"]
            try:
                data = self.images.read(image_id)
                jpeg, conversion = encode(data, self.settings)
            except (BadImageError, DataError) as error:
                if self.on_bad_image == "error":
                    raise DataError(
                        f"bad image {image_id} ({self.images.where(image_id)}): {error}; repair or "
                        f"remove it, or leave such images out with --on-bad-image skip (they are "
                        f"listed in rejected.csv)"
                    ) from error
                notes["rejected"].append((image_id, str(error)))
                continue
            if conversion:
                notes["converted"].append((image_id, conversion))
            notes["sources"].append((image_id, sha256(data)))
            samples.append(tar_sample(row, jpeg, self.classes))
            counts[row["dx"]] += 1
        tar, index = write_tar(samples)
        entry = ShardEntry(
            path=shard.path,
            split=shard.split,
            fold=shard.fold,
            samples=len(samples),
            bytes=sum(map(len, tar)),
            sha256=sha256(*tar),
            index_sha256=sha256(index),
            class_counts=counts,
        )
        return tar, index, Receipt(entry, **{key: tuple(note) for key, note in notes.items()})


Engine = Callable[[PackWork, Sequence[ShardPlan]], Iterator[Receipt]]
"""Calls the work for every shard given and yields the receipts, in any order."""


def tar_sample(row: dict[str, Any], jpeg: bytes, classes: Sequence[str]) -> TarSample:
    """Return the three members of one image; ``classes`` by index."""
    return TarSample(
        image_id=row["image_id"],
        jpg=jpeg,
        cls=str(classes.index(row["dx"])).encode(),
        json=json.dumps(row, sort_keys=True).encode(),
    )


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
    files = {entry.path: entry.sha256, entry.index_path: entry.index_sha256}
    whole = all(sha256(store.read(name) or b"") == digest for name, digest in files.items())
    return receipt if whole or not entry.samples else None
