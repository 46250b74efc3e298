"""The flags of a search, and how they become the command of a trial's training.

python -m pipeline.search --help
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from pipeline.cli import parse
from pipeline.errors import DataError
from pipeline.training.flags import TrainFlags

RESERVED = ("--shards", "--run-dir", "--resume", "--epochs")
"""Flags of train.py that the search sets itself."""

ROOT = Path(__file__).resolve().parents[2]
"""The folder of train.py."""


@dataclass(frozen=True)
class SearchFlags:
    """Search for better flags of train.py."""

    fixed: tyro.conf.Positional[tuple[str, ...]] = ()
    """After a lone --: flags of train.py for every trial, as -- --image-size 64 --weights none."""
    shards: str = "shards/ham10000"
    """Folder or s3://bucket/prefix of the shards."""
    out: Path = Path("runs/search")
    """STUDY: folder of the trials, the table and the page. The same one again continues it."""
    trials: int = 20
    """Trials of the study in total, over all processes and machines."""
    epochs: tuple[int, ...] = (5, 15)
    """Epochs of each trial: one number, or the lowest and the highest to search between. Trials are
    compared at equal epochs, where one with a short schedule is ahead of one with a long one."""
    only: tuple[str, ...] = ()
    """Parameters to search, by name (lr, weight-decay, batch-size, augment, remedy, arch); all
    when none are named."""
    space: Path | None = None
    """A TOML file of parameters in place of those: any flag of train.py, as lr = {low = 1e-4, high
    = 1e-2, log = true} or batch-size = [32, 64]."""
    pruner: Literal["asha", "hyperband", "none"] = "asha"
    """What ends trials early: asha (successive halving), hyperband (successive halving with several
    minimum lengths), none."""
    seed: int = 0
    """Seed of the parameters; a trial's depend on it, the trial's number and the trials before."""
    storage: str = ""
    """Database URL of the study: postgresql://USER@HOST/DB (for several machines), mysql://...,
    sqlite:///FILE. Default: SQLite in STUDY/study.db."""
    study_name: str = ""
    """Name of the study in the database. Default: the name of the folder STUDY."""
    command: str = "accelerate launch train.py"
    """What starts a training, before its flags; "python train.py" starts sooner. A train.py that is
    not in the working folder is the one beside this package."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        if self.trials < 1:
            raise DataError("--trials must be above 0")
        if len(self.epochs) not in (1, 2) or min(self.epochs) < 1:
            raise DataError("--epochs takes one number, or the lowest and the highest, above 0")
        if reserved := self.fixes(*RESERVED):
            raise DataError(
                f"{reserved[0]} after -- is a flag of the search: give it before the --"
            )
        if self.fixed and not self.fixed[0].startswith("--"):
            raise DataError(
                f"unexpected word {self.fixed[0]!r}; flags of train.py come after a lone --, as in "
                "python -m pipeline.search --trials 20 -- --image-size 64"
            )

    def fixes(self, *names: str) -> list[str]:
        """Return those of these flags of train.py that every trial is given."""
        given = [word.partition("=")[0].replace("_", "-") for word in self.fixed]
        return [name for name in names if name in given]

    @property
    def every(self) -> tuple[str, ...]:
        """The flags of train.py that all trials share."""
        epochs = ("--epochs", str(self.epochs[0])) if len(self.epochs) == 1 else ()
        return (*self.fixed, *epochs)

    def train_flags(self, *words: str) -> TrainFlags:
        """Read a trial's flags as train.py does; a mistake in them ends the search at once."""
        return parse(TrainFlags, argv=["--shards", self.shards, *words, *self.every])

    def training(self, run: Path, words: Sequence[str]) -> list[str]:
        """Return the command that trains into ``run``; train.py is found from any folder."""
        command = [
            str(ROOT / word) if (ROOT / word).is_file() and not Path(word).exists() else word
            for word in shlex.split(self.command)
        ]
        return [*command, "--shards", self.shards, "--run-dir", str(run), *words, *self.every]
