"""Search for better flags of train.py: many trials, the worst of them ended early.

    Optuna --parameters--> train.py in STUDY/trials/NNN --history.csv--> Optuna --> search.html

    python -m pipeline.search --shards shards/ham10000 --trials 20 -- --image-size 64
    python -m pipeline.search --only lr weight-decay --epochs 8 -- --arch resnet18
    python -m pipeline.search --storage postgresql://USER@HOST/DB --study-name r34

What follows `--` is given to every trial, and is not searched. A trial's value is its best
validation ROC-AUC; the test split is not used. Several processes (one a GPU, with
CUDA_VISIBLE_DEVICES) and several machines share a study through the same database and name. The
trial of a process that has died is retried by another, or by the same command started again, from
its last checkpoint where the run folder is at hand. Exit codes: those of train.py.
"""

import hashlib
import shutil
import signal
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from pipeline.errors import DataError
from pipeline.files import require_writable, sha256
from pipeline.search import report
from pipeline.search.flags import SearchFlags
from pipeline.search.space import Space, make_space, suggest, words_of
from pipeline.search.study import (
    REASON,
    RUN,
    STARTED,
    alone_in,
    open_study,
    patiently,
    retry,
    run_of,
    runs,
    stored,
)
from pipeline.search.trial import LOG, Attempt, FailedTrainingError, SearchInterrupted, TakenOver
from pipeline.shards.storage.object_store import store_for

HEARTBEAT, GRACE = 10, 60
"""Seconds between a trial's heartbeats; without one after which it is retried, which is also the
time that a training has to save and leave."""

FAILURES = 3
"""Failed trials, with none that has succeeded, after which the search gives up."""

REDRAWN = 60.0
"""Seconds between drawings of the page while trials end."""


def search(
    flags: SearchFlags, *, heartbeat: int = HEARTBEAT, grace: int = GRACE, draw: bool = True
) -> None:
    """Run trials until the study has ``flags.trials``, then print the best flags.

    ``heartbeat`` is seconds, at least 1, ``grace`` more; ``draw`` writes plots and page besides the
    table.

    Raises:
        DataError: a mistake in the flags, or no trial has succeeded.
        SystemExit: interrupted by a signal; exit code 128 + its number.
    """
    require_writable(flags.out, "--out")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", ExperimentalWarning)
    space = make_space(flags)
    setting = {
        "every": list(flags.every),
        "space": {name: str(values) for name, values in space.items()},
        "manifest_sha256": sha256(read_manifest(flags.shards)),
    }
    study = open_study(flags, setting=setting, heartbeat=heartbeat, grace=grace)
    worker = Worker(flags, space, study, grace, draw)
    while worker.wanted():
        patiently(worker.run_trial)
        worker.write(last=False)
    worker.finish()


def read_manifest(shards: str) -> bytes:
    """Return the bytes of the shards' manifest, wherever they are, or raise a DataError."""
    content = store_for(shards).read("manifest.json")
    if content is None:
        raise DataError(
            f"--shards {shards}: there is no manifest.json; expected a folder or "
            "s3://bucket/prefix that python -m pipeline.shards build has made"
        )
    return content


