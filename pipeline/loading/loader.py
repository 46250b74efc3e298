"""One way to get a loader, whatever reads and decodes underneath.

    loader = make_loader(shard_set.split("train"), phase="train", backend="auto", ...)
    for batch in loader.epoch(3, start=17): ...  # exactly what an undisturbed loader would give

The state of a loader is the pair (epoch, batch), so that is all that a checkpoint needs.
"""

import importlib.util
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import torch

from pipeline.errors import DataError
from pipeline.ham10000.taxonomy import DX_IS_MALIGNANT
from pipeline.loading.batch import Batch
from pipeline.loading.flags import Backend
from pipeline.loading.mix import Mix, MixingLoader
from pipeline.loading.order import Balance
from pipeline.loading.presets import TRAIN_PRESETS, Augment, TrainPreset
from pipeline.loading.requests import Phase, Schedule
from pipeline.loading.samples import Samples

if TYPE_CHECKING:
    from pipeline.shards.dataset import Split

BalanceBy = Literal["binary", "dx"]
"""Whether classes are malignant and benign, or the seven diagnoses."""


class Loader(Protocol):
    """Batches of one split, by epoch and number."""

    @property
    def batches_per_epoch(self) -> int:
        """Batches of an epoch on this rank; equal on all ranks."""
        ...

    @property
    def samples_per_epoch(self) -> int:
        """Samples of an epoch over all ranks."""
        ...

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of ``epoch`` from number ``start`` on; one epoch at a time."""
        ...

    def close(self) -> None:
        """Stop the threads and close the shards."""
        ...


def make_loader(
    split: "Split",
    *,
    phase: Phase,
    image_size: int,
    batch_size: int,
    device: torch.device,
    threads: int,
    backend: Backend = "auto",
    rank: int = 0,
    world_size: int = 1,
    seed: int = 0,
    augment: Augment = "basic",
    balance: Balance = "none",
    balance_by: BalanceBy = "binary",
    mixup: float = 0.0,
    cutmix: float = 0.0,
) -> Loader:
    """Return a loader of a split.

    Training gives every rank the same number of full batches: batch ``b`` of rank ``r`` is
    ``order[(b * W + r) * B : (b * W + r + 1) * B]``, and what fills no global batch is dropped.
    Evaluation gives each sample once: rank ``r`` gets batches ``r, r + W, ...`` of a fixed
    sequence, and an empty one where it would have one batch fewer than another rank.

    Args:
        split: from ``open_shards(...).split(...)``.
        phase: ``train`` shuffles and augments, ``eval`` does neither.
        image_size: side of the square output, pixels.
        batch_size: samples, per process.
        device: where the batches go.
        threads: that decode, per process.
        backend: what reads and decodes; ``auto`` chooses by device.
        rank: number of this process among all.
        world_size: number of processes.
        seed: order and augmentation are functions of it, the epoch and the position alone.
        augment: which preset of ``presets.TRAIN_PRESETS`` the train phase applies.
        balance: with ``K`` classes present, ``oversample`` makes an epoch of ``K`` times the
            largest class: each sample of the largest once, those of a smaller class repeated, all
            of them equally often but for a remainder drawn anew each epoch. ``undersample`` makes
            one of ``K`` times the smallest class: no sample twice, others in each epoch. Every
            class then has exactly ``1 / K`` of the epoch's order, which is cut to full global
            batches at its end like any other.
        balance_by: what the classes are that ``balance`` makes equally frequent.
        mixup: alpha of mixup's Beta distribution; 0 for none.
        cutmix: alpha of cutmix's; 0 for none. With both, each batch gets one or the other.

    Raises:
        DataError: if the split has fewer samples than one global batch of training.
    """
    samples = Samples(split)
    schedule = Schedule(
        phase=phase,
        shard_of=samples.shard_of,
        batch_size=batch_size,
        rank=rank,
        world_size=world_size,
        seed=seed,
        balance=balance if phase == "train" else "none",
        classes=_classes(samples.labels, balance_by),
    )
    if schedule.batches_per_epoch == 0:
        raise _too_few(split.name, schedule)
    loader = loader_of(
        samples,
        schedule,
        backend=backend,
        preset=TRAIN_PRESETS[augment],
        image_size=image_size,
        device=device,
        threads=threads,
    )
    mix = Mix(mixup=mixup, cutmix=cutmix, seed=seed, rank=rank, world_size=world_size)
    return MixingLoader(loader, mix) if phase == "train" and mix.active else loader


def loader_of(
    samples: Samples,
    schedule: Schedule,
    *,
    backend: Backend,
    preset: TrainPreset,
    image_size: int,
    device: torch.device,
    threads: int,
) -> Loader:
    """Return the loader that gives the batches of ``schedule``; see ``make_loader``."""
    return _BACKENDS[_resolve(backend, device)]()(
        samples, schedule, preset=preset, image_size=image_size, device=device, threads=threads
    )


def _classes(labels: np.ndarray, by: BalanceBy) -> np.ndarray:
    return np.array(DX_IS_MALIGNANT)[labels] if by == "binary" else labels


def _too_few(name: str, schedule: Schedule) -> DataError:
    found = len(schedule.shard_of)
    balanced = "" if schedule.balance == "none" else f" before {schedule.balance} balancing"
    return DataError(
        f"split {name} is too small: {found} samples{balanced}, where one batch of "
        f"{schedule.phase} takes {schedule.batch_size} on each of {schedule.world_size} processes. "
        "Use a smaller --batch-size, fewer processes, or build shards with a larger share for "
        "this split."
    )


def _resolve(backend: Backend, device: torch.device) -> Literal["dali", "portable"]:
    installed = all(importlib.util.find_spec(name) for name in ("nvidia", "nvidia.dali"))
    if backend == "dali" and not installed:
        raise DataError(
            "backend dali is not installed (NVIDIA publishes DALI for Linux only); use "
            "--backend portable, or auto, which chooses by itself."
        )
    if backend == "auto":
        return "dali" if installed and device.type == "cuda" else "portable"
    return backend


def _dali() -> Callable[..., Loader]:
    from pipeline.loading.dali import DaliLoader  # not where DALI is not installed

    return DaliLoader


def _portable() -> Callable[..., Loader]:
    from pipeline.loading.portable import PortableLoader

    return PortableLoader


_BACKENDS: dict[str, Callable[[], Callable[..., Loader]]] = {"dali": _dali, "portable": _portable}
