"""Evaluate the validation split on the ranks of this launch; rank 0 writes the metrics.

[accelerate launch ...] judge_ranks.py SHARDS OUT
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pipeline.evaluation.metrics.binary import binary_metrics, ones
from pipeline.learning.inference import predict_logits
from pipeline.loading.loader import make_loader
from pipeline.shards.dataset import open_shards
from pipeline.training.processes import make_accelerator


def main() -> None:
    accelerator = make_accelerator("no")
    split = open_shards(Path(sys.argv[1])).split("val")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2))
    found: dict[str, dict] = {"sizes": {}, "figures": {}}
    for batch_size in (8, 32):
        loader = make_loader(
            split,
            phase="eval",
            image_size=16,
            batch_size=batch_size,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            device=accelerator.device,
            threads=1,
        )
        batches = list(loader.epoch(0))
        found["sizes"][batch_size] = gather_object([[len(batch) for batch in batches]])
        predictions = predict_logits(model, batches, accelerator=accelerator)
        logits = predictions.logits.astype(np.float64)
        prob = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
        label = split.samples["label"].to_numpy()
        metrics = binary_metrics(label, prob, (prob > 0.5).astype(int), ones(len(label)))
        found["figures"][batch_size] = {
            "ids": predictions.image_ids,
            "logits": predictions.logits.tolist(),
            "metrics": {name: float(value.item()) for name, value in metrics.items()},
        }
    if accelerator.is_main_process:
        Path(sys.argv[2]).write_text(json.dumps(found))


main()
