"""What a kill costs: a training is killed at named moments and started again.

    python -m benchmarks.recovery --json recovery.json --figure recovery.png

For 1 and 2 ranks, rank 0 gets SIGKILL at each moment of ``PLACES``; another two trainings go on
with another number of ranks. The table has seconds from the second command to its first step (its
gradients; to the end where no step is left), steps that were trained twice, and the largest
difference of a weight of the last checkpoint from a training that nobody killed: 0 is expected, but
for other ranks, which normalise over their own share of a batch. Synthetic data, CPU ranks; the
time is mostly that of the start.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import botocore.session
from botocore.exceptions import EndpointConnectionError
from safetensors.numpy import load_file

from pipeline import figures
from pipeline.cli import guard, parse
from pipeline.errors import DataError
from pipeline.files import write_file

ROOT = Path(__file__).resolve().parent.parent

GLOBAL_BATCH, CHECKPOINT_STEPS = 8, 6

PLACES = {
    "fetch": ("sync", "*.tar"),
    "step": ("step", "28"),
    "checkpoint write": ("sync", "*/step-00000024/state.pt"),
    "checkpoint rename": ("rename", "*/step-00000024"),
    "validation": ("validation", "1"),
    "best": ("rename", "*/best-step-????????"),
    "finish": ("rename", "*/best-step-*-again"),
}
"""Moments of ``pipeline.files.reach``: name and pattern."""

TRAIN = """
import json, os, signal, sys, time
from fnmatch import fnmatch
sys.path.insert(0, {root!r})
import train
from pipeline import files
from pipeline.cli import guard, parse
from pipeline.training.flags import TrainFlags

def watch(moment, what):
    if moment == "step":
        with open(os.environ["MARKS"], "a") as marks:
            marks.write(json.dumps([time.time(), int(what)]) + "\\n")
    wanted, pattern = json.loads(os.environ["DIE"])
    if moment == wanted and fnmatch(what, pattern):
        os.kill(os.getpid(), signal.SIGKILL)

if os.environ.get("RANK", "0") == "0":
    files.watchers.append(watch)
