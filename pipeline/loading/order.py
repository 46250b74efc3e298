"""The order of an epoch, as arithmetic: which sample stands at which position, for which rank.

The shards have an index and the table of samples is verified, so the order is ours, not a
reader's. It is a pure function of the seed, the epoch and the sizes of the shards:

    shards, permuted -> windows of whole shards, some thousand samples each -> permuted within

so tars are read window by window, while a sample's neighbours come from a whole window. Class
balance is another choice of samples before the same steps; ranks and batches are slices of the
result. A loader that stopped is resumed by the number of its epoch and of its next batch alone.
"""

from typing import Literal

import numpy as np

Balance = Literal["none", "oversample", "undersample"]
"""``oversample`` repeats the smaller classes up to the largest, ``undersample`` draws from each
class as many as the smallest has; both make every class equally frequent within an epoch."""

WINDOW_SAMPLES = 4096
"""Samples that a window holds at least, where there are as many. At 16 KB a sample, 64 MB."""

_ORDER, _CHOICE = 1, 2  # what a stream of random numbers is for


def epoch_order(
    shard_of: np.ndarray,
    *,
    seed: int,
    epoch: int,
    classes: np.ndarray | None = None,
    balance: Balance = "none",
    window: int = WINDOW_SAMPLES,
) -> np.ndarray:
    """Return the samples of an epoch in their order, ``[m] int64`` indexes into ``shard_of``.

    Args:
        shard_of: ``[n] int``, the shard in which each sample lies.
        seed: of the run.
        epoch: from 0.
        classes: ``[n] int``, the class of each sample; needed unless ``balance`` is ``none``.
        balance: how classes are made equally frequent.
        window: samples among which an order is drawn, at least.
    """
    chosen = choose_samples(len(shard_of), classes, balance=balance, seed=seed, epoch=epoch)
    if len(chosen) == 0:
        return chosen
    random = np.random.default_rng([seed, epoch, _ORDER])
    window_of_shard = shard_windows(
        np.bincount(shard_of[chosen], minlength=int(shard_of.max()) + 1),
        random.permutation(int(shard_of.max()) + 1),
        window=window,
    )
    return chosen[np.lexsort((random.random(len(chosen)), window_of_shard[shard_of[chosen]]))]


def choose_samples(
    samples: int, classes: np.ndarray | None, *, balance: Balance, seed: int, epoch: int
) -> np.ndarray:
    """Return which samples an epoch holds, and how often each, ``[m] int64``, in no useful order.

    ``none``: each once. ``undersample``: as many of each class as the smallest has, none twice,
    others in another epoch. ``oversample``: as many of each class as the largest has; each sample
    of a class equally often, but for a remainder that is drawn anew each epoch.
    """
    if balance == "none":
        return np.arange(samples, dtype=np.int64)
    assert classes is not None and len(classes) == samples
    random = np.random.default_rng([seed, epoch, _CHOICE])
    present, counts = np.unique(classes, return_counts=True)
    if len(present) == 0:
        return np.empty(0, dtype=np.int64)
    target = int(counts.max() if balance == "oversample" else counts.min())
    parts = []
    for each, count in zip(present, counts, strict=True):
        members = np.flatnonzero(classes == each)
        parts.append(np.tile(members, target // int(count)))
        parts.append(random.permutation(members)[: target % int(count)])
    return np.concatenate(parts).astype(np.int64)


def shard_windows(sizes: np.ndarray, permutation: np.ndarray, *, window: int) -> np.ndarray:
    """Return the window into which each shard falls, ``[shards] int64``.

    Shards are taken in the order of ``permutation`` and cut where a window is full; windows come
    out about equally full, each with at least ``window`` samples where there are as many.
    """
    total = int(sizes.sum())
    windows = max(1, total // window)
    permuted = sizes[permutation]
    middle = np.cumsum(permuted) - permuted / 2
    of_shard = np.empty(len(sizes), dtype=np.int64)
    of_shard[permutation] = np.minimum(middle * windows // max(total, 1), windows - 1)
    return of_shard


def train_batches(samples: int, *, batch_size: int, world_size: int) -> int:
    """Return the batches that every rank gets in an epoch; what fills no global batch is dropped.

    The dropped samples are others in each epoch, because they are the last of its order.
    """
    return samples // (batch_size * world_size)


def train_slice(batch: int, *, batch_size: int, rank: int, world_size: int) -> slice:
    """Return the positions, in the epoch's order, of a rank's batch."""
    start = (batch * world_size + rank) * batch_size
    return slice(start, start + batch_size)


def eval_batches(samples: int, *, batch_size: int, world_size: int) -> int:
    """Return the batches that every rank gets in an evaluation, surplus empty ones included."""
    batches = -(-samples // batch_size)
    return -(-batches // world_size)


def eval_slice(batch: int, *, samples: int, batch_size: int, rank: int, world_size: int) -> slice:
    """Return a rank's samples: batch ``batch * world_size + rank`` of a fixed sequence.

    What a batch holds does not depend on the number of ranks. A surplus batch is an empty slice.
    """
    start = min((batch * world_size + rank) * batch_size, samples)
    return slice(start, min(start + batch_size, samples))
