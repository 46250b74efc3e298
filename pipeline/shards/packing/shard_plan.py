"""What a packing process is given: the plan of one shard and how its images are encoded.

Nothing here imports pandas, whose import would add half a second to the start of each process.
"""

from dataclasses import dataclass
from typing import Any

from pipeline.errors import DataError

SUBSAMPLING = "420"
"""Chroma subsampling of the JPEGs written."""


@dataclass(frozen=True)
class EncodeSettings:
    """How image bytes are made."""

    image_size: int | None = None
    """Pixels of the shorter side; larger images are shrunk to it, smaller ones never enlarged.
    Without it the bytes of every usable JPEG stay as they are."""
    jpeg_quality: int = 95
    """Quality of the JPEGs written, 1 to 100."""

    def __post_init__(self) -> None:
        """Refuse impossible sizes and qualities."""
        if self.image_size is not None and self.image_size < 1:
            raise DataError(f"--image-size is {self.image_size}; expected at least 1 pixel")
        if not 1 <= self.jpeg_quality <= 100:
            raise DataError(f"--jpeg-quality is {self.jpeg_quality}; expected 1 to 100")

    def describe(self) -> dict[str, Any]:
        """Return what the manifest says of it."""
        return {
            "image_size": self.image_size,
            "jpeg_quality": self.jpeg_quality,
            "subsampling": SUBSAMPLING,
            "resize": "libjpeg n/8 scaling, then Pillow bilinear",
        }


@dataclass(frozen=True)
class ShardPlan:
    """What one shard holds."""

    path: str
    """Path of the tar below OUT."""
    split: str
    """train, val or test."""
    fold: int | None
    """Fold of its samples; None without folds, and for test."""
    rows: tuple[dict[str, Any], ...]
    """The metadata of each sample (``metadata.COLUMNS``; age None if missing), in packing order."""
