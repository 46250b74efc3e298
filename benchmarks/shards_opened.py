"""What opening shards costs a rank, to its first batch, as JSON: helper of ``benchmarks.shards``.

python -m benchmarks.shards_opened shards/ham10000
"""

import json
import sys
import time
from pathlib import Path

import torch

from benchmarks.shards_memory import resident
from pipeline.loading.loader import make_loader
from pipeline.loading.samples import Samples
from pipeline.shards.dataset import open_shards


def opened(root: Path) -> dict[str, float]:
    """Return seconds to open the train split and to its first batch, and bytes kept an image."""
    before, began = resident(), time.perf_counter()
    split = open_shards(root).split("train")
    samples = Samples(split)
    found = {
        "open_s": time.perf_counter() - began,
        "bytes_an_image": (resident() - before) / len(samples),
    }
    loader = make_loader(
        split,
        phase="train",
        image_size=32,
        batch_size=32,
        device=torch.device("cpu"),
        threads=1,
        backend="portable",
    )
    next(iter(loader.epoch(0)))
    return found | {"first_batch_s": time.perf_counter() - began}


if __name__ == "__main__":
    print(json.dumps(opened(Path(sys.argv[1]))))
