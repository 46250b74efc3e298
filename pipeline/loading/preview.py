"""Draw the network's input: originals as evaluation loads them, beside augmented versions.

    python -m pipeline.loading preview --shards shards/ham10000 --augment strong --out preview.png

The pixels come from the loaders that training uses, normalisation undone. A column is an epoch, and
an epoch is one batch of the chosen samples, in a new order each time, so that mixup and cutmix
combine other pairs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from pipeline.figures import Tile, contact_sheet, save
from pipeline.files import require_writable
from pipeline.loading.batch import Batch, Loader
from pipeline.loading.flags import PreviewFlags
from pipeline.loading.loader import loader_of
from pipeline.loading.mix import Mix, MixingLoader
from pipeline.loading.order import BatchRequest, EpochPlan, Phase
from pipeline.loading.presets import MEAN, STD, TRAIN_PRESETS
from pipeline.loading.samples import Samples
from pipeline.shards.dataset import open_shards
from pipeline.shards.storage.object_store import cached

SIDES = (128, 224)
"""Least and largest side of a picture on the sheet, pixels; an image size between is kept."""


@dataclass(frozen=True)
class PreviewPlan(EpochPlan):
    """A plan in which each epoch is one batch of the same rows, in a new order."""

    chosen: tuple[int, ...] = ()
    """The rows."""

    def requests(
        self, epoch: int, start: int = 0, bounds: Sequence[int] | None = None
    ) -> Iterator[BatchRequest]:
        """Yield the one batch."""
        rows = np.array(self.chosen, dtype=np.int64)
        if self.phase == "train":
            rows = np.random.default_rng([self.seed, epoch]).permutation(rows)
        yield BatchRequest(epoch, 0, rows, 0)


def run(flags: PreviewFlags) -> None:
    """Choose originals, load them and write the sheet."""
    require_writable(flags.out, "--out", file=True)
    split = open_shards(cached(flags.shards, flags.cache)).split(flags.split, flags.fold)
    samples = Samples(split)
    chosen = choose_originals(samples.labels, flags.samples, seed=flags.seed)
    rows = collect(samples, chosen, flags)
    mixed = f" --mixup {flags.mixup}" if flags.mixup else ""
    mixed += f" --cutmix {flags.cutmix}" if flags.cutmix else ""
    side = min(max(flags.image_size, SIDES[0]), SIDES[1])
    sheet = contact_sheet(
        [tile for row in rows for tile in row],
        f"{flags.shards}, {flags.split}: --augment {flags.augment}{mixed}, "
        f"{flags.image_size} pixels, seed {flags.seed}",
        columns=1 + flags.versions,
        size=(side, side),
        headings=["evaluation", *(f"epoch {epoch}" for epoch in range(flags.versions))],
    )
    save(sheet, flags.out)
    print(f"{len(chosen)} originals, {flags.versions} versions of each: {flags.out}")


def choose_originals(labels: np.ndarray, count: int, *, seed: int) -> tuple[int, ...]:
    """Return the rows of ``count`` samples (all, where there are fewer), diagnoses in turn.

    ``labels`` is ``[n] int64``, index of each sample's diagnosis; ``seed`` is of the choice.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    turn = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        turn[members] = np.arange(len(members))
    return tuple(int(row) for row in np.lexsort((labels, turn))[:count])


def collect(samples: Samples, chosen: tuple[int, ...], flags: PreviewFlags) -> list[list[Tile]]:
    """Return, for each of ``chosen``, a tile of its eval pixels and tiles of augmented versions."""
    train_loader = _loader(samples, chosen, flags, phase="train")
    mix = Mix(mixup=flags.mixup, cutmix=flags.cutmix, seed=flags.seed)
    if mix.active:
        train_loader = MixingLoader(train_loader, mix)
    originals = next(_loader(samples, chosen, flags, phase="eval").epoch(0))
    classes = samples.taxonomy.classes
    diagnoses = [classes[label] for label in originals.labels.tolist()]
    columns = [_tiles(originals, list(zip(diagnoses, originals.image_ids, strict=True)))]
    for epoch in tqdm(range(flags.versions), desc="augmenting", disable=None, leave=False):
        batch = next(train_loader.epoch(epoch))
        columns.append(_tiles(batch, _mixed_labels(batch, classes)))
    return [[column[image_id] for column in columns] for image_id in originals.image_ids]


def _loader(
    samples: Samples, chosen: tuple[int, ...], flags: PreviewFlags, *, phase: Phase
) -> Loader:
    plan = PreviewPlan(phase, samples.shard_of, len(chosen), seed=flags.seed, chosen=chosen)
    return loader_of(
        samples,
        plan,
        backend=flags.backend,
        preset=TRAIN_PRESETS[flags.augment],
        image_size=flags.image_size,
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        threads=2,
    )


def _tiles(batch: Batch, lines: Sequence[tuple[str, ...]]) -> dict[str, Tile]:
    """Return a tile by image id: normalisation undone, values clipped to 0-255."""
    pixels = batch.images.cpu().permute(0, 2, 3, 1).numpy() * STD + MEAN
    pictures = np.rint(pixels.clip(0, 1) * 255).astype(np.uint8)
    tiles = [Tile((picture,), text) for picture, text in zip(pictures, lines, strict=True)]
    return dict(zip(batch.image_ids, tiles, strict=True))


def _mixed_labels(batch: Batch, classes: Sequence[str]) -> list[tuple[str, ...]]:
    """Return what was mixed in each image, as ("0.63 nv", "+ 0.37 mel"); () where nothing was."""
    if batch.labels_b is None or batch.lam is None:
        return [()] * len(batch)
    labels = zip(batch.labels.tolist(), batch.labels_b.tolist(), batch.lam.tolist(), strict=True)
    return [(f"{lam:.2f} {classes[a]}", f"+ {1 - lam:.2f} {classes[b]}") for a, b, lam in labels]
