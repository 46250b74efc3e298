"""One RUN is one W&B run, on several processes and after kills; nothing that was logged is lost."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OFFLINE = {"WANDB_MODE": "offline"}
POINTS = [10, 13, 20, 26, 30, 39]
"""Steps of the points of three epochs: every tenth, and the ends of epochs."""

FLAGS = ("--tracker", "wandb", "--mixed-precision", "no", "--checkpoint-steps", "4")


def ids(run: Path) -> list[str]:
    """The W&B ids of the starts of a run, from the names of W&B's folders."""
    return [folder.name.split("-")[-1] for folder in run.glob("wandb/offline-run-*")]


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < give_up
        time.sleep(0.01)


def kill_with_service(process: subprocess.Popen) -> None:
    """Kill a process and W&B's own beside it."""
    for pid in [*children(process.pid), process.pid]:
        os.kill(pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def calm(train, tiny, tmp_path_factory, read_wandb):
    """Rows of history and history.csv of a training that nobody disturbs."""
    run = tmp_path_factory.mktemp("calm")
    assert train(*tiny, *FLAGS, "--run-dir", run, env=OFFLINE).codes == [0]
    return read_wandb(run).rows, (run / "history.csv").read_bytes()


def test_two_processes_are_one_run(train, tiny, tmp_path, read_wandb):
    assert train(*tiny, *FLAGS, "--run-dir", tmp_path, ranks=2, env=OFFLINE).codes == [0, 0]
    stored = read_wandb(tmp_path)
    assert len(stored.files) == len(stored.runs) == 1 and stored.config["processes"] == 2
    assert all(row["samples"] == row["step"] * 2 * 6 for row in stored.rows)
    assert [row["epoch"] for row in stored.rows if "epoch" in row] == [1, 2, 3]


def test_killed_and_resumed_is_one_run_without_gaps(train, tiny, calm, tmp_path, read_wandb):
    flags = [*tiny, *FLAGS, "--run-dir", tmp_path]
    # the first death comes before the first checkpoint
    for death in ([0, "step", "3"], [0, "step", "12"], [0, "sync", "*/step-00000024"]):
        assert train(*flags, die=death, env=OFFLINE).codes == [-9]
    assert train(*flags, env=OFFLINE).codes == [0]
    rows, history = calm
    assert len(set(ids(tmp_path))) == 1 and len(ids(tmp_path)) == 4
    assert (tmp_path / "history.csv").read_bytes() == history
    again = read_wandb(tmp_path).rows
    assert sorted({row["step"] for row in again}) == POINTS
    expected = {row["step"]: row for row in rows}
    for row in again:  # the same at the same x, however often
        for name in ("samples", "epoch/train_loss", "epoch/val_roc_auc", "epoch/val_loss"):
            assert row.get(name) == expected[row["step"]].get(name)


def test_signal_leaves_the_last_point_to_the_next_start(train, tiny, tmp_path, read_wandb):
    flags = [*tiny, *FLAGS, "--run-dir", tmp_path]
    assert train(*flags, die=[0, "validation", "0", "SIGTERM"], env=OFFLINE).codes == [143]
    assert train(*flags, env=OFFLINE).codes == [0]
    assert [row["step"] for row in read_wandb(tmp_path).rows] == POINTS  # each once


LOGGER = """
import sys, time
from pathlib import Path
from pipeline.tracking.journal import PointJournal
from pipeline.tracking.wandb_run import WandbTracker, start_wandb_run

run_dir, last = Path(sys.argv[1]), int(sys.argv[2])
run = start_wandb_run(run_dir, run_id="abc", config={}, group="moles", job_type="train")
journal = PointJournal(WandbTracker(run, run_dir, run_dir / "none", flush_seconds=1.5), [])
for number in range(last):
    journal.add(number, {"train/loss": 1.0})
    time.sleep(0.01)
journal.tracker.finish(1)
"""
"""Sends the points 0 to last - 2, 100 in a second."""


@pytest.mark.slow
def test_offline_run_repeats_the_last_seconds_before_a_kill_and_loses_nothing(tmp_path, read_wandb):
    def logger(last: int) -> subprocess.Popen:
        command = [sys.executable, "-c", LOGGER, str(tmp_path), str(last)]
        flushed_often = {"WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL": "0.3", "WANDB_MODE": "offline"}
        return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **flushed_often})

    process, mark = logger(100_000), tmp_path / "wandb" / "on_disk.txt"
    wait_for(lambda: mark.exists() and int(mark.read_text()) > 0, process)
    kill_with_service(process)
    known = int(mark.read_text())
    reached = max(row["samples"] for row in read_wandb(tmp_path).rows)
    assert logger(reached + 101).wait(timeout=100) == 0
    count = Counter(row["samples"] for row in read_wandb(tmp_path).rows)
    assert sorted(count) == list(range(reached + 100))
    repeated = [samples for samples, times in count.items() if times == 2]
    assert repeated == list(range(known + 1, reached + 1)) and known > 0
    assert int(mark.read_text()) == reached + 99


@pytest.fixture
def inherited():
    """The environment of a process whose parent, as a notebook does, uses W&B."""
    begin = "import os, wandb; wandb.setup().ensure_service(); print(os.environ['WANDB_SERVICE'])"
    parent = subprocess.Popen(
        [sys.executable, "-c", f"{begin}; import sys; sys.stdout.flush(); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdin and parent.stdout
    yield {**os.environ, **OFFLINE, "WANDB_SERVICE": parent.stdout.readline().strip()}
    parent.stdin.close()
    parent.wait(timeout=60)


@pytest.mark.slow
def test_killed_with_all_its_processes_and_started_again_by_the_same_command(
    tiny, tmp_path, read_wandb, inherited
):
    command = [sys.executable, "train.py", *tiny, *FLAGS, "--run-dir", str(tmp_path)]
    command += ["--epochs", "6"]
    folders = tmp_path / "checkpoints"
    for reached in (6, 30):
        process = subprocess.Popen(command, cwd=ROOT, env=inherited, stdout=subprocess.DEVNULL)
        wait_for(
            lambda reached=reached: any(int(p.name[5:]) >= reached for p in folders.glob("step-*")),
            process,
        )
        kill_with_service(process)
    assert subprocess.run(command, cwd=ROOT, env=inherited, check=False).returncode == 0
    stored = read_wandb(tmp_path)
    assert len(set(ids(tmp_path))) == 1
    expected = sorted({*range(10, 79, 10), *range(13, 79, 13)})
    assert sorted({row["step"] for row in stored.rows}) == expected
    assert {row["epoch"] for row in stored.rows if "epoch" in row} == set(range(1, 7))


@pytest.mark.slow
def test_training_continues_when_wandbs_service_dies(tiny, tmp_path):
    command = [sys.executable, "train.py", *tiny, *FLAGS, "--run-dir", str(tmp_path)]
    process = subprocess.Popen(
        [*command, "--epochs", "4"],
        cwd=ROOT,
        env={**os.environ, **OFFLINE},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: list((tmp_path / "checkpoints").glob("step-*")), process)
    for pid in children(process.pid):
        if b"wandb-core" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert errors.count("tracking failed and is switched off") == 1
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 5
