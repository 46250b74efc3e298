"""What tracking costs: the step loop of train.py with W&B (offline) and without, paired.

    python -m benchmarks.tracking --shards shards/ham10000-64 --json tracking.json

Trainings with and without a tracker alternate, a process each, every pair in the other order than
the one before. Of each training, its first epoch left out, medians over its epochs are taken:

    loop     seconds of an epoch's step loop: batches, steps, looks, points for the tracker
    epoch    seconds from the end of one epoch to the end of the next: validating, curves, tables,
             pictures and checkpoints too

The cost is the median over pairs of the quotient, minus one. Beside it stands what can be accounted
for without comparing two noisy processes: the seconds inside the tracker during the loop, and the
processor time of W&B's own process, both as shares of the loop's.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from pipeline.cli import guard, parse
from pipeline.errors import DataError
from pipeline.learning.disk import write_text
from pipeline.shards.dataset import open_shards

ROOT = Path(__file__).resolve().parent.parent

TIMED = """
import json, os, sys, time
from pathlib import Path
import train
from pipeline.cli import guard
from pipeline.learning.run import Run
from pipeline.learning.tracking import Journal

marks, inside = [], [0.0]
loop, close, add = train.train_epoch, Run.close_epoch, Journal.add

def service():
    pids = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    ticks = sum(int(t) for p in pids for t in Path(f"/proc/{p}/stat").read_text().split()[13:15])
    return ticks / os.sysconf("SC_CLK_TCK")

def timed_add(self, *values):
    begun = time.perf_counter()
    add(self, *values)
    inside[0] += time.perf_counter() - begun

def timed_loop(run, loader):
    begun, tracked, served = time.perf_counter(), inside[0], service()
    loop(run, loader)
    seconds = time.perf_counter() - begun
    marks.append({"loop": seconds, "inside": (inside[0] - tracked) / seconds,
                  "service": (service() - served) / seconds / os.cpu_count()})

def timed_close(self, logits):
    close(self, logits)
    marks[-1]["end"] = time.perf_counter()

train.train_epoch, Run.close_epoch, Journal.add = timed_loop, timed_close, timed_add
out = sys.argv.pop(1)
guard(train.main)
with open(out, "w") as file:
    json.dump(marks, file)
os._exit(0)
"""
"""A train.py whose epochs are timed from outside the loop."""


@dataclass(frozen=True)
class Options:
    """Train with and without a tracker in turn, and print what it costs."""

    shards: Path = Path("shards/ham10000")
    """Folder of the shards."""
    tracker: str = "wandb"
    """wandb (offline) or tensorboard."""
    pairs: int = 4
    """Trainings with and without, each so many times."""
    epochs: int = 4
    """Epochs of a training; the first is left out."""
    arch: str = "resnet34"
    """A torchvision classification model by name."""
    image_size: int = 64
    """Pixels."""
    batch_size: int = 64
    """Images per step."""
    threads: int = 0
    """CPU threads. 0: the cores."""
    json: Path | None = None
    """File for the figures."""

    def __post_init__(self) -> None:
        """Refuse what measures nothing."""
        if self.tracker not in ("wandb", "tensorboard"):
            raise DataError(f"--tracker {self.tracker}: expected wandb or tensorboard")
        if self.pairs < 1 or self.epochs < 2:
            raise DataError("--pairs must be at least 1 and --epochs at least 2")


def main() -> None:
    """Measure pair by pair and print the table."""
    options = parse(Options, description="What tracking costs a training.")
    open_shards(options.shards)
    pairs: list[dict[str, dict[str, float]]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(options.pairs):
            order = ("none", options.tracker)[:: 1 if number % 2 == 0 else -1]
            pair = {tracker: timed(options, tracker, Path(scratch)) for tracker in order}
            pairs.append(pair)
            print(line(f"pair {number + 1}", options.tracker, pair), flush=True)
    found = {
        what: median(pair[options.tracker][what] / pair["none"][what] - 1 for pair in pairs)
        for what in ("loop", "epoch")
    }
    for what in ("inside", "service"):
        found[what] = median(pair[options.tracker][what] for pair in pairs)
    print(
        f"--tracker {options.tracker} against none, median of {options.pairs} pair(s): "
        f"{found['loop']:+.2%} on the step loop, {found['epoch']:+.2%} on whole epochs\n"
        f"accounted for in the loop: {found['inside']:.3%} of its time inside the tracker, "
        f"{found['service']:.3%} of the processors' time in the tracker's own process"
    )
    if options.json:
        contents = {"tracker": options.tracker, "cost": found, "pairs": pairs}
        write_text(options.json, json.dumps(contents, indent=2) + "\n")


def timed(options: Options, tracker: str, scratch: Path) -> dict[str, float]:
    """Train once; return medians over its epochs but the first."""
    run, out = scratch / "run", scratch / "marks.json"
    shutil.rmtree(run, ignore_errors=True)
    words = [
        *("--shards", options.shards, "--run-dir", run, "--tracker", tracker),
        *("--wandb", "offline", "--weights", "none", "--arch", options.arch),
        *("--image-size", options.image_size, "--batch-size", options.batch_size),
        *("--epochs", options.epochs, "--threads", options.threads),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", TIMED, str(out), *map(str, words)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise DataError(f"train.py left with exit code {done.returncode}:\n{done.stderr}")
    marks = json.loads(out.read_text())
    ends = [mark["end"] for mark in marks]
    return {
        **{what: median(m[what] for m in marks[1:]) for what in ("loop", "inside", "service")},
        "epoch": median(later - earlier for earlier, later in pairwise(ends)),
    }


def line(name: str, tracker: str, pair: dict[str, dict[str, float]]) -> str:
    """One row of the table."""
    return f"{name}: " + "; ".join(
        f"{what} {pair['none'][what]:.3f} s without, {pair[tracker][what]:.3f} s with "
        f"({pair[tracker][what] / pair['none'][what] - 1:+.2%})"
        for what in ("loop", "epoch")
    )


if __name__ == "__main__":
    guard(main)
