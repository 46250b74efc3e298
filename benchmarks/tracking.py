"""What tracking costs the step loop of train.py: steps that send a point against steps that do not.

    python -m benchmarks.tracking --shards shards/ham10000-64 --json tracking.json

Two trainings differ by more than 1 % on any machine, so both kinds of steps are measured in one:
every other step sends a point (W&B offline, its own process running), and its time is compared
with that of its two neighbours. The cost of a point is the median over all such steps of several
trainings. train.py sends a point every 10 steps, so a step bears a tenth of it.

The table also shows processor time: of the thread that calls the tracker (points, curves, tables,
pictures, the model) and of W&B's own process, as shares of all processor-seconds of the training.
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
from pipeline.files import write_file
from pipeline.shards.dataset import open_shards

ROOT = Path(__file__).resolve().parent.parent

EVERY = 10
"""Steps between points in train.py."""

TIMED = """
import json, os, sys, time
from pathlib import Path
import train
from pipeline.cli import guard, parse
from pipeline.tracking.journal import PointJournal
from pipeline.tracking.tracker import BackgroundTracker
from pipeline.training import run
from pipeline.training.flags import TrainFlags

run.LOG_STEPS = 1
epochs, spent = [], {}
train_epoch, add, finish = train.train_epoch, PointJournal.add, BackgroundTracker.finish

def children_seconds():
    pids = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    ticks = sum(int(t) for p in pids for t in Path(f"/proc/{p}/stat").read_text().split()[13:15])
    return ticks / os.sysconf("SC_CLK_TCK")

def timed_epoch(*arguments):
    epochs.append([])
    train_epoch(*arguments)

def add_every_other(journal, samples, values, views=None):
    if "train/loss" not in values:
        return add(journal, samples, values, views)
    sends = len(epochs[-1]) % 2 == 0
    epochs[-1].append((time.perf_counter(), sends))
    if sends:
        add(journal, samples, values)

def timed_finish(tracker, exit_code=0):
    tracker.calls.put(lambda: spent.update(thread=time.thread_time(), service=children_seconds()))
    finish(tracker, exit_code)

train.train_epoch, PointJournal.add = timed_epoch, add_every_other
BackgroundTracker.finish = timed_finish
begun, out = time.perf_counter(), sys.argv.pop(1)
flags = parse(TrainFlags)
guard(lambda: train.main(flags))
spent["all"] = (time.perf_counter() - begun) * os.cpu_count()
Path(out).write_text(json.dumps({"epochs": epochs, **spent}))
os._exit(0)
"""
"""A train.py whose every other step sends a point, timed from outside the loop."""


@dataclass(frozen=True)
class Options:
    """Train with every other step tracked, and print what a point costs."""

    shards: Path = Path("shards/ham10000")
    """Folder of the shards."""
    tracker: str = "wandb"
    """wandb (offline) or tensorboard."""
    runs: int = 3
    """Trainings."""
    epochs: int = 3
    """Epochs of each; the first is not measured."""
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
        """Refuse values that measure nothing."""
        if self.tracker not in ("wandb", "tensorboard"):
            raise DataError(f"--tracker {self.tracker}: expected wandb or tensorboard")
        if self.runs < 1 or self.epochs < 2:
            raise DataError("--runs must be at least 1 and --epochs at least 2")


def main() -> None:
    """Train, then print the table."""
    options = parse(Options, about="What tracking costs a training.")
    open_shards(options.shards)
    runs = []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(options.runs):
            runs.append(measured(options, Path(scratch)))
            print(line(f"run {number + 1}", runs[-1]), flush=True)
    differences = [value for run in runs for value in run["differences"]]
    step = median(run["step"] for run in runs)
    found = {
        "step_seconds": step,
        "pairs": len(differences),
        "point_seconds": median(differences),
        "cost": median(differences) / EVERY / step,
        **{name: median(run[name] for run in runs) for name in ("thread", "service")},
    }
    print(
        f"--tracker {options.tracker}, {len(differences)} pairs: a point costs "
        f"{found['point_seconds'] * 1e3:+.2f} ms of a step's {step * 1e3:.0f} ms; every {EVERY} "
        f"steps that is {found['cost']:+.2%} of the step loop"
    )
    if options.json:
        contents = {**found, "tracker": options.tracker, "runs": runs}
        write_file(options.json, json.dumps(contents, indent=2) + "\n")


def measured(options: Options, scratch: Path) -> dict:
    """Train once; return seconds of a step, differences of pairs, shares of processor time."""
    run, out = scratch / "run", scratch / "marks.json"
    shutil.rmtree(run, ignore_errors=True)
    words = [
        *("--shards", options.shards, "--run-dir", run, "--tracker", options.tracker),
        *("--weights", "none", "--arch", options.arch),
        *("--image-size", options.image_size, "--batch-size", options.batch_size),
        *("--epochs", options.epochs, "--threads", options.threads),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"}
    command = [sys.executable, "-c", TIMED, str(out), *map(str, words)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise DataError(f"train.py left with exit code {done.returncode}:\n{done.stderr}")
    found = json.loads(out.read_text())
    plain, differences = [], []
    for marks in found["epochs"][1:]:
        steps = [(end - begin, sent) for (begin, sent), (end, _) in pairwise(marks)]
        plain += [seconds for seconds, sent in steps if not sent]
        for before, here, after in zip(steps, steps[1:], steps[2:], strict=False):
            if here[1]:
                differences.append(here[0] - (before[0] + after[0]) / 2)
    shares = {name: found[name] / found["all"] for name in ("thread", "service")}
    return {"step": median(plain), "differences": differences, **shares}


def line(name: str, run: dict) -> str:
    """One row of the table."""
    return (
        f"{name}: step {run['step'] * 1e3:.1f} ms, a point {median(run['differences']) * 1e3:+.2f} "
        f"ms; of all processor time {run['thread']:.2%} in the tracker's thread, "
        f"{run['service']:.2%} in its process"
    )


if __name__ == "__main__":
    guard(main)