flags = parse(TrainFlags)
guard(lambda: train.main(flags))
"""
"""A train.py whose rank 0 notes the time of each step, and kills itself at a moment."""


@dataclass(frozen=True)
class Options:
    """Kill trainings, start them again, and print what that cost."""

    places: tuple[str, ...] = tuple(PLACES)
    """Moments; fetch needs moto (pip install 'moto[server]')."""
    images: int = 240
    """Synthetic images, some two thirds of which are trained on."""
    json: Path | None = None
    """File for the figures."""
    figure: Path | None = None
    """File for the picture (PNG)."""

    def __post_init__(self) -> None:
        """Refuse places that are none."""
        if unknown := [place for place in self.places if place not in PLACES]:
            raise DataError(f"--places {unknown[0]}: expected some of {', '.join(PLACES)}")


@dataclass(frozen=True)
class Row:
    """One kill, and the start after it."""

    place: str
    ranks: str
    """Number before, or before and after."""
    seconds: float
    """From the command to its first step."""
    redone: int
    """Steps trained twice."""
    difference: float
    """Largest of the final weights."""


def main() -> None:
    """Measure, then print the table."""
    options = parse(Options, about="What a kill costs a training.")
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch), options.images)
        rows = []
        for row in bench.rows(options.places):
            rows.append(row)
            print(line(row), flush=True)
    if options.json:
        write_file(options.json, json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    if options.figure:
        draw(rows, options.figure)


class Bench:
    """Shards, a train.py that can be killed, and trainings that were not."""

    def __init__(self, scratch: Path, images: int) -> None:
        """Make data in ``scratch``."""
        self.scratch, self.script, self.shards = scratch, scratch / "t.py", scratch / "shards"
        self.script.write_text(TRAIN.format(root=str(ROOT)))
        source = scratch / "source"
        made = ("synthesize", "--out", source, "--images", images)
        self.run("-m", "pipeline.ham10000", *made)
        self.pack = ("-m", "pipeline.shards", "build", "--source", source, "--image-size", 64)
        self.run(*self.pack, "--out", self.shards)

    def run(self, *words: object) -> None:
        """Run one of this project's commands."""
        command = [sys.executable, *map(str, words)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise DataError(f"{' '.join(command)} failed:\n{done.stderr}")

    def rows(self, places: tuple[str, ...]) -> Iterator[Row]:
        """Yield the first starts, a row a kill, and the rows of other numbers of ranks."""
        for ranks in (1, 2):
            begun, marks = self.train(f"calm{ranks}", ranks)
            yield Row("no kill: the first start", str(ranks), marks[0][0] - begun, 0, 0.0)
            for place in places:
                yield self.killed(place, ranks, ranks)
        for before, after in ((1, 2), (2, 1)):
            yield self.killed("step", before, after)

    def killed(self, place: str, before: int, after: int) -> Row:
        """Kill a training of so many ranks at a place, and go on with so many."""
        name = f"{place}-{before}-{after}".replace(" ", "-")
        with object_store(self) if place == "fetch" else nullcontext(str(self.shards)) as shards:
            _, marks = self.train(name, before, shards=shards, die=PLACES[place])
            begun, again = self.train(name, after, shards=shards)
        redone = marks[-1][1] - again[0][1] + 1 if marks and again else 0
        seconds = (again[0][0] if again else time.time()) - begun
        different = difference(self.scratch / name, self.scratch / f"calm{before}")
        ranks = str(before) if before == after else f"{before} -> {after}"
        return Row(place, ranks, seconds, max(redone, 0), different)

    def train(
        self, name: str, ranks: int, *, shards: str = "", die: tuple[str, str] = ("", "")
    ) -> tuple[float, list[tuple[float, int]]]:
        """Train; return when the command was given, and the time and number of each step."""
        marks = self.scratch / "marks"
        marks.write_text("")
        launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
        launch += ["--num_processes", ranks, "--main_process_port", free_port()]
        words = [*(launch if ranks > 1 else ()), self.script]
        words += ["--shards", shards or self.shards, "--cache", self.scratch / f"{name}-cache"]
        words += ["--run-dir", self.scratch / name, "--batch-size", GLOBAL_BATCH // ranks]
        words += ["--arch", "shufflenet_v2_x0_5", "--weights", "none", "--image-size", 32]
        words += ["--epochs", 2, "--checkpoint-steps", CHECKPOINT_STEPS, "--tta", "flips"]
        words += ["--threads", 1, "--tracker", "none", "--mixed-precision", "no"]
        environment = {**os.environ, "MARKS": str(marks), "DIE": json.dumps(die)}
        begun = time.time()
        done = subprocess.run(
            [sys.executable, *map(str, words)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if (done.returncode == 0) == bool(die[0]):
            raise DataError(f"{name}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return begun, [tuple(json.loads(mark)) for mark in marks.read_text().splitlines()]


def difference(one: Path, other: Path) -> float:
    """Return the largest difference of a weight of the last checkpoints of two runs."""
    found = (max((run / "checkpoints").glob("step-*")) for run in (one, other))
    first, second = (load_file(folder / "model.safetensors") for folder in found)
    return max(float(abs(first[name] - second[name]).max()) for name in first)


def free_port() -> int:
    """Return a port that nobody uses."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextmanager
def object_store(bench: Bench) -> Iterator[str]:
    """Put the shards into an S3 server on this machine for the block; yield their URL."""
    port = free_port()
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    set_up = {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "t", "AWS_SECRET_ACCESS_KEY": "t"}
    before = dict(os.environ)
    os.environ.update({**set_up, "AWS_DEFAULT_REGION": "us-east-1", "NO_PROXY": "127.0.0.1"})
    try:
        while True:
            if server.poll() is not None:
                raise DataError("--places fetch needs an S3 server: pip install 'moto[server]'")
            with suppress(EndpointConnectionError):
                client = botocore.session.get_session().create_client("s3", endpoint_url=url)
                client.create_bucket(Bucket="bench")
                break
            time.sleep(0.1)
        bench.run(*bench.pack, "--out", "s3://bench/shards")
        yield "s3://bench/shards"
    finally:
        server.kill()
        server.wait()
        os.environ.clear()
        os.environ.update(before)


def line(row: Row) -> str:
    """One row of the table."""
    return (
        f"{row.place:<26}{row.ranks:>7} rank(s)  first step after {row.seconds:5.1f} s  "
        f"{row.redone:>3} step(s) redone  weights differ by {row.difference:.1e}"
    )


def draw(rows: list[Row], path: Path) -> None:
    """Draw a bar a row: seconds from the command to the first step; steps redone as text."""
    colours = {"1": figures.BLUE, "2": figures.ORANGE}
    figure, (axes,) = figures.blank(8.5, 0.34 * len(rows) + 1.2)
    names = [f"{row.place}, {row.ranks} rank(s)" for row in rows]
    seconds = [row.seconds for row in rows]
    bars = axes.barh(names, seconds, color=[colours.get(r.ranks, figures.GREEN) for r in rows])
    words = [f"{r.seconds:.1f} s, {r.redone} redone, differs by {r.difference:.0e}" for r in rows]
    axes.bar_label(bars, words, padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.6 * max(seconds))
    axes.set(xlabel="seconds from the command to its first step", title="Killed, started again")
    figures.save(figure, path)


if __name__ == "__main__":
    guard(main)
