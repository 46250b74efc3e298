"""The order of an epoch, as arithmetic: which samples are in which batch of which rank.

    EpochPlan.requests(epoch, start, bounds) -> BatchRequest(epoch, batch, rows, position), ...

The order is a pure function of the seed, the epoch and the sizes of the shards:

    choose rows (class balance) -> permute the shards -> cut them into windows of whole shards,
    some thousand samples each -> permute the rows of each window

A loader thus reads the tars of one window at a time, and a batch mixes samples of the whole
window. Batches and ranks are slices of the order, so (epoch, position) is all the state of a
loader, on any number of ranks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

import numpy as np

Phase = Literal["train", "eval"]
"""``train`` is shuffled and drops what fills no global batch; ``eval`` is each sample once."""

Balance = Literal["none", "oversample", "undersample"]
"""``oversample`` repeats the smaller classes up to the largest, ``undersample`` draws from each
class as many as the smallest has; both make every class equally frequent within an epoch."""

BalanceBy = Literal["binary", "dx"]
"""The classes that are made equally frequent: benign and malignant, or the diagnoses."""

WINDOW_SAMPLES = 4096
"""Least average number of samples in a window. At 16 KB a sample, 64 MB."""

_ORDER, _CHOICE = 1, 2  # streams of random numbers: equal seeds do not collide between them


@dataclass(frozen=True)
class BatchRequest:
    """One batch to be loaded."""

    epoch: int
    """From 0."""

    batch: int
    """Number of the batch among those of this rank, from 0."""

    rows: np.ndarray
    """``[B] int64``, samples by their place in packing order; empty for a surplus batch."""

    position: int
    """Position of the first of them in the epoch's order, over all ranks."""


