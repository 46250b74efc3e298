"""Draw what the network sees: originals as evaluation shows them, beside augmented versions.

    python -m pipeline.loading preview --shards shards/ham10000 --augment strong --out preview.png

The pixels come out of the loaders that training uses, normalisation undone. An epoch of the sheet
is one batch of the chosen samples, in another order each time, so that mixup and cutmix find
another partner; a column holds an epoch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from pipeline.cli import parse
from pipeline.errors import DataError
from pipeline.ham10000.taxonomy import DX
from pipeline.loading.batch import Batch
from pipeline.loading.flags import Backend
from pipeline.loading.loader import Loader, loader_of
from pipeline.loading.mix import Mix, MixingLoader
from pipeline.loading.presets import MEAN, STD, TRAIN_PRESETS, Augment
from pipeline.loading.requests import Phase, Request, Schedule
from pipeline.loading.samples import Samples
from pipeline.shards.dataset import open_shards
from pipeline.shards.storage.object_store import cached

INK, GREY = "#1A1A1A", "#6B6B6B"
GAP, LINE, HEADER = 10, 17, 64
"""Pixels: between tiles, a line of text, the title and the names of the columns."""

TILE = (128, 224)
"""Least and largest side of a picture on the sheet, pixels; an image size between is kept."""


@dataclass(frozen=True)
class PreviewOptions:
    """Flags of ``preview``; those that train.py has too mean the same here."""

    shards: Path = Path("shards/ham10000")
    """Folder or s3://bucket/prefix that `python -m pipeline.shards build` made."""
    cache: Path = Path("shards/cache")
    """Where shards from object storage are kept on this machine."""
    split: str = "train"
    """train, val or test: where the originals are taken from."""
    fold: int | None = None
    """The fold that is val, from 0, for shards built with --folds."""
    samples: int = 7
    """Originals, one a row; the diagnoses take turns."""
    versions: int = 6
    """Augmented versions of each, one a column."""
    augment: Augment = "basic"
    """Preset of random changes: none, basic (rotation, flip, colour), strong (random crop, full
    rotation, both flips, stronger colour, erasing), trivial (TrivialAugment: one operator)."""
    mixup: float = 0.0
    """Mixup's alpha: images and labels of pairs are blended by a share from Beta(alpha, alpha).
    0: off; 0.2 is common."""
    cutmix: float = 0.0
    """CutMix's alpha: a rectangle of one image is pasted into another. 0: off; 1.0 is common."""
    image_size: int = 224
    """Pixels: height and width of what the network sees."""
    seed: int = 0
    """Chooses the originals and the random changes."""
    backend: Backend = "auto"
    """Who decodes and augments: dali, portable, auto (DALI on a GPU, else the portable one)."""
    out: Path = Path("preview.png")
    """Picture to write (PNG)."""

    def __post_init__(self) -> None:
        """Refuse what no sheet can be made of."""
        for name in ("samples", "versions", "image_size"):
            if getattr(self, name) < 1:
                raise DataError(f"--{name.replace('_', '-')} must be 1 or more")
        for name in ("mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise DataError(f"--{name} is the alpha of a Beta distribution: 0 (off) or more")
        if (self.mixup or self.cutmix) and self.samples < 2:
            raise DataError("--mixup and --cutmix blend two images: --samples must be 2 or more")


@dataclass(frozen=True)
class _Sheet(Schedule):
    """A schedule in which each epoch is one batch of the same samples, in another order."""

    chosen: tuple[int, ...] = ()

    @property
    def batches_per_epoch(self) -> int:
        return 1

    def requests(self, epoch: int, start: int = 0) -> Iterator[Request]:
        order = np.array(self.chosen, dtype=np.int64)
        if self.phase == "train":
            order = np.random.default_rng([self.seed, epoch]).permutation(order)
        if start == 0:
            yield Request(epoch, 0, order, 0)


@dataclass(frozen=True)
class Version:
    """One picture of the sheet."""

    picture: np.ndarray
    """``[S, S, 3] uint8 0-255``."""
    mixed: str
    """What was mixed, as "0.63 nv + 0.37 mel"; empty where nothing was."""


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    about = "Draw originals beside augmented versions, as the network sees them."
    options = parse(PreviewOptions, about=about, argv=argv)
    split = open_shards(cached(options.shards, options.cache)).split(options.split, options.fold)
    samples = Samples(split)
    chosen = choose(samples.labels, options.samples, seed=options.seed)
    rows = collect(samples, chosen, options)
    title = f"{options.shards}, {options.split}: --augment {options.augment}"
    for name in ("mixup", "cutmix"):
        title += f" --{name} {getattr(options, name)}" if getattr(options, name) else ""
    named = [(samples.image_ids[number], DX[samples.labels[number]]) for number in chosen]
    page = draw_sheet(rows, named, f"{title}, {options.image_size} pixels, seed {options.seed}")
    save(page, options.out)
    print(f"{len(chosen)} originals, {options.versions} versions of each: {options.out}")


def choose(labels: np.ndarray, count: int, *, seed: int) -> tuple[int, ...]:
    """Return the numbers of ``count`` samples (all, where there are fewer), diagnoses in turn.

    Args:
        labels: ``[n] int64``, index of each sample's diagnosis.
        count: samples to choose.
        seed: decides which.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    turn = np.empty(len(labels), dtype=np.int64)
    for each in np.unique(labels):
        members = order[labels[order] == each]
        turn[members] = np.arange(len(members))
    return tuple(int(number) for number in np.lexsort((labels, turn))[:count])


def collect(
    samples: Samples, chosen: tuple[int, ...], options: PreviewOptions
) -> list[list[Version]]:
    """Return, for each of ``chosen``, its eval view and its augmented versions."""
    eval_loader = _loader(samples, chosen, options, phase="eval")
    train_loader = _loader(samples, chosen, options, phase="train")
    mix = Mix(mixup=options.mixup, cutmix=options.cutmix, seed=options.seed)
    if mix.active:
        train_loader = MixingLoader(train_loader, mix)
    columns = [next(iter(eval_loader.epoch(0)))]
    hidden = None if options.versions * len(chosen) > 200 else True
    for epoch in tqdm(range(options.versions), desc="augmenting", disable=hidden, leave=False):
        columns.append(next(iter(train_loader.epoch(epoch))))
    ids = [samples.image_ids[number] for number in chosen]
    by_id = [dict(zip(batch.image_ids, _versions(batch), strict=True)) for batch in columns]
    return [[column[image_id] for column in by_id] for image_id in ids]


def _loader(
    samples: Samples, chosen: tuple[int, ...], options: PreviewOptions, *, phase: Phase
) -> Loader:
    schedule = _Sheet(
        phase=phase,
        shard_of=samples.shard_of,
        batch_size=len(chosen),
        seed=options.seed,
        chosen=chosen,
    )
    return loader_of(
        samples,
        schedule,
        backend=options.backend,
        preset=TRAIN_PRESETS[options.augment],
        image_size=options.image_size,
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        threads=2,
    )


def _versions(batch: Batch) -> list[Version]:
    """Undo the normalisation; values beyond black and white are cut, as a screen must."""
    pixels = batch.images.cpu().permute(0, 2, 3, 1).numpy() * STD + MEAN
    pictures = np.rint(pixels.clip(0, 1) * 255).astype(np.uint8)
    return [Version(picture, _mixed(batch, place)) for place, picture in enumerate(pictures)]


def _mixed(batch: Batch, place: int) -> str:
    if batch.labels_b is None or batch.lam is None:
        return ""
    lam = float(batch.lam[place])
    first, second = (DX[int(labels[place])] for labels in (batch.labels, batch.labels_b))
    return f"{lam:.2f} {first} + {1 - lam:.2f} {second}"


def draw_sheet(
    rows: Sequence[Sequence[Version]], named: Sequence[tuple[str, str]], title: str
) -> Image.Image:
    """Return the page: a row for each original, its eval view first.

    Args:
        rows: by original, its eval view and its versions.
        named: image id and diagnosis of each.
        title: stands above.
    """
    columns, side = len(rows[0]), min(max(rows[0][0].picture.shape[0], TILE[0]), TILE[1])
    lefts = [GAP + place * (side + GAP) + (GAP if place else 0) for place in range(columns)]
    heading = _font(16, bold=True)
    width = max(lefts[-1] + side + GAP, int(heading.getlength(title)) + 2 * GAP)
    height = side + LINE + 2 * GAP
    page = Image.new("RGB", (width, HEADER + len(rows) * height), "white")
    draw = ImageDraw.Draw(page)
    draw.text((GAP, GAP), title, fill=INK, font=heading)
    for place, left in enumerate(lefts):
        name = f"epoch {place - 1}" if place else "as evaluation sees it"
        draw.text((left, HEADER - LINE - 5), name, fill=GREY, font=_font(12))
    for number, (row, (image_id, dx)) in enumerate(zip(rows, named, strict=True)):
        top = HEADER + number * height
        for left, version in zip(lefts, row, strict=True):
            picture = Image.fromarray(version.picture)
            page.paste(picture.resize((side, side), Image.Resampling.BICUBIC), (left, top))
            draw.text((left, top + side + 3), version.mixed, fill=INK, font=_font(11))
        draw.text((GAP, top + side + 3), f"{dx}  {image_id}", fill=INK, font=_font(12, bold=True))
    return page


def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return the font that comes with matplotlib, so that sheets look the same everywhere."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def save(page: Image.Image, out: Path) -> None:
    """Write the page as a PNG under its final name, whole.

    Raises:
        DataError: it cannot be written.
    """
    partial = out.with_name(f".partial-{out.name}")
    try:
        page.save(partial, format="PNG", optimize=True)
        partial.replace(out)
    except OSError as error:
        raise DataError(f"--out {out}: cannot be written: {error.strerror or error}") from error
