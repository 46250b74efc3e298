"""kill -9 at random moments of real starts, twenty times in a row on one run."""

import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KILLS = 20
KEPT = ("history.csv", "best/model.safetensors", "best/model.json", "best/training_samples.csv")


def start(flags: list, run: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start a training as a user does, with its output at the end of a file."""
    words = [sys.executable, "train.py", *map(str, flags), "--run-dir", str(run)]
    with log.open("ab") as out:
        return subprocess.Popen(words, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_kills_in_a_row_leave_the_bytes_of_an_undisturbed_run(tiny, tmp_path):
    flags = [*tiny, "--epochs", "20", "--checkpoint-steps", "2"]
    calm, run, log = (tmp_path / name for name in ("calm", "run", "log"))
    begun = time.monotonic()
    process = start(flags, calm, tmp_path / "calm.log")
    while not list(calm.glob("checkpoints/step-*")) and process.poll() is None:
        time.sleep(0.02)
    ready = time.monotonic() - begun  # seconds to the first checkpoint
    assert process.wait(600) == 0
    training = time.monotonic() - begun - ready
    draw, kills, moments = random.Random(5), 0, []
    for _ in range(10 * KILLS):
        process = start(flags, run, log)
        in_start = kills % 3 == 0  # else within a tenth of the training
        moment = draw.uniform(0, ready) if in_start else ready + draw.uniform(0, training / 10)
        with suppress(subprocess.TimeoutExpired):
            process.wait(moment)
        process.kill()
        if process.wait() == -signal.SIGKILL:  # else it has ended by itself
            kills += 1
            moments.append(round(moment, 2))
        if kills == KILLS:
            break
    assert kills == KILLS
    assert start(flags, run, log).wait(600) == 0, log.read_text()[-3000:]
    last = max(path.name for path in (calm / "checkpoints").iterdir())
    for name in (*KEPT, f"checkpoints/{last}/model.safetensors"):
        assert (run / name).read_bytes() == (calm / name).read_bytes(), (name, moments)
    assert log.read_text().count("resuming from") > 3
    assert not list(run.rglob(".*")), "what killed starts left is removed"
