"""Make shards of tiny samples up, in the format and with the manifest of real ones, fast.

    write_tiny_shards(Path("tiny"), shards=1000, samples_per_shard=100)

All samples carry the same small JPEG; ids, lesions and classes differ. For benchmarks of what
depends on the number of samples and shards, not on pixels.
"""

import io
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from pipeline.files import sha256
from pipeline.ham10000.taxonomy import HAM10000
from pipeline.shards.format import write_tar
from pipeline.shards.manifest import MANIFEST_NAME, TABLE_NAME, Manifest, ShardEntry
from pipeline.shards.packing.pack import tar_sample
from pipeline.shards.plan import TABLE_COLUMNS
from pipeline.shards.tables import table_bytes


def tiny_jpeg() -> bytes:
    """Return a JPEG of 48 x 36 pixels, some 1.2 KB."""
    noise = np.random.default_rng(0).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).resize((48, 36)).save(out, "JPEG", quality=90)
    return out.getvalue()


def write_tiny_shards(root: Path, *, shards: int, samples_per_shard: int) -> None:
    """Write ``shards`` training shards below ``root``, two thirds of the samples benign."""
    jpeg = tiny_jpeg()
    tables, entries = [], []
    (root / "train").mkdir(parents=True)
    for number in tqdm(range(shards), desc="making shards up", disable=None, leave=False):
        path = f"train/tiny-train-{number:06d}.tar"
        rows = [
            _row(number * samples_per_shard + place, path) for place in range(samples_per_shard)
        ]
        pieces, index = write_tar([tar_sample(row, jpeg, HAM10000.classes) for row in rows])
        tar = b"".join(pieces)
        (root / path).write_bytes(tar)
        (root / path).with_suffix(".idx").write_bytes(index)
        entries.append(_entry(path, rows, tar, index))
        tables += rows
    table = table_bytes(pd.DataFrame(tables, columns=list(TABLE_COLUMNS)))
    (root / TABLE_NAME).write_bytes(table)
    manifest = Manifest(
        name="tiny",
        labels="dx",
        source={},
        split={"by": "lesion", "folds": 0},
        encode={},
        counts={"train": len(tables), "val": 0, "test": 0},
        files={TABLE_NAME: sha256(table)},
        shards=tuple(entries),
    )
    (root / MANIFEST_NAME).write_bytes(manifest.to_json())


def _row(number: int, path: str) -> dict[str, object]:
    dx = ("nv", "nv", "mel", "nv", "bkl", "bcc")[number % 6]
    known: dict[str, object] = {
        "image_id": f"ISIC_{number:07d}",
        "lesion_id": f"HAM_{number:07d}",
        "group": f"HAM_{number:07d}",
        "dx": dx,
        "label": int(dx in HAM10000.malignant),
        "split": "train",
        "shard": path,
        "age": 50.0,
        "sex": "female",
        "localization": "back",
        "dx_type": "histo",
    }
    return {column: known[column] for column in TABLE_COLUMNS}


def _entry(path: str, rows: list[dict[str, object]], tar: bytes, index: bytes) -> ShardEntry:
    return ShardEntry(
        path=path,
        split="train",
        fold=None,
        samples=len(rows),
        bytes=len(tar),
        sha256=sha256(tar),
        index_sha256=sha256(index),
        class_counts={dx: sum(row["dx"] == dx for row in rows) for dx in HAM10000.classes},
    )
