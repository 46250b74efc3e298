"""A rank's batches of an epoch, by number: which samples, from which position of the order.

    Schedule.requests(epoch, start) -> Request(batch, samples, position), one for each batch

This is all the state there is: a loader that continues at (epoch, batch) continues exactly.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.loading import order as order_of
from pipeline.loading.order import Balance

Phase = Literal["train", "eval"]


@dataclass(frozen=True)
class Request:
    """One batch to be loaded."""

    epoch: int
    """From 0."""

    batch: int
    """Number of the batch among those of this rank, from 0."""

    samples: np.ndarray
    """``[B] int64``, numbers of samples in packing order; empty for a surplus batch."""

    position: int
    """Position of the first of them in the epoch's order, over all ranks."""


@dataclass(frozen=True)
class Schedule:
    """Everything that decides which sample goes where."""

    phase: Phase
    """``train`` is shuffled and drops what fills no global batch; ``eval`` is each sample once."""

    shard_of: np.ndarray
    """``[n] int``, shard of each sample."""

    batch_size: int
    """Samples, per process."""

    rank: int = 0
    """Number of this process."""

    world_size: int = 1
    """Number of processes."""

    seed: int = 0
    """Of the run."""

    balance: Balance = "none"
    """How classes are made equally frequent."""

    classes: np.ndarray | None = None
    """``[n] int``, the class of each sample that ``balance`` looks at."""

    @property
    def samples_per_epoch(self) -> int:
        """Samples of an epoch over all ranks, those that are dropped at its end left out."""
        if self.phase == "eval":
            return len(self.shard_of)
        return self.batches_per_epoch * self.batch_size * self.world_size

    @property
    def batches_per_epoch(self) -> int:
        """Batches of an epoch on this rank, and on each other."""
        sizes = {"batch_size": self.batch_size, "world_size": self.world_size}
        if self.phase == "eval":
            return order_of.eval_batches(len(self.shard_of), **sizes)
        chosen = order_of.choose_samples(
            len(self.shard_of), self.classes, balance=self.balance, seed=self.seed, epoch=0
        )
        return order_of.train_batches(len(chosen), **sizes)

    def requests(self, epoch: int, start: int = 0) -> Iterator[Request]:
        """Yield this rank's batches of ``epoch`` from number ``start`` on."""
        if self.phase == "eval":
            order = np.arange(len(self.shard_of), dtype=np.int64)
        else:
            order = order_of.epoch_order(
                self.shard_of,
                seed=self.seed,
                epoch=epoch,
                classes=self.classes,
                balance=self.balance,
            )
        for batch in range(start, self.batches_per_epoch):
            where = self._slice(batch)
            yield Request(epoch, batch, order[where], where.start)

    def _slice(self, batch: int) -> slice:
        sizes = {
            "batch_size": self.batch_size,
            "rank": self.rank,
            "world_size": self.world_size,
        }
        if self.phase == "eval":
            return order_of.eval_slice(batch, samples=len(self.shard_of), **sizes)
        return order_of.train_slice(batch, **sizes)
