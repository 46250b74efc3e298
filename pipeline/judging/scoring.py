"""What the commands on a checkpoint share: it and the shards opened, images to logits.

opened = open_both(flags.data, accelerator)
found = logits_of(opened.model, opened.split, flags.speed, accelerator, ...)
table = opened.card.scores(found.logits, classes=classes_judged(opened.card, opened.shards))
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from torch import nn

from pipeline.evaluation.flags import DataFlags, SpeedFlags
from pipeline.evaluation.leak import refuse
from pipeline.learning.flags import Tta
from pipeline.learning.inference import Predictions, predict_logits
from pipeline.learning.stored_model import ModelCard, load_stored
from pipeline.loading.loader import make_loader
from pipeline.loading.portable import render_eval
from pipeline.shards.dataset import ShardSet, Split, open_shards
from pipeline.shards.intact import ensure_intact
from pipeline.shards.storage.object_store import cached


@dataclass(frozen=True)
class Opened:
    """A checkpoint, and the split of the shards that it meets."""

    model: nn.Module
    """On the device, in eval mode."""
    card: ModelCard
    training: pd.DataFrame
    """The checkpoint's train and validation samples."""
    shards: ShardSet
    split: Split
    samples: pd.DataFrame
    """Of the split; read once, as ``split.samples`` reads it anew."""


def open_both(data: DataFlags, accelerator: Accelerator) -> Opened:
    """Open the checkpoint and verified shards; refuse a split that it was trained on."""
    model, card, training = load_stored(data.checkpoint, allow_edited=data.allow_edited)
    with accelerator.local_main_process_first():  # one process a machine fetches and verifies
        shards = open_shards(cached(data.shards, data.cache))
        ensure_intact(shards, [data.split], progress=accelerator.is_main_process)
    split = shards.split(data.split, data.fold)
    samples = split.samples
    if not data.allow_leak:
        refuse(samples, training, f"split {data.split} of {data.shards}")
    model.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Opened(model, card, training, shards, split, samples)


def logits_of(
    model: nn.Module,
    split: Split,
    speed: SpeedFlags,
    accelerator: Accelerator,
    *,
    image_size: int,
    threads: int,
    tta: Tta,
) -> Predictions:
    """Predict every image once; which share a batch does not depend on the number of ranks."""
    loader = make_loader(
        split,
        phase="eval",
        backend=speed.backend,
        image_size=image_size,
        batch_size=speed.batch_size,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        device=accelerator.device,
        threads=threads,
    )
    batches, total = loader.epoch(0), loader.batches_per_epoch
    found = predict_logits(
        model, batches, accelerator=accelerator, tta=tta, progress="predicting", total=total
    )
    loader.close()
    return found


def classes_judged(card: ModelCard, shards: ShardSet) -> dict[str, str]:
    """Return the shards' class for each of the model's that has one; {} for benign/malignant alone.

    That is where either has only these labels, or fewer than two classes map.
    """
    if card.task == "binary" or shards.manifest.labels == "binary":
        return {}
    shared = card.taxonomy.shared(shards.taxonomy)
    return shared if len({*shared.values()}) > 1 else {}


def preprocess(images: Iterable[np.ndarray], card: ModelCard) -> torch.Tensor:
    """Images [H, W, 3] uint8 of any size to [N, 3, S, S] float32, as the eval loader does."""
    squares = []
    for image in images:
        squares.append(np.empty((card.image_size, card.image_size, 3), np.float32))
        render_eval(image, squares[-1])
    return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)