@dataclass(frozen=True)
class EpochPlan:
    """All that decides which sample is in which batch."""

    phase: Phase
    """Shuffled full batches, or each sample once."""

    shard_of: np.ndarray
    """``[n] int``, shard of each sample."""

    batch_size: int
    """Samples, per process."""

    rank: int = 0
    """Number of this process."""

    world_size: int = 1
    """Number of processes."""

    seed: int = 0
    """Seed of the order."""

    balance: Balance = "none"
    """How classes are made equally frequent."""

    classes: np.ndarray | None = None
    """``[n] int``, the class of each sample; needed unless ``balance`` is ``none``."""

    shares: tuple[float, ...] = ()
    """Share of each class in an epoch of as many samples as there are, in place of ``balance``."""

    @cached_property
    def batches_per_epoch(self) -> int:
        """Batches of an epoch on every rank.

        Training drops the samples that fill no global batch: the last ones of the epoch's order,
        so others in each epoch. Evaluation counts surplus empty batches.
        """
        if self.phase == "eval":
            batches = -(-len(self.shard_of) // self.batch_size)
            return -(-batches // self.world_size)
        return self.samples_per_epoch // (self.batch_size * self.world_size)

    @cached_property
    def samples_per_epoch(self) -> int:
        """Samples of an epoch's order, those that fill no global batch included."""
        how = {"balance": self.balance, "shares": self.shares}
        return len(choose_rows(len(self.shard_of), self.classes, seed=self.seed, epoch=0, **how))

    def requests(
        self, epoch: int, start: int = 0, bounds: Sequence[int] | None = None
    ) -> Iterator[BatchRequest]:
        """Yield this rank's batches of ``epoch`` from number ``start`` on.

        Batch ``b`` of rank ``r`` is batch ``b * world_size + r`` of the order, so what a batch of
        an evaluation holds does not depend on the number of ranks.

        Args:
            epoch: from 0.
            start: number of the first batch.
            bounds: positions between which the global batches lie from there on, as ``cuts``
                returns them; None: full ones to the end of the epoch.
        """
        order, whole = self._order(epoch), self.batch_size * self.world_size
        if bounds is None:
            bounds = [batch * whole for batch in range(start, self.batches_per_epoch + 1)]
        for batch, (begin, end) in enumerate(pairwise(bounds), start):
            first = begin + (end - begin) * self.rank // self.world_size
            last = begin + (end - begin) * (self.rank + 1) // self.world_size
            yield BatchRequest(epoch, batch, order[first:last], min(first, len(order)))

    def _order(self, epoch: int) -> np.ndarray:
        if self.phase == "eval":
            return np.arange(len(self.shard_of), dtype=np.int64)
        return epoch_order(
            self.shard_of,
            seed=self.seed,
            epoch=epoch,
            classes=self.classes,
            balance=self.balance,
            shares=self.shares,
        )


def cuts(position: int, end: int, *, batch_size: int, world_size: int) -> list[int]:
    """Return where the global batches of training lie from ``position`` of an epoch's order on.

    They are full, but for the last two where ``end`` is no whole number of them away, as after a
    resume on another global batch: these share what is left, so that no sample is lost. Less than
    two samples a rank (batch norm needs them) are left out. What follows a position depends on it
    alone, not on where the cutting began.

    Args:
        position: samples of the order trained on before.
        end: samples of the order to train on in all.
        batch_size: largest number of samples in a batch, per process.
        world_size: number of processes.

    Returns:
        ``position``, then the end of each global batch.
    """
    whole, least = batch_size * world_size, min(2, batch_size) * world_size
    bounds = [position]
    while (left := end - bounds[-1]) >= least:
        shared = whole < left < 2 * whole and left // 2 >= least
        bounds.append(bounds[-1] + (-(-left // 2) if shared else min(left, whole)))
    return bounds


def epoch_order(
    shard_of: np.ndarray,
    *,
    seed: int,
    epoch: int,
    classes: np.ndarray | None = None,
    balance: Balance = "none",
    shares: Sequence[float] = (),
    window: int = WINDOW_SAMPLES,
) -> np.ndarray:
    """Return the rows of an epoch in their order, ``[m] int64`` indexes into ``shard_of``.

    Args:
        shard_of: ``[n] int``, the shard in which each sample lies.
        seed: seed of the order.
        epoch: from 0.
        classes: ``[n] int``, the class of each sample; needed unless ``balance`` is ``none``.
        balance: how classes are made equally frequent.
        shares: share of each class; see ``choose_rows``.
        window: least average number of samples in a window.
    """
    how = {"balance": balance, "shares": shares}
    rows = choose_rows(len(shard_of), classes, seed=seed, epoch=epoch, **how)
    if len(rows) == 0:
        return rows
    shards = int(shard_of.max()) + 1
    random = np.random.default_rng([seed, epoch, _ORDER])
    window_of_shard = _windows(
        np.bincount(shard_of[rows], minlength=shards), random.permutation(shards), window
    )
    return rows[np.lexsort((random.random(len(rows)), window_of_shard[shard_of[rows]]))]


def choose_rows(
    num_samples: int,
    classes: np.ndarray | None,
    *,
    balance: Balance,
    seed: int,
    epoch: int,
    shares: Sequence[float] = (),
) -> np.ndarray:
    """Return which samples an epoch holds, and how often each, ``[m] int64``, not yet shuffled.

    ``none``: each once. ``undersample``: as many of each class as the smallest has, none twice,
    others in another epoch. ``oversample``: as many of each class as the largest has; each sample
    of a class equally often, but for a remainder that is drawn anew each epoch. ``shares`` (of
    class 0, 1, ...; they need not sum to 1): ``num_samples`` in all, divided so, drawn likewise.
    """
    if balance == "none" and not shares:
        return np.arange(num_samples, dtype=np.int64)
    assert classes is not None and len(classes) == num_samples
    random = np.random.default_rng([seed, epoch, _CHOICE])
    present, counts = np.unique(classes, return_counts=True)
    if len(present) == 0:
        return np.empty(0, dtype=np.int64)
    targets = np.full(len(present), counts.max() if balance == "oversample" else counts.min())
    if shares:
        targets = _divided(num_samples, np.array(shares)[present])
    parts = []
    for label, count, target in zip(present, counts, targets.tolist(), strict=True):
        members = np.flatnonzero(classes == label)
        parts.append(np.tile(members, target // int(count)))
        parts.append(random.permutation(members)[: target % int(count)])
    return np.concatenate(parts).astype(np.int64)


def _divided(total: int, shares: np.ndarray) -> np.ndarray:
    """Return ``total`` divided as ``shares`` say, ``[k] int64``; it sums to ``total``."""
    exact = total * shares / shares.sum()
    whole = np.floor(exact).astype(np.int64)
    whole[np.argsort(whole - exact, kind="stable")[: total - whole.sum()]] += 1
    return whole


def _windows(sizes: np.ndarray, permutation: np.ndarray, window: int) -> np.ndarray:
    """Return the window of each shard, ``[shards] int64``.

    Shards are taken in the order of ``permutation`` and cut into windows of about equal size, of
    ``window`` samples or more on average where there are as many.
    """
    total = int(sizes.sum())
    windows = max(1, total // window)
    permuted = sizes[permutation]
    middle = np.cumsum(permuted) - permuted / 2
    of_shard = np.empty(len(sizes), dtype=np.int64)
    of_shard[permutation] = np.minimum(middle * windows // max(total, 1), windows - 1)
    return of_shard
