"""The flags of a search, and how a trial's flags become train.py's.

python -m pipeline.search --help
"""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from pipeline.cli import parse
from pipeline.errors import DataError
from pipeline.training.flags import TrainFlags

OWN = ("--shards", "--run-dir", "--resume", "--epochs")
"""Flags of train.py that the search gives itself."""


@dataclass(frozen=True)
class Options:
    """Search for better flags of train.py."""

    fixed: tyro.conf.Positional[tuple[str, ...]] = ()
    """After a lone --: flags of train.py for every trial, as -- --image-size 64 --weights none."""
    shards: str = "shards/ham10000"
    """Folder or s3://bucket/prefix of the shards."""
    out: Path = Path("runs/search")
    """STUDY: the folder of the trials, the table and the page. The same one again goes on."""
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
    """What ends trials early: asha (successive halving), hyperband (the same at several lengths of
    patience), none."""
    min_epochs: int = 1
    """Epochs that every trial gets before the first comparison."""
    reduction: int = 3
    """At each comparison one trial in so many goes on; comparisons are that times further apart."""
    seed: int = 0
    """Decides what is tried: a function of it, the trial's number and the trials before."""
    storage: str = ""
    """Where the study is kept: a database URL of Optuna's (postgresql://..., mysql://...,
    sqlite:///...), redis://..., or the path of a journal file. Default: STUDY/study.db, SQLite."""
    study_name: str = ""
    """Name in the storage. Default: the name of the folder STUDY."""
    command: str = "accelerate launch train.py"
    """What starts a training, before its flags; "python train.py" saves the launcher's start."""
    heartbeat: float = 10.0
    """Seconds between signs of life; another machine's trial is taken over after six without."""
    grace: float = 60.0
    """Seconds that a training gets to save and leave."""
    page: bool = True
    """Draw the plots and write search.html; of many processes on one study one is enough."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        for name in ("trials", "min_epochs", "heartbeat", "grace"):
            if getattr(self, name) <= 0:
                raise DataError(f"--{name.replace('_', '-')} must be above 0")
        if self.reduction < 2:
            raise DataError("--reduction must be 2 or above")
        if len(self.epochs) not in (1, 2) or min(self.epochs) < 1:
            raise DataError("--epochs takes one number, or the lowest and the highest, above 0")
        own = [word for word in self.fixed if word.partition("=")[0].replace("_", "-") in OWN]
        if own:
            raise DataError(f"{own[0]} after -- is the search's own: give it before the --")
        if self.fixed and not self.fixed[0].startswith("--"):
            raise DataError(
                f"{self.fixed[0]!r} stands alone; flags of train.py come after a lone --, as in "
                "python -m pipeline.search --trials 20 -- --image-size 64"
            )

    @property
    def every(self) -> tuple[str, ...]:
        """The flags that each trial has, but for its folder."""
        epochs = ("--epochs", str(self.epochs[0])) if len(self.epochs) == 1 else ()
        return (*self.fixed, *epochs)


def train_config(options: Options, words: list[str]) -> TrainFlags:
    """Read a trial's flags as train.py would; a mistake in them ends the search at once."""
    argv = ["--shards", options.shards, *words, *options.every]
    return parse(TrainFlags, about="Flags of a trial, as train.py takes them.", argv=argv)


def starter(command: str) -> list[str]:
    """Return the words that start a training, with this interpreter's programs."""
    first, *rest = shlex.split(command)
    beside = Path(sys.executable).with_name(first)
    if first == "python":
        return [sys.executable, *rest]
    return [str(beside) if beside.exists() else first, *rest]
