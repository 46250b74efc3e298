"""A process that works on a study: takes or makes trials, trains them, tells what came out."""

import hashlib
import shlex
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from pipeline.errors import DataError
from pipeline.search import lease as search_lease
from pipeline.search import report as search_report
from pipeline.search import space as search_space
from pipeline.search import study as search_study
from pipeline.search import trial as search_trial
from pipeline.search.flags import Options, starter, train_config
from pipeline.search.lease import ATTRIBUTE, Watch, lease_of, locked, new_lease
from pipeline.search.space import Space
from pipeline.search.trial import Attempt, Outcome, patiently
from pipeline.training.processes import Interruption

SURPLUS, REASON = "surplus", "reason"
"""Attributes of trials: made beside the last one, so it does not count; why one failed."""

FAILURES = 3
"""Trials that fail in a row, none having finished, before the search gives up."""

GRACES = 6
"""Heartbeats without a sign after which another machine's trial is taken over."""

REDRAWN = 60.0
"""Seconds between drawings of the page while trials end."""


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
            epochs=train_config(self.options, words).optimisation.epochs,
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
