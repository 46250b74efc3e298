"""One trial: a training process in its run folder, followed through the table that it writes.

    train.py --RUN/history.csv--> Optuna --> continue, or prune: SIGTERM, saves, leaves

The training is a plain train.py; nothing of it depends on the search.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import optuna
import pandas as pd
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from pipeline.files import forget
from pipeline.search import supervisor
from pipeline.search.study import SECONDS, patiently, stored
from pipeline.training.flags import EXIT

METRIC = "val_roc_auc"
"""Column of history.csv; a trial's value is the highest of its epochs."""

LOG = "search.log"
"""Under RUN: the output of all its trainings."""

TICK = 0.5
"""Seconds between looks at history.csv and at the trial's state."""

STARTS, TERMINATED = 3, (75, 130, 137, 143)
"""Starts of a training that ends with one of these exit codes: it hung, or was stopped."""

RETRIED = "stopped: another process retries it"


class FailedTrainingError(Exception):
    """The training failed; its own message."""


class SearchInterrupted(Exception):  # noqa: N818 - not an error
    """The search was asked to leave; the training has saved."""


class TakenOver(Exception):  # noqa: N818 - not an error
    """Another process has failed the trial as stale, and retries it."""


@dataclass
class Attempt:
    """A trial in training, in its folder ``run``."""

    trial: optuna.Trial
    run: Path
    epochs: int
    grace: int
    """Seconds that the training has to save and leave."""
    interrupted: Callable[[], bool]
    """Whether the search was asked to leave."""
    reported: set[int] = field(default_factory=set)
    """Epochs that the database has."""

    def train(self, command: Sequence[str]) -> float:
        """Train to the end, and return the best validation ROC-AUC; nothing runs afterwards.

        Raises:
            optuna.TrialPruned: the trial is not worth its remaining epochs.
            FailedTrainingError, SearchInterrupted, TakenOver: see there.
        """
        before = patiently(lambda: stored(self.trial))
        self.reported = set(before.intermediate_values)
        begun = time.monotonic() - before.user_attrs.get(SECONDS, 0.0)
        code, starts = TERMINATED[-1], 0
        while code in TERMINATED and starts < STARTS:
            with training(command, self.run, self.grace) as process:
                self.follow(process, begun)
            code, starts = own_code(self.run, process.returncode), starts + 1
        values = [value for _, value in rows(self.run)]
        if code or not values:
            raise FailedTrainingError(last_words(self.run))
        return max(values)

    def follow(self, process: subprocess.Popen[bytes], begun: float) -> None:
        """Report epochs until the training has ended; raises what is to stop it earlier."""
        while True:
            code = process.poll()
            patiently(lambda: self.report(time.monotonic() - begun))
            if self.interrupted() and (code is None or code in TERMINATED):
                raise SearchInterrupted("stopped and saved")
            if code is not None:
                return
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(TICK)

    def report(self, seconds: float) -> None:
        """Report the epochs that are new in history.csv, and ask the pruner after each."""
        if stored(self.trial).state != TrialState.RUNNING:
            raise TakenOver(RETRIED)
        for epoch, value in rows(self.run):
            if epoch in self.reported:
                continue
            try:
                self.trial.report(value, epoch)
                self.trial.set_user_attr(SECONDS, round(seconds, 1))
                prune = epoch < self.epochs and self.trial.should_prune()
            except UpdateFinishedTrialError:
                raise TakenOver(RETRIED) from None
            self.reported.add(epoch)
            number = int(self.run.name)
            print(f"trial {number}, epoch {epoch}/{self.epochs}: ROC-AUC {value:.4f}", flush=True)
            if prune:
                raise optuna.TrialPruned("pruned")


@contextlib.contextmanager
def training(command: Sequence[str], run: Path, grace: int) -> Iterator[subprocess.Popen[bytes]]:
    """Start a training; after the block, ask it to leave and wait until it has ended."""
    run.mkdir(parents=True, exist_ok=True)
    forget(run / EXIT)
    words = [supervisor.__file__, str(os.getpid()), str(grace), str(run), *command]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    with (run / LOG).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PATH": path},  # this interpreter's python and accelerate
            start_new_session=True,  # Ctrl-C on a terminal reaches the search alone
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def own_code(run: Path, found: int) -> int:
    """Return the exit code that RUN/exit.json says; launchers turn a rank's into 1."""
    try:
        return int(json.loads((run / EXIT).read_text())["code"])
    except (OSError, ValueError, LookupError, TypeError):
        return found


def rows(run: Path) -> list[tuple[int, float]]:
    """Return epoch and ROC-AUC of each row of history.csv in which it is defined."""
    if not (run / "history.csv").is_file():
        return []
    table = pd.read_csv(run / "history.csv").dropna(subset=METRIC)
    return list(zip(table["epoch"].tolist(), table[METRIC].tolist(), strict=True))


def last_words(run: Path) -> str:
    """Return the training's error message, or the last line that it printed."""
    lines = [line.strip() for line in (run / LOG).read_text(errors="replace").splitlines()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or [line for line in lines if line] or ["it printed nothing"])[-1]
