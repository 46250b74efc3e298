"""Mixup and cutmix as a transform of batches, on their device.

    MixingLoader(loader, Mix(mixup=0.4)).epoch(3)     # batches with labels_b and lam

Each image is mixed with the one at the mirrored place of its batch: a random partner, as the order
is shuffled. What is drawn is a function of (seed, epoch, batch, rank). Mixup: Zhang et al., ICLR
2018; CutMix: Yun et al., ICCV 2019.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from pipeline.loading.augment import MIX_STREAM
from pipeline.loading.batch import Batch, Loader


@dataclass(frozen=True)
class Mix:
    """How batches are mixed, and what the random numbers depend on."""

    mixup: float = 0.0
    """Alpha of the Beta distribution of mixup's share; 0 for no mixup."""

    cutmix: float = 0.0
    """Alpha of the Beta distribution of cutmix's share; 0 for no cutmix."""

    seed: int = 0
    """Seed of the run."""

    rank: int = 0
    """Number of this process."""

    world_size: int = 1
    """Number of processes."""

    @property
    def active(self) -> bool:
        """Whether anything is mixed."""
        return self.mixup > 0 or self.cutmix > 0

    def apply(self, batch: Batch, *, epoch: int, number: int) -> Batch:
        """Return ``batch``, number ``number`` of this rank's ``epoch``, with its images mixed."""
        random = np.random.default_rng(
            [self.seed, epoch, MIX_STREAM, number * self.world_size + self.rank]
        )
        mixup = self.mixup > 0 and (self.cutmix == 0 or random.random() < 0.5)
        alpha = self.mixup if mixup else self.cutmix
        lam = float(random.beta(alpha, alpha))
        partner = batch.images.flip(0)
        if mixup:
            images = torch.lerp(partner, batch.images, lam)
        else:
            images, lam = _cut(batch.images, partner, lam, random)
        return replace(
            batch,
            images=images.contiguous(memory_format=torch.channels_last),
            labels_b=batch.labels.flip(0),
            lam=torch.full((len(batch),), lam, device=batch.images.device),
        )


def _cut(
    images: torch.Tensor, partner: torch.Tensor, lam: float, random: np.random.Generator
) -> tuple[torch.Tensor, float]:
    """Paste a rectangle of 1 - ``lam`` of the area; return the share of the first image left."""
    height, width = images.shape[2:]
    cut_height, cut_width = (round(side * (1 - lam) ** 0.5) for side in (height, width))
    top = int(random.integers(0, height - cut_height + 1))
    left = int(random.integers(0, width - cut_width + 1))
    box = (..., slice(top, top + cut_height), slice(left, left + cut_width))
    pasted = images.clone()
    pasted[box] = partner[box]
    return pasted, 1 - cut_height * cut_width / (height * width)


@dataclass(frozen=True)
class MixingLoader:
    """Another loader's batches, mixed."""

    loader: Loader
    """Source of the batches."""

    mix: Mix
    """How they are mixed."""

    @property
    def batches_per_epoch(self) -> int:
        """Batches of an epoch on this rank."""
        return self.loader.batches_per_epoch

    @property
    def samples_per_epoch(self) -> int:
        """Samples of an epoch over all ranks, those that fill no global batch included."""
        return self.loader.samples_per_epoch

    def epoch(
        self, epoch: int, start: int = 0, bounds: Sequence[int] | None = None
    ) -> Iterator[Batch]:
        """Yield the mixed batches of ``epoch`` from number ``start`` on."""
        for number, batch in enumerate(self.loader.epoch(epoch, start, bounds), start):
            yield self.mix.apply(batch, epoch=epoch, number=number)

    def close(self) -> None:
        """Close the loader."""
        self.loader.close()
