"""The launchers themselves: ``accelerate launch`` on one machine, on two, with restarts."""

import ast
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
ACCELERATE = str(Path(sys.executable).with_name("accelerate"))
GRADIENTS = str(ROOT / "tests" / "training" / "gradients.py")
AGREEING = str(ROOT / "tests" / "training" / "agreeing.py")
TAKEN = str(ROOT / "tests" / "training" / "taken.py")
TWO = ("--multi_gpu", "--num_processes", "2")
TINY = (
    *("--arch", "shufflenet_v2_x0_5", "--weights", "none", "--image-size", "32", "--lr", "1e-3"),
    *("--epochs", "2", "--batch-size", "6", "--tracker", "none"),
)


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def start(*words: str | Path | int, machines: int = 1) -> subprocess.Popen[str]:
    """Start ``accelerate launch`` and let it print into a pipe."""
    alone = ("--num_machines", "1", "--main_process_port", free_port()) if machines == 1 else ()
    return subprocess.Popen(
        [ACCELERATE, "launch", *alone, *map(str, words)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: subprocess.Popen[str], timeout: float = 200) -> tuple[int, str]:
    try:
        text, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.terminate()  # the launcher takes its ranks along
        text, _ = process.communicate(timeout=60)
    return process.returncode, text


def test_two_ranks_give_the_gradients_of_one_with_twice_the_batch(tmp_path):
    outs = [tmp_path / name for name in ("two.pt", "window.pt")]
    launches = [
        start(*TWO, GRADIENTS, outs[0]),
        start("--num_processes", "1", GRADIENTS, outs[1], "--accumulate", "4"),
    ]
    for launch in launches:
        code, text = ended(launch)
        assert code == 0, text
    for out in outs:
        found = torch.load(out)
        for name, expected in found["oracle"].items():
            torch.testing.assert_close(found["own"][name], expected, rtol=1e-3, atol=1e-5)
        # the mistake that this guards against is far outside those tolerances
        off = (found["naive"]["fc.bias"] - found["oracle"]["fc.bias"]).abs().max()
        assert off > 0.05


def test_ranks_agree_at_once_on_cpus_and_a_question_later_on_gpus(tmp_path):
    code, text = ended(start(*TWO, AGREEING, tmp_path / "out"))
    assert code == 0, text
    none, one, raised = [0, 0], [0, 1], [15, 1]
    for rank in (0, 1):
        assert json.loads((tmp_path / f"out.{rank}").read_text()) == {
            "cpu": [one, one, raised, one, one],
            "gpu": [none, one, one, raised, one],
            "dropped": [none, one, one, none, one],
        }


def test_error_on_one_rank_ends_all_with_its_message(tmp_path):
    begun = time.monotonic()
    code, text = ended(start(*TWO, GRADIENTS, tmp_path / "out.pt", "--fail-rank", "1"))
    assert code != 0 and time.monotonic() - begun < 100
    assert text.count("error: rank 1 met a damaged thing") == 1
    assert not (tmp_path / "out.pt").exists()


def test_two_launches_meet_over_loopback(packed, tmp_path):
    meeting = ("--multi_gpu", "--num_machines", "2", "--num_processes", "2")
    meeting += ("--main_process_ip", "127.0.0.1", "--main_process_port", free_port())
    launches = [
        start(
            *meeting,
            *("--machine_rank", str(rank)),
            *("train.py", "--shards", packed, "--run-dir", tmp_path / str(rank), *TINY),
            machines=2,
        )
        for rank in (0, 1)
    ]
    results = [ended(launch) for launch in launches]
    assert [code for code, _ in results] == [0, 0], results
    assert "2 process(es) on cpu" in results[0][1]
    assert len(pd.read_csv(tmp_path / "0" / "history.csv")) == 2
    assert not (tmp_path / "1").exists()  # rank 0 alone writes
    assert "epoch" not in results[1][1]


def test_restarts_recover_a_killed_rank(packed, tmp_path):
    flags = ("--shards", packed, "--run-dir", tmp_path, *TINY, "--checkpoint-steps", "1")
    launch = start(*TWO, "--max_restarts", "2", "train.py", *flags, "--epochs", "4")
    wait_until(lambda: list(tmp_path.glob("checkpoints/step-*")), launch)
    task = Path(f"/proc/{launch.pid}/task/{launch.pid}/children")
    ranks = [int(pid) for pid in task.read_text().split() if is_rank(pid)]
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    code, text = ended(launch)
    assert code == 0, text
    assert "resuming from" in text
    assert pd.read_csv(tmp_path / "history.csv")["epoch"].to_list() == [1, 2, 3, 4]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "name"), [((), "SIGTERM"), (TWO, "SIGKILL"), (TWO, "SIGTERM")], ids=str
)
def test_ranks_save_and_leave_when_their_launcher_ends(packed, tmp_path, words, name):
    words = words or ("--num_processes", "1")
    flags = ("train.py", "--shards", packed, "--run-dir", tmp_path, *TINY, "--epochs", "50")
    launch = start(*words, *flags, "--checkpoint-steps", "1")
    wait_until(lambda: list(tmp_path.glob("checkpoints/step-*")), launch)
    children = Path(f"/proc/{launch.pid}/task/{launch.pid}/children").read_text().split()
    ranks = [pid for pid in children if is_rank(pid)]
    launch.send_signal(signal.Signals[name])
    code, text = ended(launch)
    assert code != 0 and ranks and not any(runs(int(pid)) for pid in ranks)
    found = json.loads((tmp_path / "exit.json").read_text())
    assert (found["code"], found["reason"]) == (143, "SIGTERM: saved, then left"), text
    assert not (tmp_path / ".owner.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("words", [("--num_processes", "1"), TWO], ids=str)
def test_a_mistake_under_a_launcher_is_told_once_and_noted(packed, tmp_path, words):
    flags = ("--shards", packed, "--run-dir", tmp_path, *TINY, "--optimizer", "sgd")
    code, text = ended(start(*words, "train.py", *flags, "--schedule", "constant", "--lr", "1e30"))
    assert code == 1 and text.count("error: ") == 1
    found = json.loads((tmp_path / "exit.json").read_text())
    assert found["code"] == 2 and f"error: {found['reason']}" in text
    assert 'train.py", line' not in text  # the launcher's traceback alone


def steps_taken(out: Path, ranks: int) -> list[list[str]]:
    """The images of every step, all ranks, as tests/training/taken.py has noted them."""
    files = [Path(f"{out}.{rank}").read_text().splitlines() for rank in range(ranks)]
    return [sorted(chain(*map(ast.literal_eval, step))) for step in zip(*files, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("batch_on_two", [3, 6])
def test_one_two_and_one_rank_train_on_what_one_would_have(packed, tmp_path, batch_on_two):
    def trained(run: str, out: str, ranks: int, batch: int, step: int) -> list[list[str]]:
        words = TWO if ranks == 2 else ("--num_processes", "1")
        flags = ("--shards", packed, "--run-dir", tmp_path / run, *TINY, "--batch-size", batch)
        flags = (*flags, "--threads", 1)
        launch = start(*words, TAKEN, tmp_path / out, step, *flags, "--keep-checkpoints", 1)
        code, text = ended(launch)
        assert (code == 0) == (step == 0), text
        assert "resuming" in text or out in ("calm", "first")
        return steps_taken(tmp_path / out, ranks)

    calm = trained("calm", "calm", 1, 6, 0)
    epoch = len(calm) // 2
    got = trained("run", "first", 1, 6, 3)
    got += trained("run", "second", 2, batch_on_two, 5)
    got += trained("run", "third", 1, 6, 0)
    if batch_on_two == 3:
        assert got == calm
    else:
        assert len(got) == len(calm) - 2 and {len(step) for step in got} == {6, 12}
        ends = np.cumsum([len(step) for step in got]).tolist()
        first = ends.index(6 * epoch) + 1
        for part, whole in ((got[:first], calm[:epoch]), (got[first:], calm[epoch:])):
            assert sorted(chain(*part)) == sorted(chain(*whole))
    launches = json.loads((tmp_path / "run" / "config.json").read_text())["launches"]
    position = [0, 18, 18 + 2 * 2 * batch_on_two]
    assert [each["position"] for each in launches] == position
    assert [each["processes"] for each in launches] == [1, 2, 1]
    tables = [pd.read_csv(tmp_path / run / "history.csv") for run in ("calm", "run")]
    assert tables[0]["samples"].equals(tables[1]["samples"])


def wait_until(reached: Callable[[], object], launch: subprocess.Popen[str]) -> None:
    give_up = time.monotonic() + 120
    while not reached():
        assert launch.poll() is None and time.monotonic() < give_up
        time.sleep(0.05)


def runs(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def is_rank(pid: str) -> bool:
    return b"train.py" in Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.gpu
def test_batch_norm_is_shared_by_gpus(packed, tmp_path):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    flags = ("--shards", packed, "--run-dir", tmp_path, *TINY, "--sync-batch-norm")
    code, text = ended(start(*TWO, "train.py", *flags))
    assert code == 0 and "2 process(es) on cuda" in text
