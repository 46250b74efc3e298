"""The search with train.py itself: through the launcher, killed, and its best flags trained."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[2]
BESIDE = Path(sys.executable).parent

FIXED = (
    *("--", "--image-size", "32", "--weights", "none", "--arch", "resnet18", "--tracker", "none"),
    *("--threads", "1", "--batch-size", "6", "--checkpoint-steps", "1"),
)

QUICK = (
    "import sys\n"
    "from pipeline.cli import guard, parse\n"
    "from pipeline.search.flags import SearchFlags\n"
    "from pipeline.search.worker import search\n"
    "guard(lambda: search(parse(SearchFlags, argv=sys.argv[1:]), heartbeat=1, grace=30))\n"
)


def start(study: Path, shards: Path, log: Path, *words: str) -> subprocess.Popen[bytes]:
    """Start a search from a folder that has no train.py."""
    own = ("--shards", str(shards), "--out", str(study), *words)
    return subprocess.Popen(
        [sys.executable, "-c", QUICK, *own, *FIXED],
        cwd=log.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=log.open("ab"),
        stderr=subprocess.STDOUT,
    )


@pytest.mark.slow
def test_search_through_the_launcher_is_killed_continues_and_names_flags_that_train(
    packed, tmp_path
):
    study, log = tmp_path / "study", tmp_path / "log"
    words = ("--trials", "3", "--epochs", "3", "--only", "lr", "remedy")
    search = start(study, packed, log, *words)
    first = study / "trials" / "000"
    give_up = time.monotonic() + 200
    while not list(first.glob("checkpoints/step-*")):
        assert search.poll() is None and time.monotonic() < give_up, log.read_text()
        time.sleep(0.05)
    os.kill(search.pid, signal.SIGKILL)
    search.wait()
    again = start(study, packed, log, *words)
    assert again.wait(timeout=500) == 0, log.read_text()
    told = (first / "search.log").read_text()
    assert "interrupted at" in told and "resuming from" in told  # saved, then continued
    table = pd.read_csv(study / "trials.csv")
    assert len(table) == 3 and set(table["state"]) <= {"complete", "pruned"}
    for _, row in table.iterrows():
        run = study / "trials" / f"{row['trial']:03d}"
        assert row["roc_auc"] == pd.read_csv(run / "history.csv")["val_roc_auc"].max()
    printed = re.findall(r"^accelerate launch .*$", log.read_text(), re.MULTILINE)[-1]
    path = f"{BESIDE}{os.pathsep}{os.environ['PATH']}"
    words = [*shlex.split(printed), "--epochs", "1", "--seed", "7"]
    done = subprocess.run(words, cwd=ROOT, env={**os.environ, "PATH": path}, check=False)
    assert done.returncode == 0
    config = json.loads((tmp_path / "study-best" / "config.json").read_text())
    assert config["flags"]["lr"] == pytest.approx(table["lr"][0], rel=1e-3)


@pytest.mark.slow
def test_eight_trainings_by_two_searches_one_of_which_is_killed(packed, tmp_path, either):
    study, logs = tmp_path / "study", [tmp_path / "one.log", tmp_path / "two.log"]
    words = ("--trials", "8", "--epochs", "2", "--only", "lr", "--pruner", "none")
    words += ("--command", "python train.py", *either)
    first = start(study, packed, logs[0], *words)
    trial = study / "trials" / "000"
    give_up = time.monotonic() + 200
    while not list(trial.glob("checkpoints/step-*")):
        assert first.poll() is None and time.monotonic() < give_up, logs[0].read_text()
        time.sleep(0.05)
    second = start(study, packed, logs[1], *words)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert second.wait(timeout=500) == 0, logs[1].read_text()
    table = pd.read_csv(study / "trials.csv")
    assert len(table) in (8, 9) and set(table["state"]) == {"complete"}
    assert table["trial"].is_unique  # a retry counts in its folder
    assert "resuming from" in (trial / "search.log").read_text()
    assert len(pd.read_csv(trial / "history.csv")) == 2
