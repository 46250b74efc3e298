"""From a split or images to logits, and from logits to probabilities and decisions.

found = logits_of(model, split, speed, accelerator, image_size=224, threads=4, tta="none")
table = scores(found.logits, card, card.threshold, classes_judged(card, shards))
"""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from torch import nn

from pipeline.evaluation.flags import SpeedFlags
from pipeline.evaluation.predictions import renamed, scored
from pipeline.learning.flags import Tta
from pipeline.learning.inference import Predictions, predict_logits
from pipeline.learning.probability import class_probabilities, malignant_probability
from pipeline.learning.stored_model import ModelCard
from pipeline.loading.loader import make_loader
from pipeline.loading.portable import render_eval
from pipeline.shards.dataset import ShardSet, Split


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


def scores(
    logits: np.ndarray, card: ModelCard, threshold: float, classes: Mapping[str, str]
) -> pd.DataFrame:
    """Turn logits [N, K] into calibrated probabilities and decisions.

    ``classes`` has the name in the table of each of the model's classes that gets a column; the
    probabilities of classes of one name are added.
    """
    fitted = (card.outputs, card.temperature, card.bias)
    own = dict(zip(card.classes, class_probabilities(logits, *fitted).T, strict=True))
    return scored(
        threshold,
        prob_malignant=malignant_probability(logits, *fitted),
        prob_uncalibrated=malignant_probability(logits, card.outputs),
        by_class=renamed(own, classes),
    )


def preprocess(images: Iterable[np.ndarray], card: ModelCard) -> torch.Tensor:
    """Images [H, W, 3] uint8 of any size to [N, 3, S, S] float32, as the eval loader does."""
    squares = []
    for image in images:
        squares.append(np.empty((card.image_size, card.image_size, 3), np.float32))
        render_eval(image, squares[-1])
    return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)
