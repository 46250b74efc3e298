"""The study in its database: opened or made, and which of its trials count.

    study = open_study(flags, setting={"space": ...}, heartbeat=10, grace=60)
    for trial in runs(study): ...

Optuna records a heartbeat for each running trial. A trial without one for the grace is failed by
the next process that starts a trial, and queued again as a new trial with the same parameters,
values and attributes. The attribute RUN ties the two: the new trial continues in the old one's run
folder, and counts in its place.
"""

import contextlib
import fcntl
import json
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.exceptions import StorageInternalError
from optuna.pruners import HyperbandPruner, NopPruner, SuccessiveHalvingPruner
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from pipeline.errors import DataError
from pipeline.files import write_file
from pipeline.search.flags import SearchFlags

SETTING = "setting"
"""Attribute of a study: what its trials have in common."""

FOLDER = "study.json"
"""Under STUDY: name of its study, and an identity that is an attribute of that study too."""

LOCKED = 30.0
"""Seconds to wait for another process that writes the table."""

RUN, STARTED, SECONDS, REASON = "run", "started", "seconds", "reason"
"""Attributes of a trial: number of its run folder, its own number once its training starts, seconds
of training so far, why it failed."""

MIN_EPOCHS, REDUCTION = 1, 3
"""Of the pruners: epochs before the first comparison; one trial in so many continues after each,
and comparisons are so many times further apart."""

ATTEMPTS = 5
"""To open the database: several processes may be making its tables."""

T = TypeVar("T")


class Storage(RDBStorage):
    """A database whose heartbeats survive an outage: Optuna's thread ends at the first error."""

    def record_heartbeat(self, trial_id: int) -> None:
        """Record a heartbeat, or leave it to the next one."""
        with contextlib.suppress(StorageInternalError):
            super().record_heartbeat(trial_id)


def open_study(
    flags: SearchFlags, *, setting: dict[str, Any], heartbeat: int, grace: int
) -> optuna.Study:
    """Return the study, made where there is none.

    ``setting`` has flags, ranges and shards, compared with those of the study's first process;
    ``heartbeat`` is seconds between a trial's heartbeats, ``grace`` those without one after which a
    trial is retried. Another setting, or a database that cannot be opened, is a DataError.
    """
    attempt = 0
    while True:
        attempt += 1
        try:
            study = connect(flags, heartbeat=heartbeat, grace=grace)
            break
        except Exception as error:  # whatever a database's driver raises, or that there is none
            if attempt == ATTEMPTS or isinstance(error, (ImportError, ValueError)):
                kind = flags.storage.partition(":")[0] or "sqlite"  # the URL may hold a password
                raise DataError(
                    f"--storage {kind}, --out {flags.out}: the study cannot be opened "
                    f"({type(error).__name__}: {error}); expected a database URL as "
                    "postgresql://USER@HOST/DB (pip install 'dermpipe[postgres]') or sqlite:///FILE"
                ) from error
            time.sleep(0.2 * attempt)
    stored = study.user_attrs.get(SETTING)
    if stored is None:
        study.set_user_attr(SETTING, setting)
    elif stored != setting:
        changed = [f"{name}: {value}" for name, value in stored.items() if setting[name] != value]
        raise DataError(
            f"the study {study.study_name!r} was begun with other flags, ranges or shards "
            f"({'; '.join(changed)}); give the same to continue it, or another --out (and "
            "--study-name)"
        )
    require_own_folder(flags.out, study)
    return study


def require_own_folder(out: Path, study: optuna.Study) -> None:
    """Raise a DataError where STUDY has another study's trials; processes of one study share it."""
    path = out / FOLDER
    with alone_in(out):
        if path.exists():
            found = json.loads(path.read_text())
        else:  # new, or of an earlier version
            found = {"study": study.study_name, "folder": uuid.uuid4().hex}
            study.set_user_attr(f"folder {found['folder']}", str(out.absolute()))
            write_file(path, json.dumps(found) + "\n")
    if f"folder {found['folder']}" not in study.user_attrs:
        raise DataError(
            f"--out {out} holds the trials of another study ({found['study']!r}), not of "
            f"{study.study_name!r} in this --storage: run folders, tables and pages would mix; "
            "give its --storage and --study-name to continue it, or another --out"
        )


@contextlib.contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Wait until no other process of this machine is in such a block; not for a suspended one."""
    give_up = time.monotonic() + LOCKED
    with (out / ".lock").open("w") as lock:
        while time.monotonic() < give_up:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.05)
            except OSError:  # some file systems have no locks
                break
        yield


def connect(flags: SearchFlags, *, heartbeat: int, grace: int) -> optuna.Study:
    """Return the study, made where there is none; raises what the database's driver does."""
    flags.out.mkdir(parents=True, exist_ok=True)
    url = flags.storage or f"sqlite:///{(flags.out / 'study.db').absolute()}"
    sqlite: dict[str, Any] = {"connect_args": {"timeout": 60}}  # seconds to wait for its one lock
    storage = Storage(
        url,
        engine_kwargs=sqlite if url.startswith("sqlite") else {"pool_pre_ping": True},
        heartbeat_interval=heartbeat,
        grace_period=grace,
        heartbeat_stale_trial_callback=retry,
    )
    pruners = {  # Li et al. 2020, Li et al. 2018
        "asha": SuccessiveHalvingPruner(min_resource=MIN_EPOCHS, reduction_factor=REDUCTION),
        "hyperband": HyperbandPruner(MIN_EPOCHS, max(flags.epochs), REDUCTION),
        "none": NopPruner(),
    }
    return optuna.create_study(
        storage=storage,
        study_name=flags.study_name or flags.out.absolute().name,
        direction="maximize",
        load_if_exists=True,
        pruner=pruners[flags.pruner],
    )


def retry(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue a trial again, with its parameters, values and attributes."""
    RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)(study, trial)


def runs(study: optuna.Study) -> list[FrozenTrial]:
    """Return the last trial of each run folder: a retry takes the place of what it retries.

    A trial whose process died before its training, and thus its heartbeats, began does not count.
    """
    last: dict[int, FrozenTrial] = {}
    for trial in study.get_trials(deepcopy=False):
        if trial.state == TrialState.WAITING or trial.user_attrs.get(STARTED) == trial.number:
            last[run_of(trial)] = trial
    return list(last.values())


def stored(trial: optuna.Trial) -> FrozenTrial:
    """Return a trial as the database has it now."""
    return trial.study.get_trials(deepcopy=False)[trial.number]


def run_of(trial: FrozenTrial) -> int:
    """Return the number of a trial's run folder, which is that of the first trial there."""
    return trial.user_attrs.get(RUN, trial.number)


def patiently(call: Callable[[], T], *, seconds: float = 60.0) -> T:
    """Return what ``call`` returns; a database that is away for ``seconds`` is a DataError."""
    give_up = None
    while True:
        try:
            return call()
        except StorageInternalError as error:
            give_up = give_up or time.monotonic() + seconds
            if time.monotonic() > give_up:
                raise DataError(
                    f"the study's database has not answered for {seconds:.0f} s ({error}); start "
                    "the same command again when it does: trainings have saved"
                ) from error
            time.sleep(0.5)
