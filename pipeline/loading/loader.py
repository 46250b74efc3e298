"""One way to get a loader, whatever reads and decodes underneath.

    split -> Samples, EpochPlan -> DALI or portable backend -> mixup, cutmix -> Batch

    loader = make_loader(shard_set.split("train"), phase="train", backend="auto", ...)
    for batch in loader.epoch(3, start=17): ...

Learning and training know ``batch.Loader`` only; train.py and eval.py call ``make_loader``.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch

from pipeline.errors import DataError
from pipeline.loading.batch import Loader
from pipeline.loading.flags import Backend, resolved
from pipeline.loading.mix import Mix, MixingLoader
from pipeline.loading.order import Balance, BalanceBy, EpochPlan, Phase
from pipeline.loading.presets import TRAIN_PRESETS, Augment, TrainPreset
from pipeline.loading.samples import Samples
from pipeline.shards.dataset import Split


def make_loader(
    split: Split,
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
    source_weights: Mapping[str, float] | None = None,
    mixup: float = 0.0,
    cutmix: float = 0.0,
) -> Loader:
    """Return a loader of a split.

    Training gives every rank the same number of full batches and drops the samples that fill no
    global batch. Evaluation gives each sample once, and an empty batch to a rank that would
    otherwise have one batch fewer than another.

    Args:
        split: from ``open_shards(...).split(...)``.
        phase: ``train`` shuffles and augments, ``eval`` does neither.
        image_size: side of the square output, pixels.
        batch_size: samples, per process.
        device: where the batches go.
        threads: that decode, per process.
        backend: decoder and augmentation; ``auto`` chooses by device.
        rank: number of this process among all.
        world_size: number of processes.
        seed: order and augmentation depend on it, the epoch and the position alone.
        augment: preset of the train phase.
        balance: how the train phase makes classes equally frequent: each class has the same share
            of the epoch's order, which is cut to full global batches at its end like any other.
        balance_by: the classes that ``balance`` makes equally frequent.
        source_weights: weight of each source in the train phase, by its name in samples.csv: an
            epoch of as many samples as the split has is divided so. Not with ``balance``.
        mixup: alpha of mixup's Beta distribution in the train phase; 0 for none.
        cutmix: alpha of cutmix's; 0 for none. With both, each batch gets one or the other.

    Raises:
        DataError: the split has fewer samples than one global batch of training, or ``backend`` is
            not installed.
    """
    samples, train = Samples(split), phase == "train"
    classes = _classes(samples, balance_by)
    weights = source_weights if train else None
    if weights and balance != "none":
        raise DataError("--mix and --balance both say what an epoch holds; leave one out")
    if weights:
        classes = _sources(split, weights)
    plan = EpochPlan(
        phase=phase,
        shard_of=samples.shard_of,
        batch_size=batch_size,
        rank=rank,
        world_size=world_size,
        seed=seed,
        balance=balance if train else "none",
        classes=classes,
        shares=tuple((weights or {}).values()),
    )
    if plan.batches_per_epoch == 0:
        raise _too_few(split.name, plan)
    loader = loader_of(
        samples,
        plan,
        backend=backend,
        preset=TRAIN_PRESETS[augment],
        image_size=image_size,
        device=device,
        threads=threads,
    )
    mix = Mix(mixup=mixup, cutmix=cutmix, seed=seed, rank=rank, world_size=world_size)
    return MixingLoader(loader, mix) if train and mix.active else loader


def loader_of(
    samples: Samples,
    plan: EpochPlan,
    *,
    backend: Backend,
    preset: TrainPreset,
    image_size: int,
    device: torch.device,
    threads: int,
) -> Loader:
    """Return the loader that gives the batches of ``plan``; see ``make_loader``."""
    if resolved(backend, device.type) == "dali":
        from pipeline.loading.dali.loader import DaliLoader  # NVIDIA publishes DALI for Linux only

        kind = DaliLoader
    else:
        from pipeline.loading.portable import PortableLoader

        kind = PortableLoader
    return kind(samples, plan, preset, image_size, device, threads)


def _classes(samples: Samples, by: BalanceBy) -> np.ndarray:
    labels = samples.labels
    return samples.taxonomy.is_malignant[labels] if by == "binary" else labels


def _sources(split: Split, weights: Mapping[str, float]) -> np.ndarray:
    """Return the source of each sample as its place in ``weights``, ``[n] int``."""
    samples = split.samples
    if "source" not in samples:
        raise DataError(
            f"--mix: {split.root} has no sources; build it with --source NAME=DIR for each"
        )
    found = sorted(set(samples["source"]))
    named = sorted(name for name, weight in weights.items() if weight or name in found)
    if named != found:
        raise DataError(
            f"--mix names {', '.join(weights)}; split {split.name} of {split.root} has "
            f"{', '.join(found)}: give each of them a weight (0: not used)"
        )
    return pd.Index(list(weights)).get_indexer(pd.Index(samples["source"]))


def _too_few(name: str, plan: EpochPlan) -> DataError:
    found = len(plan.shard_of)
    balanced = "" if plan.balance == "none" else f" before {plan.balance} balancing"
    return DataError(
        f"split {name} is too small: {found} samples{balanced}, where one batch of {plan.phase} "
        f"takes {plan.batch_size} on each of {plan.world_size} processes. Use a smaller "
        "--batch-size, fewer processes, or build shards with a larger share for this split."
    )
