"""The search for flags, with trainings that take milliseconds in place of train.py."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import optuna
import pandas as pd
import pytest

from pipeline.cli import parse
from pipeline.search import space as search_space
from pipeline.search.lease import Lease
from pipeline.training.flags import TrainFlags

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
FAKE = f"python {HERE / 'fake_training.py'}"


@dataclass
class Desk:
    """Where a test starts searches and sees what they started."""

    ask: Callable[[dict], int]
    folder: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def study(self) -> Path:
        return self.folder / "study"

    def start(self, *words: object, name: str = "log") -> int:
        flags = ["--out", self.study, "--command", FAKE, "--heartbeat", 0.3, "--no-page", *words]
        env = {"FAKE_DIARY": str(self.folder / "diary"), **self.env}
        log = str(self.folder / name)
        return self.ask({"start": [str(word) for word in flags], "log": log, "env": env})

    def wait(self, pid: int) -> int:
        return self.ask({"wait": pid})

    def run(self, *words: object) -> int:
        return self.wait(self.start(*words))

    def said(self, name: str = "log") -> str:
        path = self.folder / name
        return path.read_text() if path.exists() else ""

    def diary(self) -> list[list[str]]:
        """Lines of: folder, event, process, epochs in the table."""
        path = self.folder / "diary"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def events(self, folder: str) -> list[str]:
        return [event.partition("[")[0] for name, event, *_ in self.diary() if name == folder]

    def flags(self, folder: str) -> list[str]:
        """What each start of a trial was given."""
        lines = [event for name, event, *_ in self.diary() if name == folder and "[" in event]
        return [line[len("start[") : -1].replace("|", " ") for line in lines]

    def table(self) -> pd.DataFrame:
        return pd.read_csv(self.study / "trials.csv").set_index("trial").sort_index()

    def until(self, holds: Callable[[], object]) -> None:
        give_up = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < give_up, self.said()
            time.sleep(0.02)

    def trainings(self) -> list[int]:
        """Processes of trainings of this test that are alive."""
        mark, found = f"FAKE_DIARY={self.folder}".encode(), []
        for pid in [p.name for p in Path("/proc").iterdir() if p.name.isdigit()]:
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                ours = mark in Path(f"/proc/{pid}/environ").read_bytes()
            except OSError:
                continue
            if ours and words[1:2] == [str(HERE / "fake_training.py").encode()]:
                found.append(int(pid))
        return found


@pytest.fixture(scope="module")
def pad() -> Iterator[Callable[[dict], int]]:
    process = subprocess.Popen(
        [sys.executable, str(HERE / "search_pad.py")],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin and process.stdout
    stdin, stdout = process.stdin, process.stdout

    def ask(order: dict) -> int:
        stdin.write(json.dumps(order) + "\n")
        stdin.flush()
        return json.loads(stdout.readline())

    yield ask
    stdin.close()
    process.wait(timeout=30)


@pytest.fixture
def desk(pad, tmp_path) -> Desk:
    return Desk(pad, tmp_path)


SHORT = ("--only", "lr", "augment", "--epochs", 3, "--pruner", "none")
LONG = ("--only", "lr", "augment", "--epochs", 12, "--pruner", "none")
STALLING: dict[str, str] = {"FAKE_STALL": "3"}


# -- what it finds


def test_best_flags_are_printed_as_a_command_that_train_py_takes(desk):
    fixed = ("--", "--image-size", 64, "--weights", "none")
    assert desk.run("--trials", 4, "--epochs", 2, 4, *fixed) == 0, desk.said()
    table = desk.table()
    tables = {n: pd.read_csv(desk.study / f"trials/{n:03d}/history.csv") for n in range(4)}
    reached = {n: rows["val_roc_auc"].max() for n, rows in tables.items()}
    assert table["roc_auc"].to_dict() == pytest.approx(reached)
    done = table[table["state"] == "done"]["roc_auc"]
    best = int(done.idxmax())
    printed = re.findall(r"^accelerate launch .*$", desk.said(), re.MULTILINE)[-1]
    *launch, script = shlex.split(printed)[:3]
    assert launch == ["accelerate", "launch"] and script.endswith("fake_training.py")
    config = parse(TrainFlags, about="", argv=shlex.split(printed)[3:])
    trained = parse(TrainFlags, about="", argv=desk.flags(f"{best:03d}")[0].split())
    same = {**trained.flat(), "run_dir": str(config.run_dir)}
    assert config.flat() == same and config.image_size == 64
    assert not Path(config.run_dir).exists()  # a fresh training, not the trial's own folder
    assert json.loads((desk.study / "best.json").read_text())["trial"] == best


def test_page_opens_offline_and_holds_table_plots_and_command(desk):
    assert desk.run(*SHORT, "--trials", 5, "--page") == 0, desk.said()
    page = (desk.study / "search.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert re.findall(r"""(?:src|href)\s*=\s*["'](?!data:|#)|url\(|@import|https?:""", page) == []
    assert "accelerate launch" in page
    rows = re.findall(r'<tr><th scope="row"[^>]*>(\d+)</th><td>(\w+)</td><td>([\d.]+)', page)
    expected = desk.table().sort_values("roc_auc", ascending=False)
    assert [int(n) for n, _, _ in rows] == expected.index.to_list()
    assert [float(v) for _, _, v in rows] == pytest.approx(expected["roc_auc"], abs=1e-4)
    for name in ("history", "curves", "parallel", "importance"):
        assert (desk.study / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


def test_hopeless_trials_are_told_to_save_and_leave_by_successive_halving(desk):
    desk.env = {"FAKE_SECONDS": "0.3"}
    words = ("--only", "lr", "--epochs", 9, "--reduction", 3, "--min-epochs", 1, "--trials", 6)
    assert desk.run(*words) == 0, desk.said()
    table, reached = desk.table(), {1: [], 3: []}
    for number, row in table.iterrows():  # the rule of the paper, written down a second time
        values = pd.read_csv(desk.study / f"trials/{number:03d}/history.csv")["val_roc_auc"]
        stopped_after = 9
        for rung, seen in reached.items():
            seen.append(values[rung - 1])
            if values[rung - 1] < sorted(seen, reverse=True)[max(1, len(seen) // 3) - 1]:
                stopped_after = rung
                break
        assert row["state"] == ("done" if stopped_after == 9 else "pruned"), table
        assert stopped_after <= row["epochs"] and (row["epochs"] == 9) == (stopped_after == 9)
        end = "done" if stopped_after == 9 else "saved"
        assert desk.events(f"{number:03d}") == ["start", end]
        assert not (desk.study / f"trials/{number:03d}/checkpoints").exists()
    assert {"done", "pruned"} == set(table["state"])


def test_the_same_seed_tries_the_same_flags(desk, pad, tmp_path):
    other = Desk(pad, tmp_path / "other")
    other.folder.mkdir()
    for one in (desk, other):
        assert one.run("--epochs", 1, "--trials", 2) == 0, one.said()
    for folder in ("000", "001"):
        first, second = (d.flags(folder)[0].replace(str(d.folder), "") for d in (desk, other))
        assert first == second
    assert len({desk.flags(f)[0].split("--lr")[1] for f in ("000", "001")}) == 2


# -- kills


@pytest.mark.parametrize("launcher", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_killed_search_leaves_no_training_behind_and_goes_on_with_the_trial(desk, launcher):
    assert desk.run(*LONG, "--trials", 1) == 0, desk.said()
    under = {"FAKE_CHILD": "1"} if launcher else {}
    words, desk.env = (*LONG, "--trials", 3), {**STALLING, **under}
    pid = desk.start(*words)
    desk.until(lambda: "trial 1, epoch 3/" in desk.said())
    os.kill(pid, signal.SIGKILL)
    assert desk.wait(pid) == -signal.SIGKILL
    desk.until(lambda: not desk.trainings())
    assert desk.events("001") == ["start", "saved"]
    desk.env = under
    assert desk.run(*words) == 0, desk.said()
    assert desk.events("000") == ["start", "done"]
    assert desk.events("001") == ["start", "saved", "start", "done"]
    assert len(set(desk.flags("001"))) == 1  # the same parameters, in the same folder
    again = [line for line in desk.diary() if line[0] == "001" and "[" in line[1]][1]
    assert int(again[3]) >= 3  # from where it was, not from the start
    assert desk.table()["state"].to_list() == ["done"] * 3
    assert sorted(p.name for p in (desk.study / "trials").iterdir()) == ["000", "001", "002"]


def test_search_started_again_at_once_waits_for_the_training_that_still_saves(desk):
    desk.env = {**STALLING, "FAKE_HANG": "1"}
    words = (*LONG, "--trials", 1, "--grace", 1)
    pid = desk.start(*words)
    desk.until(lambda: "epoch 2/" in desk.said())
    os.kill(pid, signal.SIGKILL)
    desk.wait(pid)
    (former,) = desk.trainings()  # it does not heed SIGTERM
    desk.env = {}
    again = desk.start(*words)
    desk.until(lambda: former not in desk.trainings() or desk.events("000").count("start") == 2)
    assert former not in desk.trainings()  # nobody has trained in its folder beside it
    assert desk.wait(again) == 0, desk.said()
    assert desk.events("000") == ["start", "start", "done"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_interrupted_search_saves_its_trial_and_goes_on_with_it(desk, number, code):
    words, desk.env = (*LONG, "--trials", 2), STALLING
    pid = desk.start(*words)
    desk.until(lambda: "trial 0, epoch 2/" in desk.said())
    os.kill(pid, number)
    assert desk.wait(pid) == code
    assert not desk.trainings() and desk.events("000") == ["start", "saved"]
    assert "the same command goes on" in desk.said()
    assert desk.table()["state"].to_list() == ["running"]
    desk.env = {}
    assert desk.run(*words) == 0, desk.said()
    assert desk.events("000") == ["start", "saved", "start", "done"]
    assert desk.table()["state"].to_list() == ["done"] * 2


@pytest.mark.slow
def test_training_that_is_stopped_by_somebody_else_is_started_again(desk):
    desk.env = STALLING
    pid = desk.start(*LONG, "--trials", 1)
    desk.until(lambda: "trial 0, epoch 2/" in desk.said())
    os.kill(desk.trainings()[0], signal.SIGTERM)
    assert desk.wait(pid) == 0, desk.said()
    assert desk.events("000") == ["start", "saved", "start", "done"]


# -- many processes, many machines


@pytest.mark.parametrize("storage", ["", "journal"])
def test_two_searches_share_the_trials_and_run_none_twice(desk, storage):
    words = [*SHORT, "--trials", 8, "--study-name", "both"]
    if storage:
        words += ["--storage", desk.folder / "both.journal"]
    pids = [desk.start(*words, name=f"log{k}") for k in range(2)]
    assert [desk.wait(pid) for pid in pids] == [0, 0], desk.said("log0") + desk.said("log1")
    starts = [line[0] for line in desk.diary() if "[" in line[1]]
    assert sorted(starts) == [f"{n:03d}" for n in range(8)]
    shares = [desk.said(f"log{k}").count(": done, best") for k in range(2)]
    assert sum(shares) == 8 and min(shares) >= 1, shares
    assert desk.run(*words) == 0  # there is nothing left to do
    assert len(desk.diary()) == 16 and len(desk.table()) == 8


def stored(desk: Desk) -> optuna.Study:
    return optuna.load_study(study_name="study", storage=f"sqlite:///{desk.study}/study.db")


def left_by_another_machine(desk: Desk) -> optuna.Study:
    """A study whose one trial runs on a machine that this one cannot look into."""
    desk.env = STALLING
    pid = desk.start(*LONG, "--trials", 1)
    desk.until(lambda: "trial 0, epoch 1/" in desk.said())
    os.kill(pid, signal.SIGTERM)
    desk.wait(pid)
    study = stored(desk)
    count_up(study, 100)
    desk.env = {}
    return study


def count_up(study: optuna.Study, count: int) -> None:
    frozen = study.trials[0]
    kept = {**frozen.user_attrs["lease"], "machine": "elsewhere", "token": "theirs"}
    lease = Lease(**{**kept, "count": count}).stored()
    study._storage.set_trial_user_attr(frozen._trial_id, "lease", lease)


def test_trial_of_a_machine_that_is_still_at_work_is_left_alone(desk):
    study, over = left_by_another_machine(desk), threading.Event()

    def work() -> None:
        count = 100
        while not over.wait(0.2):
            count += 1
            count_up(study, count)

    other = threading.Thread(target=work)
    other.start()
    try:
        assert desk.run(*LONG, "--trials", 1) == 0, desk.said()
    finally:
        over.set()
        other.join()
    assert desk.events("000") == ["start", "saved"]
    assert "1 trial(s) still run in other processes" in desk.said()


def test_trial_of_a_machine_that_is_gone_is_taken_over_with_its_parameters(desk):
    left_by_another_machine(desk)
    assert desk.run(*LONG, "--trials", 1) == 0, desk.said()
    assert desk.events("000") == ["start", "saved", "start", "done"]
    assert len(set(desk.flags("000"))) == 1


@pytest.mark.slow
def test_search_that_was_given_up_for_dead_leaves_the_trial_to_its_new_owner(desk):
    desk.env = STALLING
    pid = desk.start(*LONG, "--trials", 1)
    desk.until(lambda: "trial 0, epoch 2/" in desk.said())
    count_up(stored(desk), 1000)
    desk.until(lambda: "another process has taken it over" in desk.said())
    assert not desk.trainings() and desk.events("000") == ["start", "saved"]
    os.kill(pid, signal.SIGKILL)  # it would wait to see whether the new owner lives
    desk.wait(pid)
    assert stored(desk).trials[0].user_attrs["lease"]["token"] == "theirs"


# -- failures and mistakes


def test_failed_trials_count_and_say_why(desk):
    desk.env = {"FAKE_NAN": "1e-3"}
    assert desk.run(*SHORT, "--trials", 6) == 0, desk.said()
    table = desk.table()
    assert set(table["state"]) == {"done", "failed"} and len(table) == 6
    assert (table["lr"] > 1e-3).to_list() == (table["state"] == "failed").to_list()
    assert set(table[table["state"] == "failed"]["reason"]) == {"error: the loss is nan"}


def test_search_in_which_every_trial_fails_ends_with_the_trainings_message(desk):
    desk.env = {"FAKE_NAN": "0"}
    assert desk.run(*SHORT, "--trials", 20) == 2
    assert "3 trials in a row have failed" in desk.said() and "the loss is nan" in desk.said()
    assert "Traceback" not in desk.said()
    assert len([line for line in desk.diary() if "[" in line[1]]) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--", "--image-sise", 64), "--image-size"),
        (("--", "--loss", "logit-adjusted", "--balance", "oversample"), "twice"),
        (("--", "--run-dir", "x"), "--run-dir after -- is the search's own"),
        (("--only", "lr", "rate"), "there is no such parameter"),
        (("--epochs", 1, 2, 3), "--epochs takes"),
        (("--storage", "nosuch://host/db"), "cannot be opened"),
        (("--only", "lr", "--epochs", 3, "--", "--lr", "1e-3"), "nothing is left to search"),
    ],
)
def test_mistakes_end_with_one_message_before_the_first_trial(desk, words, message):
    assert desk.run(*words) == 2
    assert message in desk.said() and "Traceback" not in desk.said()
    assert not desk.diary()


@pytest.mark.slow
def test_study_is_not_gone_on_with_under_other_flags_or_on_other_shards(desk):
    assert desk.run(*SHORT, "--trials", 1) == 0, desk.said()
    assert desk.run(*SHORT, "--trials", 2, "--", "--image-size", 64) == 2
    assert "begun with other flags" in desk.said()
    desk.env = {"FAKE_MANIFEST": "beef"}
    assert desk.run(*SHORT, "--trials", 2) == 2
    assert "trained on other shards" in desk.said()


# -- the space


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_every_default_choice_is_taken_by_train_py(optimizer):
    space = search_space.default_space(optimizer)
    for name, values in space.items():
        ends = (getattr(values, "low", None), getattr(values, "high", None))
        for value in getattr(values, "choices", ends):
            words = [*search_space.flags({name: value}), "--optimizer", optimizer]
            config = parse(TrainFlags, about="", argv=words)
            if name != "remedy":
                assert getattr(config, name.replace("-", "_")) == pytest.approx(value)


def test_fixed_flags_are_not_searched(desk):
    assert desk.run("--trials", 1, "--epochs", 1, "--", "--loss=focal", "--arch", "resnet18") == 0
    given = desk.flags("000")[0].split()
    assert (
        given.count("--arch") == 1 and "--balance" not in given and "--class-weights" not in given
    )
    assert not {"arch", "remedy"} & set(desk.table().columns)


def test_space_can_be_any_flags_of_train_py(desk):
    desk.folder.joinpath("space.toml").write_text(
        "lr = {low = 1e-4, high = 1e-3, log = true}\nmixup = {low = 0.0, high = 0.4}\n"
        'batch-size = [8, 24]\naccumulate = {low = 2, high = 3}\nmixed-precision = ["no"]\n'
    )
    words = ("--space", desk.folder / "space.toml", "--trials", 4, "--epochs", 1)
    assert desk.run(*words) == 0, desk.said()
    configs = [
        parse(TrainFlags, about="", argv=desk.flags(f"{n:03d}")[0].split()) for n in range(4)
    ]
    assert all(1e-4 <= c.lr <= 1e-3 and 0 <= c.mixup <= 0.4 for c in configs)
    assert {c.batch_size for c in configs} <= {8, 24} and {c.accumulate for c in configs} <= {2, 3}
    assert {c.mixed_precision for c in configs} == {"no"}