@dataclass
class Worker:
    """A process that works on a study."""

    flags: SearchFlags
    space: Space
    study: optuna.Study
    grace: int
    draw: bool
    received: int = 0
    """SIGTERM or SIGINT, once it has arrived."""
    error: BaseException | None = None
    """What ended the last trial."""
    drawn: float = field(default_factory=time.monotonic)
    """When the page was last written, on this process's clock."""

    def __post_init__(self) -> None:
        """Take over SIGTERM and Ctrl-C; a second one ends the process at once."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.remember)

    def remember(self, number: int, _: object) -> None:
        """Note a signal."""
        self.received = number
        signal.signal(number, signal.SIG_DFL)

    def wanted(self) -> bool:
        """Say whether to start another trial, having waited for those of other processes.

        Once enough trials have ended or run, waits for the running ones: should their process die,
        this one retries them.
        """
        waiting = False
        while not self.received:
            patiently(lambda: optuna.storages.fail_stale_trials(self.study))
            trials = patiently(lambda: runs(self.study))
            states = [trial.state for trial in trials]
            if len(failed_alone(trials)) >= FAILURES:
                return False
            if TrialState.WAITING in states or len(states) < self.flags.trials:
                return True
            running = states.count(TrialState.RUNNING)
            if not running:
                return False
            if not waiting:
                print(f"waiting for {running} running trial(s) of other processes", flush=True)
                waiting = True
            time.sleep(1)
        return False

    def run_trial(self) -> None:
        """Let Optuna run a trial that waits, or a new one; StorageInternalError: no database."""
        self.error = None
        ours = (FailedTrainingError, SearchInterrupted, TakenOver)
        try:
            self.study.optimize(self.objective, n_trials=1, catch=ours)
        except (ValueError, AssertionError, UpdateFinishedTrialError) as error:
            # Optuna's, for the result of a trial that another process has failed, or the trial's
            if error is self.error:
                raise
        except (StorageInternalError, UnboundLocalError) as error:
            # the latter is Optuna 5.0's, when the database fails at the end of a trial
            if isinstance(self.error, DataError):
                raise self.error from error
            raise StorageInternalError(str(error)) from error

    def objective(self, trial: optuna.Trial) -> float:
        """Train a trial and return its value."""
        try:
            number, parameters = patiently(lambda: self.begin(trial))
            words, folder = words_of(parameters), self.folder(number)
            epochs = self.flags.train_flags(*words).optimisation.epochs
            attempt = Attempt(trial, folder, epochs, self.grace, lambda: self.received != 0)
            value = attempt.train(self.flags.training(folder, words))
            print(f"trial {number}: complete, best ROC-AUC {value:.4f}", flush=True)
            return value
        except BaseException as error:
            self.error = error
            self.record(trial, error)
            raise

    def record(self, trial: optuna.Trial, error: BaseException) -> None:
        """Print what ended a trial, and store what Optuna does not."""
        failed = "failed: " if isinstance(error, FailedTrainingError) else ""
        print(f"trial {trial.user_attrs.get(RUN, trial.number)}: {failed}{error}", flush=True)
        if isinstance(error, FailedTrainingError):
            patiently(lambda: trial.set_user_attr(REASON, str(error)))
        elif isinstance(error, (SearchInterrupted, DataError)):  # the latter: no database
            patiently(lambda: retry(self.study, stored(trial)), seconds=5)

    def begin(self, trial: optuna.Trial) -> tuple[int, dict[str, Any]]:
        """Return the number of a trial's run and its parameters, drawn now where it has none."""
        seed = f"{self.flags.seed} {trial.number}".encode()
        self.study.sampler = optuna.samplers.TPESampler(
            seed=int.from_bytes(hashlib.sha256(seed).digest()[:4]),
            n_startup_trials=min(10, max(4, self.flags.trials // 4)),
        )
        parameters = {name: suggest(trial, name, v) for name, v in self.space.items()}
        number = trial.user_attrs.get(RUN, trial.number)
        trial.set_user_attr(RUN, number)
        trial.set_user_attr(STARTED, trial.number)
        shown = ", ".join(f"{name} {report.short(v)}" for name, v in parameters.items())
        print(f"trial {number}: {shown}", flush=True)
        return number, parameters

    def folder(self, number: int) -> Path:
        """Return RUN."""
        return self.flags.out / "trials" / f"{number:03d}"

    def write(self, *, last: bool) -> tuple[list[FrozenTrial], str]:
        """Write the table, now and then the page, and remove checkpoints that nobody needs.

        One process at a time: else an older table could replace a newer one.
        """
        with alone_in(self.flags.out):
            trials = patiently(lambda: runs(self.study))
            for trial in trials:
                if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
                    shutil.rmtree(self.folder(run_of(trial)) / "checkpoints", ignore_errors=True)
            table = report.write_table(self.flags.out, trials, self.space)
            if self.draw and (last or time.monotonic() - self.drawn > REDRAWN):
                report.write_page(self.flags, self.study, trials, self.space)
                self.drawn = time.monotonic()
        return trials, table

    def finish(self) -> None:
        """Write everything, print the table and the best flags, and leave."""
        out = self.flags.out
        trials, table = self.write(last=True)
        print(f"{table}\ntable in {out / 'trials.csv'}, page in {out / 'search.html'}", flush=True)
        if best := report.best_of(trials):
            command = report.best_command(self.flags, best)
            print(f"\nthe best flags by validation ROC-AUC:\n\n{command}", flush=True)
        if self.received:
            print("interrupted: saved; the same command continues the search", flush=True)
            raise SystemExit(128 + self.received)
        if failed := failed_alone(trials):
            raise DataError(
                f"{len(failed)} trial(s) have failed and none has succeeded; the last one with: "
                f"{failed[-1].user_attrs[REASON]} (log: {self.folder(run_of(failed[-1])) / LOG}). "
                "Correct the cause, then search with another --out"
            )


def failed_alone(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials whose training has failed, if none has succeeded."""
    if any(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in trials):
        return []
    return [trial for trial in trials if REASON in trial.user_attrs]
