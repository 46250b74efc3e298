"""Watching a training without slowing it: losses looked at now and then, time spent waiting."""

import math
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import DataError


class Watch:
    """Keeps the losses of the steps since the last look, on the device, with what made them."""

    def __init__(self) -> None:
        """Start with nothing seen."""
        self.pending: list[tuple[int, float, Tensor, tuple[str, ...]]] = []

    def add(self, step: int, lr: float, loss: Tensor, window: list[Any]) -> None:
        """Remember a step: its number, rate, loss (left on the device) and batches."""
        ids = tuple(image_id for batch in window for image_id in batch.image_ids)
        self.pending.append((step, lr, loss, ids))

    def look(self) -> float:
        """Return the mean loss since the last look; forces a GPU sync.

        Raises:
            DataError: where a loss is not finite, with the step, the rate and the images.
        """
        if not self.pending:
            return math.nan
        losses = torch.stack([loss for *_, loss, _ in self.pending]).tolist()
        for (step, lr, _, ids), loss in zip(self.pending, losses, strict=True):
            if not math.isfinite(loss):
                raise DataError(
                    f"the loss is {loss} at step {step + 1}, learning rate {lr:.3g}, with the "
                    f"images {', '.join(ids)}. The last checkpoint is intact; lower --lr, set "
                    "--clip-norm 1, use --mixed-precision no, or look at those images"
                )
        self.pending.clear()
        return sum(losses) / len(losses)


class Pace:
    """Seconds and images of an epoch, and how much of it was waiting for data."""

    def __init__(self) -> None:
        """Start the clock."""
        self.start, self.waited, self.images = time.perf_counter(), 0.0, 0
        self.looked = (self.start, 0.0, 0)
        """Clock, seconds waited and images at the last look."""

    def waiting(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield ``batches``, counting images and the time that ``next`` takes on the host."""
        iterator = iter(batches)
        while True:
            asked = time.perf_counter()
            batch = next(iterator, None)
            self.waited += time.perf_counter() - asked
            if batch is None:
                return
            self.images += len(batch.image_ids)
            yield batch

    @property
    def share(self) -> float:
        """Share of the epoch so far that was waiting."""
        return self.waited / (time.perf_counter() - self.start)

    def look(self, processes: int) -> dict[str, float]:
        """Return images/s of all processes and the share of time waiting, since the last look."""
        now = (time.perf_counter(), self.waited, self.images)
        seconds, waited, images = (new - old for new, old in zip(now, self.looked, strict=True))
        self.looked = now
        return rates(seconds, waited, images * processes)

    def stop(self, processes: int) -> dict[str, float]:
        """Return seconds, images/s of all processes, and the share of time waiting."""
        seconds = time.perf_counter() - self.start
        return {
            "seconds": round(seconds, 3),
            **rates(seconds, self.waited, self.images * processes),
        }


def rates(seconds: float, waited: float, images: float) -> dict[str, float]:
    """Return images/s and the share of ``seconds`` that was waiting."""
    return {
        "images_per_second": round(images / seconds, 1),
        "waiting_share": round(waited / seconds, 4),
    }


MOST_WAITING = 0.1
"""Share of an epoch's time that may be spent waiting for data without a word."""


def advice(waiting_share: float) -> str | None:
    """Return what to do where the network waits for its data, None where it hardly does."""
    if waiting_share <= MOST_WAITING:
        return None
    return (
        f"{waiting_share:.0%} of the epoch was spent waiting for data: give more --threads (or "
        "cores), pack smaller images (shards build --image-size, twice --image-size is plenty), "
        "try the other --backend, or keep shards from slow storage on a local disk (--cache)"
    )


def gpu_memory(device: torch.device) -> dict[str, float]:
    """Return the most memory that tensors have taken on a GPU, in GiB; nothing on a CPU."""
    if device.type != "cuda":
        return {}
    return {"gpu_memory_gib": round(torch.cuda.max_memory_allocated(device) / 2**30, 3)}
