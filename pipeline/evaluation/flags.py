"""The flags of eval.py, one frozen dataclass for each thing that it does."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pipeline.errors import DataError

Backend = Literal["auto", "dali", "portable"]
Tta = Literal["stored", "none", "flips", "dihedral"]


@dataclass(frozen=True)
class JudgeOptions:
    """Judge a checkpoint on a held-out split of shards and write a report."""

    checkpoint: Path = Path("runs/default/best")
    """RUN/best, or RUN/checkpoints/step-XXXXXXXX."""
    shards: Path = Path("shards/ham10000")
    """Folder or s3://bucket/prefix that `python -m pipeline.shards build` made."""
    cache: Path = Path("shards/cache")
    """Where shards from object storage are kept on this machine, each fetched once and proven."""
    split: Literal["train", "val", "test"] = "test"
    """Which split to judge on."""
    fold: int | None = None
    """The fold whose part is "val", for shards built for cross-validation."""
    out: Path = Path("reports/default")
    """Folder for metrics.json, predictions.csv, the PNGs and report.html."""
    threshold: float | None = None
    """Malignant at or above this probability, in place of the checkpoint's; the report says so."""
    tta: Tta = "stored"
    """Test-time augmentation: what the checkpoint's threshold was fitted with (stored), or none,
    flips (4 views), dihedral (8 views)."""
    batch_size: int = 64
    """Images per process at a time."""
    backend: Backend = "auto"
    """What reads and decodes: DALI or portable (webdataset and torchvision); auto: DALI on a
    GPU."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Precision of inference; "no" is float32, which is what a judgement should use."""
    threads: int = 0
    """CPU threads per process; 0: the cores, shared among local processes."""
    cases: int = 16
    """Cases of each kind (true and false, positive and negative) in the galleries."""
    resamples: int = 2000
    """Bootstrap resamples of lesions behind each 95 % interval."""
    seed: int = 0
    """Of the resamples and of the drawn sample of predictions."""
    allow_leak: bool = False
    """Judge even on samples that the checkpoint has seen; the report says so in red."""
    tracker: Literal["wandb", "none"] = "none"
    """wandb: log the figures and the report as an artifact to Weights & Biases too."""
    wandb: Literal["auto", "online", "offline"] = "auto"
    """As for train.py: auto is online when logged in and the server answers, else offline."""
    group: str = ""
    """W&B group. Default: that of the training which made the checkpoint."""

    def __post_init__(self) -> None:
        """Refuse what no report could be made with."""
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise DataError(f"--threshold {self.threshold}: expected a probability from 0 to 1")
        for flag, value in (("--batch-size", self.batch_size), ("--resamples", self.resamples)):
            if value < 1:
                raise DataError(f"{flag} {value}: expected at least 1")
        if self.cases < 0 or self.threads < 0:
            raise DataError("--cases and --threads cannot be negative")


@dataclass(frozen=True)
class CompareOptions:
    """Put reports of the same images side by side."""

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
            raise DataError(
                f"compare: give at least two report folders (found {len(self.reports)})"
            )
        if self.resamples < 1:
            raise DataError(f"--resamples {self.resamples}: expected at least 1")


@dataclass(frozen=True)
class PredictOptions:
    """Predict loose images: a CSV and a sheet."""

    images: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Images, or folders that are searched for .jpg, .jpeg, .png, .bmp, .tif and .webp."""
    checkpoint: Path = Path("runs/default/best")
    """RUN/best, or RUN/checkpoints/step-XXXXXXXX."""
    out: Path = Path("reports/predictions")
    """Folder for predictions.csv and predictions.png."""
    threshold: float | None = None
    """Malignant at or above this probability, in place of the checkpoint's."""
    batch_size: int = 32
    """Images at a time."""
    sheet: int = 48
    """Images on the sheet at most, the most suspicious first."""

    def __post_init__(self) -> None:
        """Refuse what cannot be predicted."""
        if not self.images:
            raise DataError("predict: give at least one image or folder")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise DataError(f"--threshold {self.threshold}: expected a probability from 0 to 1")
        if self.batch_size < 1 or self.sheet < 1:
            raise DataError("--batch-size and --sheet must be at least 1")


@dataclass(frozen=True)
class ExportOptions:
    """Write a checkpoint as ONNX and check it against PyTorch on real images."""

    checkpoint: Path = Path("runs/default/best")
    """RUN/best, or RUN/checkpoints/step-XXXXXXXX."""
    onnx: Path = Path("model.onnx")
    """File to write."""
    shards: Path = Path("shards/ham10000")
    """Where the images of the check come from."""
    split: Literal["train", "val", "test"] = "test"
    """Which split of them."""
    images: int = 64
    """How many images to check with."""

    def __post_init__(self) -> None:
        """Refuse a check of nothing."""
        if self.images < 1:
            raise DataError(f"--images {self.images}: expected at least 1")
