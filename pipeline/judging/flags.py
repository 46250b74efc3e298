"""The flags of eval.py's further commands; imports no torch.

python eval.py submit --help
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from pipeline.cli import require_range
from pipeline.errors import DataError
from pipeline.evaluation.flags import DataFlags, SpeedFlags, Split


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
