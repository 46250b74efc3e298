"""The flags of ``python -m pipeline.shards duplicates``."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import DataError
from pipeline.ham10000.flags import ImageType
from pipeline.ham10000.images import OnBadImage


@dataclass(frozen=True)
class DuplicatesFlags:
    """Find images of one lesion that are filed under different ids."""

    source: Path
    """Folder with the images and their metadata, or shards, or one split of them (SHARDS/test)."""
    out: Path = Path("duplicates.csv")
    """Table of pairs to write; a contact sheet of the best new pairs goes beside it as .png."""
    against: Path | None = None
    """Another such folder: find the images of --source that show an image of this one, whatever
    their ids, also resized, cropped, turned or compressed again (mirrored ones are not found)."""
    taxonomy: str = "ham10000"
    """Classes of the diagnoses, as for build; images of others are not looked at."""
    image_type: tuple[ImageType, ...] = ()
    """Kinds of photographs to look at, as for build."""
    on_bad_image: OnBadImage = "error"
    """skip leaves out damaged images and rows without one, and names them."""
    workers: int = 0
    """Processes; 0: one per core."""
    seed: int = 0
    """Seed of the visual vocabulary."""

    def __post_init__(self) -> None:
        """Refuse a negative number of processes."""
        if self.workers < 0:
            raise DataError(f"--workers is {self.workers}; expected 0 or more")
