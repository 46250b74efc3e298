"""Whether training waits for its data: the step with the real loader over the step without one.

    python -m benchmarks.training                              # on made-up images
    python -m benchmarks.training --shards shards/packed256 --json out.json

    cached batch -> step, step, ...   |   loader -> batch -> step, batch -> step, ...

A pair is one stretch of steps that are fed the same batch again and again, and one fed by the
loader, in turns; the ratio of their images/s is 1.0 where the loader costs nothing. The step is
that of train.py: forward and backward under bf16 autocast, channels-last, AdamW. On a GPU see
``benchmarks.gpu``.

The last line is of train.py itself: the share of an epoch in which no step is taken while metrics
are computed, and checkpoint, best model, curves and pictures written. ``--sizes`` without a
value measures that alone.
"""

import contextlib
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sized
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeVar

import torch

from benchmarks.loader_sources import SIDE, build, synthesize
from benchmarks.shards import repeat_images
from pipeline.cli import guard, parse
from pipeline.learning.model import build_model
from pipeline.loading.batch import Batch, Loader
from pipeline.loading.flags import Backend
from pipeline.loading.loader import make_loader
from pipeline.loading.presets import Augment
from pipeline.machine import cores
from pipeline.shards.dataset import Split, open_shards

Step = Callable[[Batch], None]
Item = TypeVar("Item", bound=Sized)

WARM_STEPS = 3
"""Steps before the first that counts: buffers are made and, on a GPU, kernels compiled."""


@dataclass(frozen=True)
class Options:
    """Flags of the benchmark."""

    shards: Path | None = None
    """Shards with a split train; by default made-up images, packed at 256 pixels."""
    sizes: tuple[int, ...] = (64, 128, 224)
    """Sides of the images, pixels."""
    batch_size: int = 64
    """Images."""
    arch: str = "resnet34"
    """Network, one of torchvision's classifiers."""
    augment: Augment = "basic"
    """Preset of the loader."""
    backend: Backend = "auto"
    """Of the loader."""
    threads: int = 0
    """Of the network, and as many of the loader; 0 is one a core."""
    pairs: int = 3
    """Pairs of stretches at each size; the median ratio counts."""
    seconds: float = 5.0
    """Of each stretch, about: whole steps, two at least."""
    epochs: int = 5
    """Of the training whose ends of epochs are timed, at the smallest size; the first is not."""
    json: Path | None = None
    """File for the figures."""


@dataclass(frozen=True)
class Row:
    """What came of one size."""

    image_size: int
    """Pixels."""
    cached: float
    """Images/s of the step fed with one batch, median."""
    loaded: float
    """Images/s of the step fed by the loader, median."""
    loader_alone: float
    """Images/s of the loader with nobody else at work."""
    ratio: float
    """Median of the pairs' loaded over cached."""
    ratios: list[float]
    """Of each pair."""


