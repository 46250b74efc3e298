"""What a GPU eats and what DALI gives it: one table, for a machine with CUDA.

    python -m benchmarks.training_gpu                               # on made-up images
    python -m benchmarks.training_gpu --originals DIR --json out.json

Three parts, images/s all of them:

- appetite: the training step (bf16, channels-last) fed with one cached batch, plain and compiled;
- supply: DALI's mixed decoder alone, from images as they are (600 x 450) and packed at 256 pixels,
  for several shares of the hardware decoder, ``hw_decoder_load``; GPUs without one (all but the
  A100, H100 and later data centre ones) give the same figure for each;
- both: the compiled step with the real loader over the same without, as ``benchmarks.training``.
"""

import contextlib
import itertools
import json
import tempfile
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.loader_sources import Source, make_sources
from benchmarks.training import Row, make_step, measure, rate, training_loader
from pipeline.cli import guard, parse
from pipeline.errors import DataError
from pipeline.learning.model import build_model
from pipeline.loading.backend import ahead
from pipeline.loading.batch import Batch
from pipeline.loading.flags import Backend
from pipeline.loading.order import BatchRequest, EpochPlan
from pipeline.loading.presets import Augment
from pipeline.loading.samples import Samples
from pipeline.machine import cores
from pipeline.shards.dataset import open_shards

READERS = 4
"""Threads that read JPEGs ahead of the decoder."""

WARM_BATCHES = 20
"""Batches decoded before the clock starts: the decoder's buffers grow to their final size."""


@dataclass(frozen=True)
class Options:
    """Flags of the benchmark."""

    originals: Path | None = None
    """Folder with JPEGs at their original size; by default some of 600 x 450 are made up."""
    shards: Path | None = None
    """Packed images, split train; by default the originals are packed at 256 pixels."""
    images: int = 4000
    """Images of each set; the originals are repeated."""
    image_size: int = 224
    """Side of the images, pixels."""
    batch_size: int = 128
    """Images."""
    arch: str = "resnet34"
    """Network, one of torchvision's classifiers."""
    augment: Augment = "basic"
    """Preset of the loader."""
    backend: Backend = "auto"
    """Of the loader."""
    threads: int = 0
    """Of DALI; 0 is one a core, 16 at most."""
    loads: tuple[float, ...] = (0.0, 0.25, 0.5, 0.65, 0.8, 1.0)
    """Shares of the decoding that the hardware decoder gets, 0 to 1."""
    pairs: int = 3
    """Pairs of stretches; the median ratio counts."""
    seconds: float = 5.0
    """Of each figure, about."""
    json: Path | None = None
    """File for the figures."""

    def __post_init__(self) -> None:
        """Refuse shares that are none."""
        if not all(0 <= load <= 1 for load in self.loads):
            raise DataError(f"--loads: shares are between 0 and 1, found {self.loads}")


def main() -> None:
    """Measure all three parts and print them as one table."""
    options = parse(Options, about=(__doc__ or "").splitlines()[0])
    device = require_cuda()
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    figures: dict[str, Any] = {"gpu": torch.cuda.get_device_name(device), **asdict(options)}
    with tempfile.TemporaryDirectory() as folder:
        sources = make_sources(
            Path(folder),
            originals=options.originals,
            shards=options.shards,
            images=options.images,
        )
        figures["appetite"] = appetite(options, device)
        figures["supply"] = {source.name: supply(options, source, device) for source in sources}
        figures["both"] = {
            source.name: asdict(with_loader(options, source, device)) for source in sources
        }
    print(table(figures))
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1, default=str) + "\n")


def require_cuda() -> torch.device:
    """Return the GPU.

    Raises:
        DataError: there is none.
    """
    if not torch.cuda.is_available():
        raise DataError(
            "this benchmark needs a CUDA GPU and torch sees none (nvidia-smi shows what the driver "
            "sees); on a CPU run `python -m benchmarks.training` and `python -m benchmarks.loader`."
        )
    return torch.device("cuda", torch.cuda.current_device())


def threads_of(options: Options) -> int:
    """Return DALI's threads."""
    return options.threads or min(cores(), 16)


