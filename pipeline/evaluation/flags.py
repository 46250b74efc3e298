"""The flags of eval.py: a frozen dataclass for each command; imports no torch.

    python eval.py --help

On the command line the names are flat (``--threshold``); in code those of ``judge``, the default,
are grouped by heading (``flags.method.threshold``).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pipeline.cli import require_range
from pipeline.errors import DataError
from pipeline.ham10000.images import OnBadImage
from pipeline.learning.flags import Tta
from pipeline.loading.flags import Backend

Split = Literal["train", "val", "test"]


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
        require_range(self, "from 0 to 1", "threshold")
        require_range(self, "above 0", "resamples")
        require_range(self, "0 or above", "cases")


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
        require_range(self, "above 0", "batch_size")
        require_range(self, "0 or above", "threads")


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
        require_range(self, "above 0", "resamples")


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
        require_range(self, "from 0 to 1", "threshold")
        require_range(self, "above 0", "batch_size", "sheet")
        require_range(self, "0 or above", "workers")


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
        require_range(self, "above 0", "images")


@dataclass(frozen=True)
class SubmitData(DataFlags):
    """The checkpoint, the images that it predicts, and the file."""

    out: Path = Path("submission.csv")
    """File to write."""


@dataclass(frozen=True)
class SubmitFlags:
    """Flags of ``submit``."""

    data: SubmitData = field(default_factory=SubmitData)
    speed: SpeedFlags = field(default_factory=SpeedFlags)


@dataclass(frozen=True)
class FoldsFlags:
    """Flags of ``folds``."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Finished runs of train.py (RUN or RUN/best): a fold each, or seeds of one split."""
    out: Path = Path("reports/folds")
    """Folder for metrics.json, predictions.csv and report.html of the pooled predictions."""
    ensemble: Path | None = None
    """Folder for one checkpoint of all runs: the mean of their calibrated probabilities."""
    resamples: int = 2000
    """Bootstrap resamples of lesions behind each 95 % interval."""
    seed: int = 0
    """Of the resamples."""

    def __post_init__(self) -> None:
        """Refuse what cannot be joined."""
        if len(self.runs) < 2:
            raise DataError(f"folds: give at least two runs (found {len(self.runs)})")
        require_range(self, "above 0", "resamples")


@dataclass(frozen=True)
class FeaturesFlags:
    """Flags of ``features``."""

    checkpoint: Path = Path("runs/default/best")
    """RUN/best, or RUN/checkpoints/step-XXXXXXXX."""
    arch: str = ""
    """A classifier of torchvision or timm (timm:NAME) with published weights, in its place."""
    weights: str = "imagenet"
    """With --arch: imagenet (the library's own), or the path of a file of weights."""
    image_size: int = 224
    """With --arch: pixels, height and width; a checkpoint has its own."""
    shards: Path = Path("shards/ham10000")
    """Folder or s3://bucket/prefix that `python -m pipeline.shards build` made."""
    cache: Path = Path("shards/cache")
    """Where shards from object storage are kept on this machine."""
    out: Path = Path("features.npz")
    """File to write."""
    speed: SpeedFlags = field(default_factory=SpeedFlags)


@dataclass(frozen=True)
class BaselineFlags:
    """Flags of ``baseline``."""

    features: Path | None = None
    """NumPy .npz with image_id [N] and vectors [N, F], as `eval.py features` writes it. Default:
    age, sex and site from the shards."""
    shards: Path = Path("shards/ham10000")
    """Folder or s3://bucket/prefix that `python -m pipeline.shards build` made."""
    cache: Path = Path("shards/cache")
    """Where shards from object storage are kept on this machine."""
    split: Split = "test"
    """Which split to judge on; the probe is fitted on train."""
    fold: int | None = None
    """The fold that counts as "val", from 0, for shards built with --folds."""
    allow_leak: bool = False
    """Judge although the features' network was trained on images of the split."""
    out: Path = Path("reports/baseline")
    """Folder for metrics.json and predictions.csv."""
    resamples: int = 2000
    """Bootstrap resamples of lesions behind each 95 % interval."""
    seed: int = 0
    """Of the resamples."""

    def __post_init__(self) -> None:
        """Refuse what no interval can be made with."""
        require_range(self, "above 0", "resamples")
