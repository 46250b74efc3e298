"""The flags of ``python -m pipeline.ham10000 download|synthesize``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ImageType = Literal["dermoscopic", "clinical", "tbp", "confocal", "all"]
"""Kinds of photographs in the ISIC Archive; tbp: crops of total body photographs."""


@dataclass(frozen=True)
class DownloadFlags:
    """Fetch HAM10000 (2.8 GB) from the Harvard Dataverse."""

    out: Path = Path("data/ham10000")
    """Folder to fill; complete files in it are kept, partial ones are resumed."""
    test_set: bool = False
    """Also fetch the official ISIC 2018 Task 3 test set (1,511 images, 0.4 GB)."""
    base_url: str = "https://dataverse.harvard.edu"
    """Address of the Dataverse."""


@dataclass(frozen=True)
class SynthesizeFlags:
    """Write a synthetic, learnable dataset in HAM10000's layout."""

    out: Path = Path("data/demo")
    """Folder to make; it must be empty or missing."""
    images: int = 600
    """Number of images."""
    taxonomy: str = "ham10000"
    """Classes to draw: ham10000, isic2019, pad-ufes-20, milk10k, or an own TOML file. One that
    HAM10000 lacks looks like one of HAM10000's with the same label."""
    seed: int = 0
    """Random seed; equal seeds give equal bytes."""
    width: int = 300
    """Image width, pixels."""
    height: int = 225
    """Image height, pixels."""
