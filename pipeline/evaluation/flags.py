"""The flags of eval.py: a frozen dataclass for each command; imports no torch.

    python eval.py --help

On the command line the names are flat (``--threshold``); in code those of ``judge``, the default,
are grouped by heading (``flags.method.threshold``).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pipeline.errors import DataError
from pipeline.ham10000.images import OnBadImage
from pipeline.learning.flags import Tta
from pipeline.loading.flags import Backend

Split = Literal["train", "val", "test"]


def _at_least(least: int, flags: object, *names: str) -> None:
    """Raise a DataError that names the first flag below ``least``."""
    for name in names:
        value = getattr(flags, name)
        if value < least:
            raise DataError(f"--{name.replace('_', '-')} {value}: expected at least {least}")


def _check_threshold(value: float | None) -> None:
    if value is not None and not 0 <= value <= 1:
        raise DataError(f"--threshold {value}: expected a probability from 0 to 1")


@dataclass(frozen=True)
class DataFlags:
    """The checkpoint, the images it is judged on, and where the report goes."""

    checkpoint: Path = Path("runs/default/best")
    """RUN/best, or RUN/checkpoints/step-XXXXXXXX."""
    shards: Path = Path("shards/ham10000")
    """Folder or s3://bucket/prefix that `python -m pipeline.shards build` made."""
    cache: Path = Path("shards/cache")
    """Where shards from object storage are kept on this machine; each is fetched once, verified."""
    split: Split = "test"
    """Which split to judge on."""
    fold: int | None = None
    """The fold that counts as "val", from 0, for shards built with --folds."""
    allow_leak: bool = False
    """Judge even if the checkpoint was trained on images of the split; the report warns in red."""
    check_content: Path | None = None
    """Shards with the training images: compare the photographs themselves with the judged ones,
    because other data sets hold the same ones under other names."""
    allow_edited: bool = False
    """Go on although model.json or training_samples.csv was edited; the report says so."""
    out: Path = Path("reports/default")
    """Folder for metrics.json, predictions.csv, the PNGs and report.html."""


@dataclass(frozen=True)
class MethodFlags:
    """How probabilities become decisions, and what the report shows."""

    threshold: float | None = None
    """Malignant at or above this probability, in place of the checkpoint's; the report says so."""
    tta: Literal["stored"] | Tta = "stored"
    """Views averaged per image: none (1), flips (4), dihedral (8), or those that the checkpoint's
    threshold was fitted with (stored)."""
    resamples: int = 2000
    """Bootstrap resamples of lesions behind each 95 % interval."""
    cases: int = 16
    """Images shown of each kind (true and false, positive and negative)."""
    seed: int = 0
    """Of the resamples and of the random sample of predictions."""

    def __post_init__(self) -> None:
        """Refuse what no report could be made with."""
        _check_threshold(self.threshold)
        _at_least(1, self, "resamples")
        _at_least(0, self, "cases")


@dataclass(frozen=True)
class SpeedFlags:
    """Inference; the figures do not depend on these, but for rounding and the decoder."""

    batch_size: int = 64
    """Images per process at a time."""
    backend: Backend = "auto"
    """Who decodes: dali, portable (simplejpeg, OpenCV), auto (DALI on a GPU)."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Precision of inference; "no" is float32, recommended for a judgement."""
    threads: int = 0
    """CPU threads per process. 0: the cores this process may use, shared among local processes."""

    def __post_init__(self) -> None:
        """Refuse impossible sizes."""
        _at_least(1, self, "batch_size")
        _at_least(0, self, "threads")


@dataclass(frozen=True)
class TrackingFlags:
    """Where the report is logged besides its folder."""

    tracker: Literal["wandb", "none"] = "none"
    """wandb: log figures and the report as an artifact to Weights & Biases (see WANDB_MODE)."""
    group: str = ""
    """W&B group. Default: the group of the training that made the checkpoint."""


@dataclass(frozen=True)
class JudgeFlags:
    """All flags of ``judge``, by heading."""

    data: DataFlags = field(default_factory=DataFlags)
    method: MethodFlags = field(default_factory=MethodFlags)
    speed: SpeedFlags = field(default_factory=SpeedFlags)
    tracking: TrackingFlags = field(default_factory=TrackingFlags)


@dataclass(frozen=True)
class CompareFlags:
    """Flags of ``compare``."""

    reports: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Two or more folders that eval.py wrote with --out; each is compared with the first."""
    out: Path = Path("reports/comparison")
    """Folder for comparison.json and report.html."""
    resamples: int = 2000
    """Paired bootstrap resamples of lesions."""
    seed: int = 0
    """Of the resamples."""

    def __post_init__(self) -> None:
        """Refuse what cannot be compared."""
        if len(self.reports) < 2:
            found = len(self.reports)
            raise DataError(f"compare: give at least two report folders (found {found})")
        _at_least(1, self, "resamples")


@dataclass(frozen=True)
class PredictFlags:
    """Flags of ``predict``."""

    images: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Images, or folders that are searched for JPEG, PNG, BMP, TIFF and WebP files."""
    checkpoint: Path = Path("runs/default/best")
    """RUN/best, or RUN/checkpoints/step-XXXXXXXX."""
    allow_edited: bool = False
    """Go on although model.json or training_samples.csv was edited after the training."""
    out: Path = Path("reports/predictions")
    """Folder for predictions.csv and predictions.png; the same command goes on after a kill."""
    threshold: float | None = None
    """Malignant at or above this probability, in place of the checkpoint's."""
    batch_size: int = 32
    """Images per process at a time."""
    workers: int = 0
    """Threads per process. 0: the cores this process may use, shared among local processes."""
    on_bad_image: OnBadImage = "error"
    """skip leaves out images that cannot be read and lists them in OUT/rejected.csv."""
    sheet: int = 48
    """Images on predictions.png at most, the highest probability first."""

    def __post_init__(self) -> None:
        """Refuse what cannot be predicted."""
        if not self.images:
            raise DataError("predict: give at least one image or folder")
        _check_threshold(self.threshold)
        _at_least(1, self, "batch_size", "sheet")
        _at_least(0, self, "workers")


@dataclass(frozen=True)
class ExportFlags:
    """Flags of ``export``."""

    checkpoint: Path = Path("runs/default/best")
    """RUN/best, or RUN/checkpoints/step-XXXXXXXX."""
    allow_edited: bool = False
    """Go on although model.json or training_samples.csv was edited after the training."""
    onnx: Path = Path("model.onnx")
    """File to write."""
    shards: Path = Path("shards/ham10000")
    """Shards whose images the check runs on."""
    split: Split = "test"
    """Which split of them."""
    images: int = 64
    """How many images to check with."""

    def __post_init__(self) -> None:
        """Refuse a check of nothing."""
        _at_least(1, self, "images")
