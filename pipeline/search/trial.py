"""One trial of a search: a training in its folder, followed through the table that it writes.

    train.py --RUN/history.csv--> report to the study --> go on, or prune: SIGTERM, saved, left

A trial is a process like any other training; nothing in train.py knows of searches.
"""

import contextlib
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

import optuna
import pandas as pd
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial

from pipeline.errors import DataError
from pipeline.search import keeper as search_keeper
from pipeline.search.lease import ATTRIBUTE, Lease, lease_of, lock

METRIC = "val_roc_auc"
"""Column of history.csv; its highest value is what a trial is worth."""

LOG = "search.log"
"""Under RUN: what the training printed, all its starts one after the other."""

TICK = 0.2
"""Seconds between looks at history.csv."""

STOPPED_FROM_OUTSIDE = (130, 137, 143)
"""Exit codes of a training that did not fail but was told to end."""

PRUNED = "pruned_after"
"""Attribute of a trial that is to be pruned: the epoch that decided it."""

ATTEMPTS = 3
"""Starts of a training that is ended from outside before the trial is given up."""

Fate = Literal["complete", "pruned", "failed", "stopped", "lost"]
T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """What became of a start of a trial."""

    fate: Fate
    """stopped: to be gone on with; lost: another search has it now."""
    roc_auc: float = math.nan
    """The best of the epochs so far."""
    reason: str = ""
    """Of a failure, in the training's words."""


@dataclass
class Attempt:
    """One start of a trial's training, from the first look at its table to the last."""

    trial: optuna.Trial
    folder: Path
    """RUN."""
    lease: Lease
    epochs: int
    """Of the trial; it is not pruned after the last one."""
    heartbeat: float
    """Seconds between signs of life in the study."""
    grace: float
    """Seconds that the training has to save and leave."""

    def run(self, command: Sequence[str], *, interrupted: Callable[[], bool]) -> Outcome:
        """Train to the end, to pruning, or until ``interrupted()``; the training is gone then."""
        if PRUNED in self.frozen().user_attrs:  # its search was killed before it could say so
            return Outcome("pruned", self.best())
        held = lock(self.folder / "training.lock", seconds=self.grace + 10)
        if held is None:
            raise DataError(
                f"{self.folder}: a training of an earlier start still runs there; end it, then "
                "start the same command again"
            )
        try:
            keeper = self.start(command, held)
        finally:
            os.close(held)  # the keeper has it
        try:
            fate = self.follow(keeper, interrupted)
        finally:
            stop(keeper)
        if fate != "lost" and keeper.returncode == 0:
            fate = "complete"  # it was done before it could be stopped
        if fate is None:
            fate = "stopped" if keeper.returncode in STOPPED_FROM_OUTSIDE else "failed"
            if fate == "stopped" and self.lease.attempts >= ATTEMPTS:
                fate = "failed"
        if fate != "lost":
            list(self.report())
        return Outcome(fate, self.best(), self.last_words() if fate == "failed" else "")

    def start(self, command: Sequence[str], held: int) -> subprocess.Popen[bytes]:
        """Start the training under its keeper."""
        script = [sys.executable, search_keeper.__file__, str(self.grace), str(held)]
        with (self.folder / LOG).open("ab") as log:
            return subprocess.Popen(
                [*script, *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[held],
                start_new_session=True,
            )

    def follow(
        self, keeper: subprocess.Popen[bytes], interrupted: Callable[[], bool]
    ) -> Fate | None:
        """Report epochs while the training runs; return why it is to be stopped, if it is."""
        begun, seconds, beaten = time.monotonic(), self.lease.seconds, -math.inf
        while True:
            now = time.monotonic()
            if now - beaten >= self.heartbeat:
                if not self.beat(seconds + now - begun):
                    return "lost"
                beaten = now
            if any(self.hopeless(epoch) for epoch in self.report()):
                return "pruned"
            if interrupted():
                return "stopped"
            with contextlib.suppress(subprocess.TimeoutExpired):
                keeper.wait(TICK)
                return None if self.beat(seconds + time.monotonic() - begun) else "lost"

    def beat(self, seconds: float) -> bool:
        """Give a sign of life; say whether the trial is still ours."""
        frozen = self.frozen()
        stored = lease_of(frozen)
        if frozen.state.is_finished() or stored is None or stored.token != self.lease.token:
            return False
        self.lease = replace(self.lease, count=self.lease.count + 1, seconds=round(seconds, 1))
        patiently(lambda: self.trial.set_user_attr(ATTRIBUTE, self.lease.stored()))
        return True

    def release(self) -> None:
        """Let any process go on with the trial."""
        patiently(
            lambda: self.trial.set_user_attr(ATTRIBUTE, replace(self.lease, token="").stored())
        )

    def report(self) -> Iterator[int]:
        """Give the study the epochs that are new in the table, and yield each."""
        known = max(self.frozen().intermediate_values, default=0)
        for epoch, value in self.rows():
            if epoch <= known:
                continue
            patiently(lambda e=epoch, v=value: self.trial.report(v, e))
            print(
                f"trial {self.trial.number}, epoch {epoch}/{self.epochs}: ROC-AUC {value:.4f}",
                flush=True,
            )
            yield epoch

    def hopeless(self, epoch: int) -> bool:
        """Ask the pruner after an epoch that is not the last, and keep what it says."""
        if epoch >= self.epochs or not patiently(self.trial.should_prune):
            return False
        patiently(lambda: self.trial.set_user_attr(PRUNED, epoch))
        return True

    def frozen(self) -> FrozenTrial:
        """Return the trial as the study has it now."""
        return patiently(lambda: self.trial.storage.get_trial(self.trial._trial_id))

    def rows(self) -> list[tuple[int, float]]:
        """Return epoch and ROC-AUC of each row of history.csv."""
        path = self.folder / "history.csv"
        if not path.is_file():
            return []
        table = pd.read_csv(path)
        return list(zip(table["epoch"].tolist(), table[METRIC].tolist(), strict=True))

    def best(self) -> float:
        """Return the highest ROC-AUC of the table."""
        return max((value for _, value in self.rows()), default=math.nan)

    def last_words(self) -> str:
        """Return the training's own message, or the last line that it printed."""
        path = self.folder / LOG
        lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
        lines = [line.strip() for line in lines if line.strip()]
        told = [line for line in lines if line.startswith("error: ")]
        return (told or lines or ["it printed nothing"])[-1]


def stop(keeper: subprocess.Popen[bytes]) -> None:
    """Let the training save and leave, where it still runs; return when nothing of it is left."""
    assert keeper.stdin
    keeper.stdin.close()
    keeper.wait()


def drop_checkpoints(folder: Path) -> None:
    """Remove the states of a finished training; RUN/best and the tables stay."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def patiently(call: Callable[[], T], *, seconds: float = 60.0) -> T:
    """Return what ``call`` returns; try again while the study's storage does not answer."""
    give_up = time.monotonic() + seconds
    while True:
        try:
            return call()
        except StorageInternalError as error:
            if time.monotonic() > give_up:
                raise DataError(
                    f"the study's storage has not answered for {seconds:.0f} s ({error}); the "
                    "training was saved: start the same command again when it does"
                ) from error
            time.sleep(0.5)