def appetite(options: Options, device: torch.device) -> dict[str, float]:
    """Return images/s of the step on one batch, plain and compiled."""
    shape = (options.batch_size, 3, options.image_size, options.image_size)
    images = torch.randn(shape, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(7, (options.batch_size,), device=device)
    batch = Batch(images, labels, ("",) * options.batch_size)
    rates = {}
    for name, compiled in (("plain", False), ("compiled", True)):
        step = make_step(build_model(options.arch, 7), device, compiled=compiled)
        for _ in range(10):
            step(batch)
        rates[name] = round(rate(step, itertools.repeat(batch), options.seconds), 1)
    return rates


def supply(options: Options, source: Source, device: torch.device) -> dict[str, float]:
    """Return images/s of DALI's mixed decoder alone, by share of the hardware decoder."""
    return {
        str(load): round(decoding_rate(options, source, device, load), 1) for load in options.loads
    }


def decoding_rate(options: Options, source: Source, device: torch.device, load: float) -> float:
    """Return images/s of the decoder for one share of the hardware decoder."""
    with contextlib.closing(decoded(options, source, device, load)) as batches:
        for _ in range(WARM_BATCHES):
            next(batches)
        return rate(lambda batch: None, batches, options.seconds)


def decoded(
    options: Options, source: Source, device: torch.device, load: float
) -> Generator[range, None, None]:
    """Yield a range as long as the batch for each one that the decoder has finished; no end."""
    samples = Samples(open_shards(source.shards).split("train"))
    plan = EpochPlan("train", samples.shard_of, options.batch_size)
    requests = (each for epoch in itertools.count() for each in plan.requests(epoch))

    def read(request: BatchRequest) -> list[np.ndarray]:
        jpegs = [samples.read(row) for row in request.rows]
        return [np.frombuffer(jpeg, np.uint8) for jpeg in jpegs]

    with ThreadPoolExecutor(READERS) as pool:
        pipe = decoder(options, ahead(pool, read, requests, depth=READERS), device, load)
        while True:
            (images,) = pipe.run()
            yield range(len(images))


def decoder(
    options: Options, jpegs: Iterator[list[np.ndarray]], device: torch.device, load: float
) -> Any:
    """Return a built DALI pipeline that decodes ``jpegs`` on the GPU and does nothing else."""
    from nvidia.dali import fn  # not where DALI is not installed
    from nvidia.dali.pipeline import Pipeline

    from pipeline.loading.dali.graph import PREFETCH, decode

    pipe = Pipeline(
        batch_size=options.batch_size,
        num_threads=threads_of(options),
        device_id=device.index,
        prefetch_queue_depth=PREFETCH["gpu"],
        exec_dynamic=True,
    )
    with pipe:
        encoded: Any = fn.external_source(lambda: next(jpegs), batch=True, no_copy=True)
        pipe.set_outputs(decode(encoded, "gpu", (600, 450), load))
    pipe.build()
    return pipe


def with_loader(options: Options, source: Source, device: torch.device) -> Row:
    """Return what the compiled step reaches with the real loader, and without."""
    split = open_shards(source.shards).split("train")
    loader = training_loader(options, split, options.image_size, device, threads_of(options))
    step = make_step(build_model(options.arch, 7), device, compiled=True)
    pairs = {"pairs": options.pairs, "seconds": options.seconds}
    with contextlib.closing(loader):
        return measure(loader, step, image_size=options.image_size, **pairs)


def table(figures: dict[str, Any]) -> str:
    """Return the table as text; a supply stands beside the appetite of the compiled step."""
    appetite = figures["appetite"]
    lines = [
        f"{figures['gpu']}: {figures['arch']}, bf16, channels-last, "
        f"{figures['image_size']} pixels, batches of {figures['batch_size']}",
        f"{'':<52}{'images/s':>10}{'of appetite':>13}",
    ]

    def add(words: str, value: float) -> None:
        lines.append(f"{words:<52}{value:>10,.0f}{value / appetite['compiled']:>13.2f}")

    add("appetite: the step, one cached batch", appetite["plain"])
    add("appetite: the step, torch.compile", appetite["compiled"])
    for name, rates in figures["supply"].items():
        for load, value in rates.items():
            add(f"supply: mixed decode, {name}, hw_decoder_load {load}", value)
    for name, row in figures["both"].items():
        add(f"supply: the whole loader, {name}", row["loader_alone"])
        add(f"both: step with loader, {name} (ratio {row['ratio']:.3f})", row["loaded"])
    return "\n".join(lines)


if __name__ == "__main__":
    guard(main)
