"""What tracking costs the step loop of train.py: steps with a point for the tracker and without.

    python -m benchmarks.tracking --shards shards/ham10000-64 --json tracking.json

Two trainings after one another differ by more than 1 % on any machine, so the pairs stand closer:
in one training every other step sends a point (W&B offline, its own process running), and the time
up to the next step is compared with that of the neighbours that send none. Several trainings are
run; the cost of a point is the median over all pairs. By default a point is sent every 10 steps
(--log-steps), so a step bears a tenth of it.

Beside it stands what is accounted for: processor time of the thread that talks to the tracker
(points, curves, tables, pictures, the model) and of W&B's own process, as shares of all of the
training's processor-seconds.
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
"""Steps between points, unless --log-steps says otherwise."""

TIMED = """
import json, os, sys, time
from pathlib import Path
import train
from pipeline.cli import guard
from pipeline.training.run import Run
from pipeline.tracking.tracker import Aside, Journal

epochs, spent = [], {"thread": 0.0, "service": 0.0}
loop, add, work, close = train.train_epoch, Journal.add, Aside._work, Run.close

def service():
    pids = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    ticks = sum(int(t) for p in pids for t in Path(f"/proc/{p}/stat").read_text().split()[13:15])
    return ticks / os.sysconf("SC_CLK_TCK")

def sparse(self, samples, values, views=None):
    if "train/loss" not in values or views:
        return add(self, samples, values, views)
    sends = len(epochs[-1]) % 2 == 0
    epochs[-1].append((time.perf_counter(), sends))
    if sends:
        add(self, samples, values, views)

def timed_loop(run, loader):
    epochs.append([])
    loop(run, loader)

def timed_work(self):
    work(self)
    spent["thread"] = time.thread_time()

def timed_close(self, *words, **more):
    spent["service"] = service()
    close(self, *words, **more)

train.train_epoch, Journal.add, Aside._work = timed_loop, sparse, timed_work
Run.close = timed_close
begun, out = time.perf_counter(), sys.argv.pop(1)
guard(train.main)
spent["all"] = (time.perf_counter() - begun) * os.cpu_count()
Path(out).write_text(json.dumps({"epochs": epochs, **spent}))
os._exit(0)
"""
"""A train.py whose steps send a point in turn, timed from outside the loop."""


@dataclass(frozen=True)
class Options:
    """Train some times, every other step tracked, and print what a point costs."""

    shards: Path = Path("shards/ham10000")
    """Folder of the shards."""
    tracker: str = "wandb"
    """wandb (offline) or tensorboard."""
    runs: int = 3
    """Trainings."""
    epochs: int = 3
    """Epochs of each; the first is left out."""
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
    """Train once; return a step's seconds, what points have added, shares of the processor."""
    run, out = scratch / "run", scratch / "marks.json"
    shutil.rmtree(run, ignore_errors=True)
    words = [
        *("--shards", options.shards, "--run-dir", run, "--tracker", options.tracker),
        *("--wandb", "offline", "--log-steps", 1, "--weights", "none", "--arch", options.arch),
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
