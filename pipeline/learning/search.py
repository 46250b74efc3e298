"""Search for better flags of train.py: many trials, the hopeless ones ended early.

    study --parameters--> train.py in STUDY/trials/NNN --history.csv--> study --> search.html

    python -m pipeline.learning.search --shards shards/ham10000 --trials 20 -- --image-size 64
    python -m pipeline.learning.search --only lr weight-decay --epochs 8 -- --arch resnet18
    python -m pipeline.learning.search --storage postgresql://HOST/DB --study-name r34

What follows `--` is given to every trial as it is, and what is fixed there is not searched. A trial
is worth its best validation ROC-AUC; the test split is never looked at. Several processes (one a
GPU, with CUDA_VISIBLE_DEVICES) and several machines share a study when they are given the same
storage and name; --trials counts the trials of all. Killed, the same command goes on: what is done
stays done, the trial that ran resumes in its folder. Exit codes are those of train.py.
"""

import hashlib
import json
import shlex
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import optuna
import tyro
from optuna.distributions import CategoricalDistribution, IntDistribution, distribution_to_json
from optuna.trial import FrozenTrial, TrialState

from pipeline.cli import guard, parse
from pipeline.errors import DataError
from pipeline.learning import search_lease, search_report, search_space, search_study, search_trial
from pipeline.learning.config import TrainConfig
from pipeline.learning.processes import Interruption
from pipeline.learning.search_lease import ATTRIBUTE, Watch, lease_of, locked, new_lease
from pipeline.learning.search_space import Space
from pipeline.learning.search_trial import Attempt, Outcome, patiently

OWN = ("--shards", "--run-dir", "--resume", "--epochs")
"""Flags of train.py that the search gives itself."""

SURPLUS, REASON = "surplus", "reason"
"""Attributes of trials: made beside the last one, so it does not count; why one failed."""

FAILURES = 3
"""Trials that fail in a row, none having finished, before the search gives up."""

GRACES = 6
"""Heartbeats without a sign after which another machine's trial is taken over."""

REDRAWN = 60.0
"""Seconds between drawings of the page while trials end."""


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
                "python -m pipeline.learning.search --trials 20 -- --image-size 64"
            )

    @property
    def every(self) -> tuple[str, ...]:
        """The flags that each trial has, but for its folder."""
        epochs = ("--epochs", str(self.epochs[0])) if len(self.epochs) == 1 else ()
        return (*self.fixed, *epochs)


def main() -> None:
    """Run trials until the study has enough, then say what came out."""
    options = parse(Options, description="Search for better flags of train.py.")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = make_space(options)
    search = Search(options, space, open_study(options, space), Interruption())
    while not search.interruption.received and (trial := search.next_trial()):
        search.work_on(trial)
    search.finish()


def make_space(options: Options) -> Space:
    """Return what is searched; every choice has gone through train.py's own parser then."""
    config = train_config(options, [])
    space = search_space.read_space(options.space) if options.space else None
    space = space or search_space.default_space(config.optimizer)
    space = search_space.choose_space(space, only=options.only, fixed=options.fixed)
    own = [name for name in space if f"--{name}" in OWN]
    if own:
        raise DataError(f"--space {options.space}: {own[0]} is a flag of the search's own")
    if len(options.epochs) == 2:
        space["epochs"] = IntDistribution(min(options.epochs), max(options.epochs))
    if not space:
        raise DataError("nothing is left to search: every parameter is fixed; name fewer flags")
    for number in range(max(len(choices(values)) for values in space.values())):
        corner = {name: choices(v)[number % len(choices(v))] for name, v in space.items()}
        train_config(options, search_space.flags(corner))
    return space


def choices(values: Any) -> tuple:
    """Return the choices of a distribution, or its two ends."""
    if isinstance(values, CategoricalDistribution):
        return values.choices
    return (values.low, values.high)


def train_config(options: Options, words: list[str]) -> TrainConfig:
    """Read a trial's flags as train.py would; a mistake in them ends the search at once."""
    argv = ["--shards", options.shards, *words, *options.every]
    return parse(TrainConfig, description="Flags of a trial, as train.py takes them.", argv=argv)


def open_study(options: Options, space: Space) -> optuna.Study:
    """Open the study, or make it; refuse one that was begun with other flags."""
    return search_study.open_study(
        options.out,
        storage=options.storage,
        name=options.study_name or options.out.absolute().name,
        pruner=search_study.make_pruner(
            options.pruner,
            min_epochs=options.min_epochs,
            max_epochs=max(options.epochs),
            reduction=options.reduction,
        ),
        setting={
            "every": list(options.every),
            "space": {name: json.loads(distribution_to_json(v)) for name, v in space.items()},
        },
    )


