"""Losses and pace of an epoch, kept without slowing it: read now and then, not at every step."""

import math
import time
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from pipeline.errors import DataError
from pipeline.files import reach
from pipeline.loading.batch import Batch

WAITING_LIMIT = 0.1
"""Share of an epoch's time spent waiting for data above which advice is printed."""


class Diverged(DataError):  # noqa: N818 - a fact about the training
    """The training has left finite numbers."""

    def __init__(self, found: str, step: int) -> None:
        """Say what was found after ``step`` steps, and what to type."""
        self.step = step
        super().__init__(
            f"{found}. To go on from the checkpoint before, add to the same command --lr with a "
            "lower rate, --clip-norm 1 or --mixed-precision no, and --allow-changes; "
            "--resume never starts anew"
        )


class PendingLosses:
    """Losses of the steps since the last read, left on the device, with their images."""

    def __init__(self, read_means: list[float]) -> None:
        """Go on from the means of the reads since the last tracked point; they are kept there."""
        self.pending: list[tuple[int, float, Tensor, tuple[str, ...]]] = []
        self.read_means = read_means

    def add(self, step: int, lr: float, loss: Tensor, window: list[Batch]) -> None:
        """Keep a step's number, learning rate, loss and image ids."""
        ids = tuple(image_id for batch in window for image_id in batch.image_ids)
        self.pending.append((step, lr, loss, ids))

    def read(self) -> float:
        """Return the mean loss since the last read, nan without a step; forces a GPU sync.

        Raises:
            Diverged: a loss is not finite; the message names step, learning rate and images.
        """
        if not self.pending:
            return math.nan
        losses = torch.stack([loss for *_, loss, _ in self.pending]).tolist()
        for (step, lr, _, ids), loss in zip(self.pending, losses, strict=True):
            if not math.isfinite(loss):
                where = f"at step {step + 1}, learning rate {lr:.3g}"
                raise Diverged(
                    f"the loss is {loss} {where}, with the images {', '.join(ids)}", step
                )
        self.pending.clear()
        self.read_means.append(sum(losses) / len(losses))
        return self.read_means[-1]

    def mean_for_point(self) -> float:
        """Return the mean of the reads since the last tracked point, and start anew."""
        mean = sum(self.read_means) / len(self.read_means)
        self.read_means.clear()
        return mean


class Pace:
    """Seconds and images of an epoch, and the share of its time spent waiting for data."""

    def __init__(self) -> None:
        """Start the clock."""
        self.start, self.waited, self.images = time.perf_counter(), 0.0, 0
        self.last_look = (self.start, 0.0, 0)
        """Clock, seconds waited and images at the last look."""

    def waiting(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield ``batches``, counting images and the time that ``next`` takes on the host."""
        iterator = iter(batches)
        while True:
            asked = time.perf_counter()
            reach("batch", self.images)
            batch = next(iterator, None)
            self.waited += time.perf_counter() - asked
            if batch is None:
                return
            self.images += len(batch)
            reach("taken", batch.image_ids)
            yield batch

    @property
    def waiting_share(self) -> float:
        """Share of the epoch so far that was spent waiting."""
        return self.waited / (time.perf_counter() - self.start)

    def look(self, processes: int) -> dict[str, float]:
        """Return images/s of all processes and the share of time waiting, since the last look."""
        now = (time.perf_counter(), self.waited, self.images)
        seconds, waited, images = (new - old for new, old in zip(now, self.last_look, strict=True))
        self.last_look = now
        return _rates(seconds, waited, images * processes)

    def total(self, processes: int) -> dict[str, float]:
        """Return seconds, images/s of all processes and the share of time waiting, of the epoch."""
        seconds = time.perf_counter() - self.start
        rates = _rates(seconds, self.waited, self.images * processes)
        return {"seconds": round(seconds, 3), **rates}


def _rates(seconds: float, waited: float, images: float) -> dict[str, float]:
    return {
        "images_per_second": round(images / seconds, 1),
        "waiting_share": round(waited / seconds, 4),
    }


def advice(waiting_share: float) -> str | None:
    """Return what to do about waiting for data; None where there is little of it."""
    if waiting_share <= WAITING_LIMIT:
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
