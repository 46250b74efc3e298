"""Splits for the loading tests: the shared made-up shards, and some packed here at other sizes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.loading import Loader, make_loader
from pipeline.shards.dataset import Split, open_shards


@pytest.fixture(scope="session")
def train_split(packed: Path) -> Split:
    return open_shards(packed).split("train")


@pytest.fixture(scope="session")
def loader(train_split: Split) -> Callable[..., Loader]:
    """``loader(phase="train", ...)``: a loader of the made-up training split, on the CPU."""

    def make(split: Split = train_split, **flags: object) -> Loader:
        defaults = {"phase": "train", "image_size": 64, "batch_size": 8, "threads": 2, "seed": 7}
        return make_loader(split, **{**defaults, "device": torch.device("cpu"), **flags})  # type: ignore[arg-type]

    return make
