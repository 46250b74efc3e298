"""The flags of ``python -m benchmarks.gpu``, its parts with their seconds, its sizes; no torch.

A part runs in a process of its own, because an error of CUDA poisons the process it is in. It may
take its own seconds and what earlier parts have left, as long as later parts keep theirs.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.cli import require_range
from pipeline.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
"""The folder of train.py."""

BUDGET = {
    "machine": 15,
    "tests": 75,
    "decode": 50,
    "loaders": 40,
    "step": 120,
    "commands": 160,
    "judge": 50,
    "recipe": 0,
}
"""Seconds kept for each part, in their order; of nine minutes 30 are left for start and end."""


@dataclass(frozen=True)
class Options:
    """Flags of the benchmark."""

    json: Path | None = None
    """File for the rows, written anew after each."""
    minutes: float = 9.0
    """For everything; what does not fit is "no time left"."""
    dry_run: bool = False
    """Walk through all of it on a CPU with tiny sizes: the same rows, no claim on speed."""
    wheels: Path | None = None
    """Folder of wheels, whole or in pieces NAME.whl.part00, .part01, ..., that are installed into a
    temporary folder, without network, for this run alone."""
    list_wheels: bool = False
    """Only print the packages, as NAME==VERSION, that this environment loads for the run."""
    readme: tuple[Path, ...] = ()
    """Only write the rows of these JSONs into README's table; of a row in two, the later one's."""
    originals: Path | None = None
    """Folder with JPEGs at their original size; by default some of 600 x 450 are made up."""
    shards: Path | None = None
    """Real shards, splits train, val, test, to load and train on; by default made-up images."""
    parts: tuple[str, ...] = tuple(BUDGET)
    """Parts to run."""

    def __post_init__(self) -> None:
        """Refuse parts that are none."""
        require_range(self, "above 0", "minutes")
        for part in self.parts:
            if part not in BUDGET:
                raise DataError(f"no part {part!r}; there are {', '.join(BUDGET)}")


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    arch: str
    """Network of the steps and trainings."""
    image_size: int
    """Side of its images, pixels."""
    batch_sizes: tuple[int, ...]
    """Images of a step; the middle one is that of loaders and trainings."""
    images: int
    """Of each set that is only decoded or loaded."""
    training_images: int
    """Of the made-up set that is trained on."""
    seconds: float
    """Of each figure."""
    warm: int
    """Batches before the clock starts."""
    pairs: int
    """Of stretches with and without the loader."""
    loads: tuple[float, ...]
    """Shares of decoding for the JPEG engines."""
    threads: tuple[int, ...]
    """Of DALI."""

    @property
    def batch_size(self) -> int:
        """Of loaders and trainings, images."""
        return self.batch_sizes[len(self.batch_sizes) // 2]


REAL = Scale(
    arch="resnet34",
    image_size=224,
    batch_sizes=(64, 128, 256),
    images=6000,
    training_images=3000,
    seconds=0.8,
    warm=20,
    pairs=3,
    loads=(0.0, 0.3, 0.65, 0.9, 1.0),
    threads=(8, 16),
)
DRY = Scale(
    arch="shufflenet_v2_x0_5",
    image_size=32,
    batch_sizes=(4, 8, 16),
    images=64,
    training_images=120,
    seconds=0.05,
    warm=2,
    pairs=1,
    loads=(0.0, 1.0),
    threads=(1,),
)


@dataclass(frozen=True)
class Plan:
    """What the process of a part is told."""

    work: Path
    """Folder for images, shards and runs."""
    dry: bool = False
    """Tiny sizes on a CPU."""
    originals: Path | None = None
    """As the flag."""
    shards: Path | None = None
    """As the flag."""
    seconds: float = 0.0
    """That the part may take."""

    @property
    def scale(self) -> Scale:
        """The sizes."""
        return DRY if self.dry else REAL

    @property
    def training_shards(self) -> Path:
        """What is trained on and judged: the user's, or made-up ones."""
        return self.shards or self.work / "training-shards"

    def words(self) -> str:
        """Return it as one word of a command line."""
        return json.dumps(asdict(self), default=str)

    @staticmethod
    def read(word: str) -> "Plan":
        """Return what ``words`` made."""
        facts: dict[str, Any] = json.loads(word)
        paths = {name: Path(facts[name]) for name in ("work", "originals", "shards") if facts[name]}
        return Plan(**{**facts, **paths})
