"""The choice of backend, and the flags of ``python -m pipeline.loading preview``.

Imports no torch, so that ``--help`` answers at once.
"""

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.cli import require_range
from pipeline.errors import DataError
from pipeline.loading.presets import Augment

Backend = Literal["auto", "dali", "portable"]
"""``auto`` is DALI on a GPU, and the portable backend on a CPU, where it is three
times as fast as DALI's CPU operators (`python -m benchmarks.loader`)."""


def resolved(backend: Backend, device: str, before: Backend = "auto") -> Backend:
    """Return who decodes on a ``device``, "cuda" or "cpu"; auto is who did ``before``, if it can.

    DataError: ``backend`` is not installed.
    """
    installed = all(importlib.util.find_spec(name) for name in ("nvidia", "nvidia.dali"))
    if backend == "dali" and not installed:
        raise DataError(
            "backend dali is not installed (NVIDIA publishes DALI for Linux only); use "
            "--backend portable, or auto, which chooses by itself."
        )
    if backend == "auto" and (before != "dali" or installed):
        backend = before
    if backend != "auto":
        return backend
    return "dali" if installed and device == "cuda" else "portable"


def source_weights(mix: Sequence[str]) -> dict[str, float]:
    """Return the weight of each source, in order, for ``("ham=1", "clinic=3")``.

    DataError: a word is not NAME=WEIGHT, a name comes twice, or no weight is above 0.
    """
    found: dict[str, float] = {}
    for word in mix:
        name, _, number = word.partition("=")
        if not name or name in found or not re.fullmatch(r"\d+(\.\d*)?|\.\d+", number):
            raise DataError(f"--mix: expected NAME=WEIGHT once for each source, not {word!r}")
        found[name] = float(number)
    if mix and not any(found.values()):
        raise DataError(f"--mix {' '.join(mix)}: one weight at least must be above 0")
    return found


@dataclass(frozen=True)
class PreviewFlags:
    """Draw originals beside augmented versions; train.py's flags of the same name mean the same."""

    shards: Path = Path("shards/ham10000")
    """Folder or s3://bucket/prefix that `python -m pipeline.shards build` made."""
    cache: Path = Path("shards/cache")
    """Where shards from object storage are kept on this machine."""
    split: str = "train"
    """Split that the originals are taken from: train, val or test."""
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
    """Decides the originals and the random changes."""
    backend: Backend = "auto"
    """Decoder and augmentation: dali, portable, auto (DALI on a GPU, else portable)."""
    out: Path = Path("preview.png")
    """Picture to write (PNG)."""

    def __post_init__(self) -> None:
        """Refuse values that give no sheet."""
        require_range(self, "above 0", "samples", "versions", "image_size")
        require_range(self, "0 or above", "mixup", "cutmix")
        if (self.mixup or self.cutmix) and self.samples < 2:
            raise DataError("--mixup and --cutmix blend two images: --samples must be 2 or more")