def main() -> None:
    """Measure every size, print the table."""
    options = parse(Options, about=(__doc__ or "").splitlines()[0])
    threads = options.threads or cores()
    torch.set_num_threads(threads)
    with contextlib.ExitStack() as stack:
        root = options.shards or made_up(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        split = open_shards(root).split("train")
        print(f"{options.arch}, bf16, channels-last, batches of {options.batch_size}, on", end=" ")
        print(f"{threads} cores; {len(split.samples):,} images, augmentation {options.augment}")
        print(HEADER)
        rows = []
        for size in options.sizes:
            loader = training_loader(options, split, size, threads)
            with contextlib.closing(loader):
                step = make_step(build_model(options.arch, 7), torch.device("cpu"))
                pairs = {"pairs": options.pairs, "seconds": options.seconds}
                rows.append(measure(loader, step, image_size=size, **pairs))
            print(line(rows[-1]), flush=True)
        ends = epoch_ends(options, root, threads)
        print(f"between two epochs no step for {ends['seconds']:.2f} s, {ends['share']:.1%} of one")
    if options.json is not None:
        figures = {"threads": threads, "batch_size": options.batch_size, "arch": options.arch}
        figures["rows"] = [asdict(row) for row in rows]  # type: ignore[assignment]
        figures["epoch_ends"] = ends  # type: ignore[assignment]
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


HEADER = (
    f"{'pixels':>8}{'step alone':>13}{'with loader':>13}{'ratio':>8}{'loader alone':>14}  images/s"
)


def line(row: Row) -> str:
    """Return a row of the table."""
    rates = f"{row.cached:>13.1f}{row.loaded:>13.1f}{row.ratio:>8.3f}{row.loader_alone:>14.0f}"
    return f"{row.image_size:>8}{rates}"


TIMED = """
import json, os, sys, time
from pathlib import Path
import train
from pipeline import files
from pipeline.cli import guard, parse
from pipeline.training.flags import TrainFlags

moments, out = [], sys.argv.pop(1)

def note(moment, what):
    if moment == "validation" or (moment, what) == ("batch", "0"):
        moments.append((moment, time.perf_counter()))

files.watchers.append(note)
flags = parse(TrainFlags)
guard(lambda: train.main(flags))
Path(out).write_text(json.dumps(moments))
"""
"""A train.py that notes when it asks for an epoch's first batch, and for each of validation."""


def epoch_ends(options: Options, shards: Path, threads: int) -> dict[str, float]:
    """Return the seconds from validation to the next epoch, and their share of it, medians."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "moments.json"
        words = ["--shards", shards, "--run-dir", Path(scratch) / "run", "--arch", options.arch]
        words += ["--weights", "none", "--epochs", options.epochs, "--threads", threads]
        words += ["--image-size", min(options.sizes, default=64), "--tracker", "tensorboard"]
        words += ["--batch-size", options.batch_size, "--optimizer", "adamw"]
        command = [sys.executable, "-c", TIMED, str(out), *map(str, words)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        moments = json.loads(out.read_text())
    starts = [number for number, (moment, _) in enumerate(moments) if moment == "batch"]
    gaps, shares = [], []
    for before, after in list(itertools.pairwise(starts))[1:]:
        clock = [seconds for _, seconds in moments[before : after + 1]]
        batches = [late - early for early, late in itertools.pairwise(clock[1:-1])]
        # the last batch of the validation is predicted in that time too
        gaps.append(clock[-1] - clock[-2] - statistics.median(batches or [0.0]))
        shares.append(gaps[-1] / (clock[-1] - clock[0]))
    return {"seconds": statistics.median(gaps), "share": statistics.median(shares)}


def made_up(folder: Path, images: int = 1000) -> Path:
    """Pack ``images`` made-up ones of 600 x 450 pixels at 256."""
    repeat_images(synthesize(folder / "made-up"), folder / "source", images)
    return build(folder / "source", folder / "shards", "--image-size", str(SIDE))


def training_loader(options: Options, split: Split, image_size: int, threads: int) -> Loader:
    """Return the loader of a training on the CPU."""
    return make_loader(
        split,
        phase="train",
        image_size=image_size,
        batch_size=options.batch_size,
        device=torch.device("cpu"),
        threads=threads,
        backend=options.backend,
        augment=options.augment,
    )


def measure(loader: Loader, step: Step, *, image_size: int, pairs: int, seconds: float) -> Row:
    """Feed ``step`` by turns with one batch and with ``loader``.

    Args:
        loader: of the train phase.
        step: works on a batch.
        image_size: of the loader, pixels.
        pairs: of stretches.
        seconds: of each stretch, about.
    """
    with contextlib.closing(endless(loader)) as batches:
        cached = next(batches)
        for _ in range(WARM_STEPS):
            step(cached)
        alone = rate(lambda batch: None, batches, seconds / 2)
    rates = []
    for _ in range(pairs):
        still = rate(step, itertools.repeat(cached), seconds)
        with contextlib.closing(endless(loader)) as batches:
            step(next(batches))  # the loader is at work when the clock starts
            rates.append((still, rate(step, batches, seconds)))
    ratios = [loaded / still for still, loaded in rates]
    return Row(
        image_size=image_size,
        cached=round(statistics.median(still for still, _ in rates), 2),
        loaded=round(statistics.median(loaded for _, loaded in rates), 2),
        loader_alone=round(alone, 1),
        ratio=round(statistics.median(ratios), 4),
        ratios=[round(each, 4) for each in ratios],
    )


def make_step(
    network: torch.nn.Module,
    device: torch.device,
    *,
    compiled: Literal["", "default", "reduce-overhead"] = "",
    fused: bool = False,
) -> Step:
    """Return one step of training on a batch; the work on a GPU goes on after it returns.

    ``compiled`` is the mode of torch.compile, "" for none.
    """
    model = network.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=fused or None)
    forward = torch.compile(model, mode=compiled) if compiled else model

    def step(batch: Batch) -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(forward(batch.images), batch.labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def endless(loader: Loader) -> Generator[Batch, None, None]:
    """Yield the batches of epoch after epoch."""
    epoch = 0
    while True:
        yield from loader.epoch(epoch)
        epoch += 1


def rate(step: Callable[[Item], object], batches: Iterator[Item], seconds: float) -> float:
    """Return images/s of whole steps over ``seconds``, and over two steps at least."""
    finish()
    images, steps, began = 0, 0, time.perf_counter()
    while time.perf_counter() - began < seconds or steps < 2:
        batch = next(batches)
        step(batch)
        images += len(batch)
        steps += 1
    finish()
    return images / (time.perf_counter() - began)


def finish() -> None:
    """Wait for the GPU, where there is one: its work is only queued when a step returns."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    guard(main)
