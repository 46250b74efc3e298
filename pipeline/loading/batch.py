"""What a loader is, and what it yields: the same from each backend, local or streamed.

    for batch in loader.epoch(3, start=17):
        logits = network(batch.images)

These are exactly the batches that an uninterrupted epoch 3 has from number 17 on.
"""

import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch


@dataclass(frozen=True)
class Batch:
    """One batch of samples."""

    images: torch.Tensor
    """``[B, 3, H, W] float32``, normalised, channels-last, on the device."""

    labels: torch.Tensor
    """``[B] int64`` on the device: index of the class in the set's taxonomy."""

    image_ids: tuple[str, ...]
    """``B`` image ids, on the host."""

    labels_b: torch.Tensor | None = None
    """``[B] int64``, the labels mixed in by mixup or cutmix; None when nothing was mixed."""

    lam: torch.Tensor | None = None
    """``[B] float32``, share of ``labels`` against ``labels_b``; None when nothing was mixed."""

    def __len__(self) -> int:
        """Return the number of samples; 0 for a surplus batch of an evaluation."""
        return len(self.image_ids)


class Loader(Protocol):
    """Batches of one split. Its state is (epoch, position in its order) and nothing else."""

    @property
    def batches_per_epoch(self) -> int:
        """Batches of an epoch on this rank; equal on all ranks."""
        ...

    @property
    def samples_per_epoch(self) -> int:
        """Samples of an epoch over all ranks, those that fill no global batch included."""
        ...

    def epoch(
        self, epoch: int, start: int = 0, bounds: Sequence[int] | None = None
    ) -> Iterator[Batch]:
        """Yield the batches of ``epoch`` from number ``start`` on; one epoch at a time.

        ``bounds``, from ``order.cuts``, say where in the epoch's order these lie: needed after a
        resume on another global batch.
        """
        ...

    def close(self) -> None:
        """Stop the threads and close the shards."""
        ...


class Buffers:
    """Memory for batches, used again once nothing refers to it any more.

    A batch of 64 images of 224 pixels is 38 MB. In fresh memory the system clears and maps each of
    its 9,408 pages at the first write, which took 0.3 ms an image here, as long as the warp.
    """

    def __init__(self, shape: tuple[int, ...], *, keep: int) -> None:
        """Give tensors of ``shape``, ``float32``; at most ``keep`` unused ones stay."""
        self._shape = shape
        self._free: deque[np.ndarray] = deque(maxlen=keep)

    def take(self) -> torch.Tensor:
        """Return a tensor of any content; its memory is recycled once unreferenced.

        A tensor made from an array holds that array for as long as its storage lives: views,
        slices and what autograd saved included. So the memory is free when the array is deleted.
        """
        try:
            memory = self._free.pop()
        except IndexError:
            memory = np.empty(self._shape, dtype=np.float32)
        lent = memory.view()
        weakref.finalize(lent, self._free.append, memory).atexit = False
        return torch.from_numpy(lent)
