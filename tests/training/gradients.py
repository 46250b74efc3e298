"""Gradients of train.py's ``backward`` for 16 fixed images, split over the ranks of this launch.

    accelerate launch ... gradients.py OUT [--accumulate N] [--fail-rank R]

Batch norm is in eval mode: it would see other batches. Rank 0 writes the gradients to OUT.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import train
from pipeline.cli import guard
from pipeline.errors import DataError
from pipeline.learning.losses import Loss
from pipeline.learning.model import build_model
from pipeline.loading.batch import Batch
from pipeline.training.processes import make_accelerator, set_threads

IMAGES = 16


def main() -> None:
    out, accumulate = sys.argv[1], int(sys.argv[3]) if "--accumulate" in sys.argv else 1
    accelerator = make_accelerator("no")
    set_threads(1, accelerator)
    if "--fail-rank" in sys.argv and accelerator.process_index == int(sys.argv[3]):
        raise DataError(f"rank {accelerator.process_index} met a damaged thing")
    torch.manual_seed(0)
    model = build_model("resnet18", 2).eval()
    network = accelerator.prepare(model)
    images = torch.randn(IMAGES, 3, 32, 32)
    labels = torch.tensor([1] * 3 + [0] * 13)  # the first half weighs far more than the second
    counts = np.array([13, 3])
    device = torch.device("cpu")
    criterion = Loss(
        "cross-entropy",
        counts,
        weighting="inverse",
        focal_gamma=0,
        label_smoothing=0,
        device=device,
    )
    run = SimpleNamespace(
        accelerator=accelerator,
        criterion=criterion,
        state=SimpleNamespace(
            network=network,
            sums=torch.zeros(4, dtype=torch.float64),
            count=lambda logits, target: None,
        ),
        targets=lambda batch: (batch.labels, None, None),
    )
    size = IMAGES // accelerator.num_processes // accumulate
    first = accelerator.process_index * accumulate * size
    starts = [first + number * size for number in range(accumulate)]
    window = [
        Batch(images[start : start + size], labels[start : start + size], ("",) * size)
        for start in starts
    ]
    train.backward(run, window)
    if accelerator.is_main_process:
        own = {name: parameter.grad for name, parameter in model.named_parameters()}
        # the oracle: torch's weighted cross-entropy over all images at once
        fresh = build_model("resnet18", 2).eval()
        fresh.load_state_dict(model.state_dict())
        weight = criterion.class_weight
        nn.functional.cross_entropy(fresh(images), labels, weight=weight).backward()
        oracle = {name: parameter.grad for name, parameter in fresh.named_parameters()}
        # what a mean of the halves' means would give
        half = build_model("resnet18", 2).eval()
        half.load_state_dict(model.state_dict())
        for part in (slice(0, 8), slice(8, 16)):
            logits = half(images[part])
            (nn.functional.cross_entropy(logits, labels[part], weight=weight) / 2).backward()
        naive = {name: parameter.grad for name, parameter in half.named_parameters()}
        torch.save({"own": own, "oracle": oracle, "naive": naive}, out)


guard(main)
