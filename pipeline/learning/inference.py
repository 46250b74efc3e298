"""A model over a loader, once: logits of every sample, on every rank, in the loader's order.

    batches --(rank r of W holds r, r + W, ...)--> logits --(gather, sort)--> Predictions

The composition of a batch does not depend on the number of processes, so neither do the logits
(for an equal number of threads per process).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from tqdm import tqdm

from pipeline.learning.flags import Tta
from pipeline.loading.batch import Batch


@dataclass(frozen=True)
class Predictions:
    """The logits of each sample."""

    image_ids: tuple[str, ...]
    """One id a sample, in the order of the split."""
    logits: np.ndarray
    """float32 [N, K], averaged over the views of test-time augmentation."""


def views(images: Tensor, tta: Tta) -> Iterator[Tensor]:
    """Yield the views to average, each [B, 3, H, W] like ``images`` (square for "dihedral")."""
    if tta == "none":
        yield images
        return
    for source in (images, images.transpose(2, 3)) if tta == "dihedral" else (images,):
        yield source
        yield source.flip(3)
        yield source.flip(2)
        yield source.flip(2, 3)


@torch.inference_mode()
def average_logits(
    model: nn.Module, images: Tensor, *, accelerator: Accelerator, tta: Tta
) -> Tensor:
    """Return the logits [B, K] float32 of images [B, 3, H, W], averaged over the views."""
    with accelerator.autocast():  # a CUDA graph's next output takes the place of this one
        return torch.stack([model(view).float().clone() for view in views(images, tta)]).mean(0)


@torch.inference_mode()
def predict_logits(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    accelerator: Accelerator,
    tta: Tta = "none",
    progress: str | None = None,
    total: int | None = None,
) -> Predictions:
    """Run ``model`` in eval mode over an epoch of an eval loader; its mode is put back afterwards.

    ``model`` is the network itself, not what ``accelerator.prepare`` returned. Every rank must
    pass equally many batches (some may be empty). Gathering happens once, at the end, and forces a
    GPU sync. ``progress`` labels a progress bar of ``total`` batches on the main process.
    """
    was_training = model.training
    model.eval()
    # disable=None shows the bar only where standard error is a terminal
    hidden = True if progress is None or not accelerator.is_main_process else None
    found: list[tuple[tuple[str, ...], Tensor]] = []
    for batch in tqdm(batches, desc=progress, total=total, disable=hidden, leave=False):
        if len(batch) == 0:
            continue
        logits = average_logits(model, batch.images, accelerator=accelerator, tta=tta)
        found.append((batch.image_ids, logits))  # stays on the device: no sync
    model.train(was_training)
    rank, ranks = accelerator.process_index, accelerator.num_processes
    own = [(i * ranks + rank, ids, out.cpu().numpy()) for i, (ids, out) in enumerate(found)]
    parts = sorted(gather_object(own), key=lambda part: part[0])
    ids = tuple(image_id for _, batch_ids, _ in parts for image_id in batch_ids)
    rows = [logits for *_, logits in parts] or [np.zeros((0, 0), dtype=np.float32)]
    return Predictions(ids, np.concatenate(rows))
