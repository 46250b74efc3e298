"""A model over a loader, once: logits of every sample, on every rank, in the loader's order.

    batches --(each rank: r, r + W, ...)--> logits --(gather, put back in order)--> Predictions

Which samples stand together in a batch does not depend on the number of processes, so neither
do the logits (as long as a process has as many threads).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from tqdm import tqdm


@dataclass(frozen=True)
class Predictions:
    """What a model said about each sample."""

    image_ids: tuple[str, ...]
    """One id a sample, in the order of the split."""

    logits: np.ndarray
    """float32 [N, K], averaged over the views of test-time augmentation."""


def views(images: Tensor, tta: str) -> Iterator[Tensor]:
    """Yield the views to average, each [B, 3, H, W] like ``images`` (square for "dihedral")."""
    yield images
    if tta == "none":
        return
    yield images.flip(3)
    yield images.flip(2)
    yield images.flip(2, 3)
    if tta == "dihedral":
        turned = images.transpose(2, 3)
        yield turned
        yield turned.flip(3)
        yield turned.flip(2)
        yield turned.flip(2, 3)


@torch.inference_mode()
def predict_logits(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    accelerator: Accelerator,
    tta: str = "none",
    progress: str | None = None,
    total: int | None = None,
) -> Predictions:
    """Run ``model`` in eval mode over ``batches``; its mode is put back afterwards.

    Every rank must pass equally many batches (some may be empty). Gathering happens once, at the
    end, and forces a GPU sync.

    Args:
        model: the network itself, not what ``accelerator.prepare`` returned.
        batches: an epoch of an eval loader: ``Batch`` objects, rank r of W holding r, r + W, ...
        accelerator: says the rank and the precision.
        tta: "none", "flips" (4 views) or "dihedral" (8 views: flips and quarter turns).
        progress: the label of a progress bar on the main process; none when None.
        total: batches to come, for the bar.
    """
    was_training = model.training
    model.eval()
    # None: the bar shows itself where standard error is a terminal
    hidden = True if progress is None or not accelerator.is_main_process else None
    found: list[tuple[tuple[str, ...], Tensor]] = []
    for batch in tqdm(batches, desc=progress, total=total, disable=hidden, leave=False):
        if len(batch.image_ids) == 0:
            continue
        with accelerator.autocast():
            logits = torch.stack([model(view).float() for view in views(batch.images, tta)])
        found.append((tuple(batch.image_ids), logits.mean(0)))  # stays on the device: no sync
    model.train(was_training)
    rank, ranks = accelerator.process_index, accelerator.num_processes
    local = [(i * ranks + rank, ids, out.cpu().numpy()) for i, (ids, out) in enumerate(found)]
    return joined(gather_object(local))


def joined(parts: list[tuple[int, tuple[str, ...], np.ndarray]]) -> Predictions:
    """Put batches (number in the fixed sequence, ids, logits) into their order."""
    parts = sorted(parts, key=lambda part: part[0])
    if not parts:
        return Predictions((), np.zeros((0, 0), dtype=np.float32))
    ids = tuple(image_id for _, batch_ids, _ in parts for image_id in batch_ids)
    return Predictions(ids, np.concatenate([logits for *_, logits in parts]))