@dataclass
class Search:
    """A process that works on a study."""

    options: Options
    space: Space
    study: optuna.Study
    interruption: Interruption
    watch: Watch = field(init=False)
    failures: int = 0
    """Trials that failed here since one did not."""
    drawn: float = field(default_factory=time.monotonic)
    """When the page was last made, on this process's clock."""
    holding: dict[int, int] = field(default_factory=dict)
    """Descriptors of search.lock, by trial."""

    def __post_init__(self) -> None:
        """Start watching the others."""
        self.watch = Watch(grace=GRACES * self.options.heartbeat)

    # -- which trial

    def next_trial(self) -> optuna.Trial | None:
        """Take a trial that was left, else make a new one; None when the study has enough."""
        while not self.interruption.received:
            with locked(self.options.out / ".lock"):
                trials = patiently(self.live_trials)
                running = [t for t in trials if t.state == TrialState.RUNNING]
                standing = {t.number: self.watch.judge(t) for t in running}
                for trial in running:
                    if standing[trial.number] == "left" and (taken := self.take(trial)):
                        return taken
                if len(trials) < self.options.trials and (made := self.make()):
                    return made
            if "unknown" not in standing.values():
                return None
            time.sleep(min(1.0, self.options.heartbeat))
        return None

    def live_trials(self) -> list[FrozenTrial]:
        """Return the trials that count."""
        found = self.study.get_trials(deepcopy=False)
        return [trial for trial in found if SURPLUS not in trial.user_attrs]

    def take(self, frozen: FrozenTrial) -> optuna.Trial | None:
        """Go on with a trial that was left, unless another process is quicker."""
        former = lease_of(frozen)
        trial = optuna.Trial(self.study, frozen._trial_id)
        if not self.claim(trial):
            return None
        mine = str(self.folder(trial.number).absolute())
        if not former or (former.machine, former.folder) != (search_lease.this_machine(), mine):
            time.sleep(search_lease.SETTLE)
            now = lease_of(patiently(lambda: trial.storage.get_trial(trial._trial_id)))
            if now is None or now.token != trial.user_attrs[ATTRIBUTE]["token"]:
                self.let_go(trial)
                return None
        print(f"trial {trial.number}: going on where it was left", flush=True)
        return trial

    def make(self) -> optuna.Trial | None:
        """Make a new trial with parameters; None where others have made the last one meanwhile."""
        trial = patiently(self.study.ask)
        self.claim(trial)
        before = [t for t in patiently(self.live_trials) if t.number < trial.number]
        if len(before) >= self.options.trials:
            trial.set_user_attr(SURPLUS, True)
            self.study.tell(trial, state=TrialState.FAIL)
            self.let_go(trial)
            return None
        return trial

    def claim(self, trial: optuna.Trial) -> bool:
        """Put our name on a trial; False where another process of this machine has it."""
        folder = self.folder(trial.number)
        held = search_lease.lock(folder / "search.lock")
        if held is None:
            return False
        self.holding[trial.number] = held
        frozen = patiently(lambda: trial.storage.get_trial(trial._trial_id))
        lease = new_lease(folder, lease_of(frozen))
        patiently(lambda: trial.set_user_attr(ATTRIBUTE, lease.stored()))
        return True

    def let_go(self, trial: optuna.Trial) -> None:
        """Give the trial's folder free."""
        search_lease.release(self.holding.pop(trial.number))

    # -- its training

    def folder(self, number: int) -> Path:
        """Return RUN of a trial."""
        return self.options.out / "trials" / f"{number:03d}"

    def parameters(self, trial: optuna.Trial) -> dict[str, Any]:
        """Return the trial's parameters, drawn now where it has none yet."""
        seed = f"{self.options.seed} {trial.number}".encode()
        self.study.sampler = optuna.samplers.TPESampler(
            seed=int.from_bytes(hashlib.sha256(seed).digest()[:4]),
            n_startup_trials=min(10, max(4, self.options.trials // 4)),
            multivariate=True,
        )
        return {name: search_space.suggest(trial, name, v) for name, v in self.space.items()}

    def work_on(self, trial: optuna.Trial) -> None:
        """Train a trial and tell the study what came of it."""
        folder, drawn = self.folder(trial.number), patiently(lambda: self.parameters(trial))
        words = search_space.flags(drawn)
        shown = ", ".join(f"{k} {search_report.short(v)}" for k, v in drawn.items())
        print(f"trial {trial.number}: {shown}", flush=True)
        attempt = Attempt(
            trial,
            folder,
            lease=search_lease.Lease(**trial.user_attrs[ATTRIBUTE]),
            epochs=train_config(self.options, words).epochs,
            heartbeat=self.options.heartbeat,
            grace=self.options.grace,
        )
        given = ["--shards", self.options.shards, "--run-dir", str(folder)]
        outcome = attempt.run(
            [*starter(self.options.command), *given, *words, *self.options.every],
            interrupted=lambda: self.interruption.received != 0,
        )
        self.tell(trial, attempt, outcome)
        self.let_go(trial)
        self.write(last=False)

    def tell(self, trial: optuna.Trial, attempt: Attempt, outcome: Outcome) -> None:
        """Write a start's outcome into the study, and say it."""
        self.failures = self.failures + 1 if outcome.fate == "failed" else 0
        match outcome.fate:
            case "complete":
                search_study.check_manifest(self.study, attempt.folder)
                patiently(lambda: self.study.tell(trial, outcome.roc_auc, skip_if_finished=True))
            case "pruned":
                state = TrialState.PRUNED
                patiently(lambda: self.study.tell(trial, state=state, skip_if_finished=True))
            case "failed":
                patiently(lambda: trial.set_user_attr(REASON, outcome.reason))
                state = TrialState.FAIL
                patiently(lambda: self.study.tell(trial, state=state, skip_if_finished=True))
            case "stopped":
                attempt.release()
        if outcome.fate in ("complete", "pruned"):
            search_trial.drop_checkpoints(attempt.folder)
        print(f"trial {trial.number}: {sentence(outcome)}", flush=True)
        done = [t for t in self.live_trials() if t.state.is_finished()]
        if self.failures >= FAILURES and all(t.state == TrialState.FAIL for t in done):
            raise DataError(
                f"{self.failures} trials in a row have failed, the last one with: "
                f"{outcome.reason} (all of it in {attempt.folder / search_trial.LOG}). Mend that, "
                "and search with another --out"
            )

    # -- what came out

    def write(self, *, last: bool) -> None:
        """Write the table, and now and then the plots and the page."""
        trials, out = self.live_trials(), self.options.out
        with locked(out / ".lock"):
            search_report.write_table(out, trials, self.space)
            if not self.options.page or not (last or time.monotonic() - self.drawn > REDRAWN):
                return
            search_report.write_page(
                out,
                self.study,
                trials,
                space=self.space,
                command=self.best_command(),
                every=self.options.every,
            )
        self.drawn = time.monotonic()

    def best_command(self) -> list[str]:
        """Return the words that train with the best trial's flags; none where none has ended."""
        best = search_report.best_of(self.live_trials())
        if best is None:
            return []
        words = shlex.split(self.options.command)
        if words[0] != "accelerate":
            words = ["accelerate", "launch", *words[1:]]
        into = self.options.out.with_name(f"{self.options.out.name}-best")
        given = ["--shards", self.options.shards, "--run-dir", str(into)]
        return [*words, *given, *search_space.flags(best.params), *self.options.every]

    def finish(self) -> None:
        """Write everything, print the table and the best flags, and leave."""
        self.write(last=True)
        trials, out = self.live_trials(), self.options.out
        print(search_report.as_text(trials, self.space))
        page = f", page in {out / 'search.html'}" if self.options.page else ""
        print(f"table in {out / 'trials.csv'}{page}")
        if command := self.best_command():
            print(f"\nthe best flags by validation ROC-AUC:\n\n{shlex.join(command)}", flush=True)
        running = sum(t.state == TrialState.RUNNING for t in trials)
        if code := self.interruption.exit_code * bool(self.interruption.received):
            print("interrupted: saved; the same command goes on from there", flush=True)
            raise SystemExit(code)
        if running:
            print(f"{running} trial(s) still run in other processes of this study", flush=True)


def starter(command: str) -> list[str]:
    """Return the words that start a training, with this interpreter's programs."""
    first, *rest = shlex.split(command)
    beside = Path(sys.executable).with_name(first)
    if first == "python":
        return [sys.executable, *rest]
    return [str(beside) if beside.exists() else first, *rest]


def sentence(outcome: Outcome) -> str:
    """Say in words what came of a start."""
    match outcome.fate:
        case "complete":
            return f"done, best ROC-AUC {outcome.roc_auc:.4f}"
        case "pruned":
            return f"pruned, best ROC-AUC {outcome.roc_auc:.4f}"
        case "failed":
            return f"failed: {outcome.reason}"
        case "lost":
            return "another process has taken it over; left to it"
        case _:
            return "stopped and saved"


if __name__ == "__main__":
    guard(main)
