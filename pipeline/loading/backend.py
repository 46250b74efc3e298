"""What both backends share: the facts that decide a batch, and threads that work ahead.

    plan.requests(epoch, start) -> prepare, in threads -> pixels, made by the backend -> Batch

A backend is a subclass with the method ``epoch``; ``loader.loader_of`` chooses one.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

import numpy as np
import torch

from pipeline.loading.augment import Augmentation, draw
from pipeline.loading.batch import Batch
from pipeline.loading.order import BatchRequest, EpochPlan
from pipeline.loading.presets import TrainPreset
from pipeline.loading.samples import Samples

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Prepared:
    """What the pixels of a batch are made from."""

    request: BatchRequest
    """The batch."""

    jpegs: list[bytes]
    """Of its samples."""

    sizes: np.ndarray
    """``[B, 2] int``, their width and height, pixels."""

    drawn: Augmentation | None
    """Their augmentation; None in evaluation."""


@dataclass(eq=False, repr=False)
class BackendLoader:
    """A loader of one split; a backend adds ``epoch``."""

    samples: Samples
    """The split."""

    plan: EpochPlan
    """Which of its samples are in which batch."""

    preset: TrainPreset
    """The augmentation of the train phase."""

    image_size: int
    """Side of the output, pixels."""

    device: torch.device
    """Where the batches go."""

    threads: int
    """Threads that decode, per process; at least 1 is used."""

    pool: ThreadPoolExecutor = field(init=False)
    """Python threads that work ahead of the consumer; started by the backend."""

    def __post_init__(self) -> None:
        """Use one thread at least."""
        self.threads = max(1, self.threads)

    @property
    def batches_per_epoch(self) -> int:
        """Batches of an epoch on this rank; equal on all ranks."""
        return self.plan.batches_per_epoch

    @property
    def samples_per_epoch(self) -> int:
        """Samples of an epoch over all ranks, those that fill no global batch included."""
        return self.plan.samples_per_epoch

    def close(self) -> None:
        """Stop the threads and close the shards."""
        self.pool.shutdown(cancel_futures=True)
        self.samples.close()

    def prepare(self, request: BatchRequest) -> Prepared:
        """Read the samples of a batch and draw their augmentation; runs in a thread."""
        rows = request.rows.tolist()
        jpegs = [self.samples.read(row) for row in rows]
        sizes, drawn = self.samples.sizes(rows, jpegs), None
        if self.plan.phase == "train":
            how = {"seed": self.plan.seed, "epoch": request.epoch, "start": request.position}
            drawn = draw(self.preset, sizes, image_size=self.image_size, **how)
        return Prepared(request, jpegs, sizes, drawn)

    def batch(self, request: BatchRequest, images: torch.Tensor) -> Batch:
        """Return the batch of finished ``images``, ``[B, 3, S, S] float32`` on the device."""
        return Batch(
            images=images,
            labels=self.send(self.samples.labels[request.rows]),
            image_ids=tuple(map(self.samples.image_id, request.rows)),
        )

    def send(self, values: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Return ``values`` on the device, copied on its current stream while the host goes on.

        From memory that is not pinned a copy would wait until that stream has nothing else to do.
        """
        host = torch.as_tensor(values)
        host = host.pin_memory() if self.device.type == "cuda" else host
        return host.to(self.device, non_blocking=True)


def begin(batches: Iterator[Item]) -> Iterator[Item]:
    """Return ``batches``, the first of which are made from now on, in other threads.

    A new thread's GPU would be number 0 and its stream the default one: it takes the caller's.
    """
    pool = ThreadPoolExecutor(1, "begun")
    if torch.cuda.is_initialized():
        pool.submit(torch.cuda.set_stream, torch.cuda.current_stream())
    first = pool.submit(lambda: list(islice(batches, 1)))
    pool.shutdown(wait=False)

    def rest() -> Iterator[Item]:
        yield from first.result()
        yield from batches

    return rest()


def ahead(
    pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], *, depth: int
) -> Generator[Result, None, None]:
    """Yield ``function(item)`` in the order of ``items``, with ``depth`` calls of it under way.

    Closing the iterator, or an error in a call, cancels what is under way and waits for it.
    """
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
        for future in pending:
            if not future.cancelled():
                future.exception()
