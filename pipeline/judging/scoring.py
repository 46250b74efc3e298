"""From a split or images to logits, and from logits to probabilities and decisions.

found = logits_of(model, split, speed, accelerator, image_size=224, threads=4, tta="none")
table = scores(found.logits, card, card.threshold)
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from torch import nn

from pipeline.evaluation.flags import SpeedFlags
from pipeline.evaluation.predictions import scored
from pipeline.learning.flags import Tta
from pipeline.learning.inference import Predictions, predict_logits
from pipeline.learning.probability import class_probabilities, malignant_probability
from pipeline.learning.stored_model import ModelCard
from pipeline.loading.loader import make_loader
from pipeline.loading.portable import render_eval
from pipeline.shards.dataset import Split


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


def scores(logits: np.ndarray, card: ModelCard, threshold: float) -> pd.DataFrame:
    """Turn logits [N, K] into calibrated probabilities and decisions."""
    fitted = (card.task, card.temperature, card.bias)
    return scored(
        threshold,
        prob_malignant=malignant_probability(logits, *fitted),
        prob_uncalibrated=malignant_probability(logits, card.task),
        dx_probabilities=class_probabilities(logits, *fitted) if card.task == "dx" else None,
    )


def preprocess(images: Iterable[np.ndarray], card: ModelCard) -> torch.Tensor:
    """Images [H, W, 3] uint8 of any size to [N, 3, S, S] float32, as the eval loader does."""
    squares = []
    for image in images:
        squares.append(np.empty((card.image_size, card.image_size, 3), np.float32))
        render_eval(image, squares[-1])
    return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)
