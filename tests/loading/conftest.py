"""Splits for the loading tests: the shared synthetic shards, and shards of given JPEGs."""

import io
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pipeline.ham10000.taxonomy import HAM10000
from pipeline.loading.batch import Loader
from pipeline.loading.loader import make_loader
from pipeline.shards.dataset import Split, open_shards
from pipeline.shards.format import TarSample, write_tar
from pipeline.shards.manifest import ShardEntry


@pytest.fixture
def cuda() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device("cuda", 0)


@pytest.fixture(scope="session")
def train_split(packed: Path) -> Split:
    return open_shards(packed).split("train")


@pytest.fixture(scope="session")
def loader(train_split: Split) -> Callable[..., Loader]:
    """``loader(phase="train", ...)``: a loader of the synthetic training split, on the CPU."""

    def make(split: Split = train_split, **flags: object) -> Loader:
        defaults = {"phase": "train", "image_size": 64, "batch_size": 8, "threads": 2, "seed": 7}
        return make_loader(split, **{**defaults, "device": torch.device("cpu"), **flags})  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def jpeg_of() -> Callable[[np.ndarray], bytes]:
    """``jpeg_of(pixels)``: ``[H, W, 3] uint8`` as a JPEG without chroma subsampling."""

    def encode(pixels: np.ndarray) -> bytes:
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "JPEG", quality=95, subsampling=0)
        return out.getvalue()

    return encode


@pytest.fixture(scope="session")
def split_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Split]:
    """``split_of(jpegs, dx=..., per_shard=20)``: a training split with exactly these JPEGs."""
    numbers = itertools.count()

    def make(jpegs: Sequence[bytes], dx: Sequence[str] = (), per_shard: int = 20) -> Split:
        root = tmp_path_factory.mktemp("split") / str(next(numbers))
        root.mkdir()
        classes = list(dx) or ["nv"] * len(jpegs)
        names = [f"ISIC_{number:07d}" for number in range(len(jpegs))]
        entries = []
        for start in range(0, len(jpegs), per_shard):
            some = range(start, min(start + per_shard, len(jpegs)))
            label = [str(HAM10000.classes.index(classes[k])).encode() for k in some]
            tar, index = write_tar(
                [
                    TarSample(names[k], jpegs[k], cls, b"{}")
                    for k, cls in zip(some, label, strict=True)
                ]
            )
            name = f"tiny-train-{start // per_shard:06d}.tar"
            (root / name).write_bytes(b"".join(tar))
            (root / name).with_suffix(".idx").write_bytes(index)
            entries.append(
                ShardEntry(name, "train", None, len(some), sum(map(len, tar)), "", "", {})
            )
        table = pd.DataFrame({"image_id": names, "dx": classes})
        return Split("train", root, tuple(entries), lambda _: table, HAM10000)

    return make
