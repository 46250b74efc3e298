"""Losses and pace of an epoch, kept without slowing it: no step and no look waits for a GPU."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from pipeline.errors import DataError
from pipeline.files import reach
from pipeline.loading.batch import Batch
from pipeline.training.state import Arriving

Step = tuple[int, float, Tensor, tuple[str, ...]]
"""Steps before it, learning rate, loss (0-dimensional, on the device), image ids."""

Track = Callable[[float], None]
"""Takes the mean loss of a tracked point when it is known."""

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
    """Losses of the steps, left on the device until a look begins to copy them to the host.

    On a GPU the next look reads that copy, which has long arrived; on a CPU a look reads at once.
    """

    def __init__(self, read_means: list[float]) -> None:
        """Go on from the means of the reads since the last tracked point; they are kept there."""
        self.pending: list[Step] = []
        self.copying: tuple[list[Step], Arriving, Track | None] | None = None
        self.read_means = read_means
        self.latest = "?"  # the mean of the last read, for the progress bar

    def add(self, step: int, lr: float, loss: Tensor, window: list[Batch]) -> None:
        """Keep a step's number, learning rate, loss and image ids."""
        ids = tuple(image_id for batch in window for image_id in batch.image_ids)
        self.pending.append((step, lr, loss, ids))

    def look(self, track: Track | None = None) -> None:
        """Read the losses of the look before, and begin to copy those since.

        ``track`` is called when these are read, with the mean of the reads since the last point.
        Diverged: a loss is not finite; the message names step, learning rate and images.
        """
        self.read()
        if not self.pending:
            return
        losses = torch.stack([loss for *_, loss, _ in self.pending])
        self.copying, self.pending = (self.pending, Arriving(losses), track), []
        if not losses.is_cuda:
            self.read()

    def drain(self) -> None:
        """Read all losses now (forces a GPU sync); raises as ``look`` does."""
        self.look()
        self.read()

    def read(self) -> None:
        """Read what the last look began to copy, if it is not read yet; raises as ``look`` does."""
        if self.copying is None:
            return
        (steps, arriving, track), self.copying = self.copying, None
        losses = arriving.tolist()
        for (step, lr, _, ids), loss in zip(steps, losses, strict=True):
            if not math.isfinite(loss):
                where = f"at step {step + 1}, learning rate {lr:.3g}"
                raise Diverged(
                    f"the loss is {loss} {where}, with the images {', '.join(ids)}", step
                )
        self.read_means.append(sum(losses) / len(losses))
        self.latest = f"{self.read_means[-1]:.4f}"
        if track:
            track(sum(self.read_means) / len(self.read_means))
            self.read_means.clear()


class Pace:
    """Seconds and images of an epoch, and the share of its time spent waiting for data.

    On a GPU that is the time of its stream between the end of all work before a batch and the
    batch's arrival, whether host or stream waited; the upload counts. Two events tell it later.
    """

    def __init__(self, device: torch.device) -> None:
        """Start the clock of an epoch on ``device``."""
        self.on_gpu = device.type == "cuda"
        self.gaps: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()
        """Events before and after waits that are not counted yet."""
        self.spare: list[torch.cuda.Event] = []
        self.start, self.waited, self.images = time.perf_counter(), 0.0, 0
        self.end = 0.0  # of the training, when its validation begins
        self.last_look = (self.start, 0.0, 0)
        """Clock, seconds waited and images at the last look."""

    def waiting(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield ``batches``, counting images and the time that ``next`` takes."""
        iterator = iter(batches)
        while True:
            asked, event = time.perf_counter(), self._recorded() if self.on_gpu else None
            reach("batch", self.images)
            batch = next(iterator, None)
            if event:
                self.gaps.append((event, self._recorded()))
            else:
                self.waited += time.perf_counter() - asked
            if batch is None:
                return
            self.images += len(batch)
            reach("taken", batch.image_ids)
            yield batch

    def _recorded(self) -> torch.cuda.Event:
        """Return an event that a GPU's stream reaches when its work so far is done."""
        event = self.spare.pop() if self.spare else torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds_waited(self) -> float:
        """Return the seconds of waits so far; a GPU's that are over, without a sync."""
        while self.gaps and self.gaps[0][1].query():
            before, after = self.gaps.popleft()
            self.waited += before.elapsed_time(after) / 1000
            self.spare += (before, after)
        return self.waited

    def look(self, processes: int) -> dict[str, float]:
        """Return images/s of all processes and the share of time waiting, since the last look."""
        now = (time.perf_counter(), self.seconds_waited(), self.images)
        seconds, waited, images = (new - old for new, old in zip(now, self.last_look, strict=True))
        self.last_look = now
        return _rates(seconds, waited, images * processes)

    def total(self, processes: int) -> dict[str, float]:
        """Return seconds, images/s of all and share of waiting up to ``end``; seconds since."""
        now = time.perf_counter()
        seconds, since = (self.end or now) - self.start, now - (self.end or now)
        rates = _rates(seconds, self.seconds_waited(), self.images * processes)
        return {"seconds": round(seconds, 3), **rates, "validation_seconds": round(since, 3)}


def _rates(seconds: float, waited: float, images: float) -> dict[str, float]:
    # a GPU's wait counts when it is over, so it may have begun before these seconds
    share = round(min(waited / seconds, 1), 4) if images else 0.0
    return {"images_per_second": round(images / seconds, 1), "waiting_share": share}


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
