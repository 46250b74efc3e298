"""Decoding alone, of JPEGs in memory: DALI's mixed operator, torchvision's nvJPEG, dynamic mode.

JPEGs of the shards -> batches of bytes in memory, again and again -> decoder -> pixels dropped
"""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.gpu import data
from benchmarks.gpu.plan import Plan
from benchmarks.gpu.worker import Found, attempt, device_of
from benchmarks.loader_sources import Source
from benchmarks.training import rate
from pipeline.loading.samples import Samples
from pipeline.shards.dataset import open_shards

Encoded = list[np.ndarray]
"""A batch of JPEGs, each ``[n] uint8``."""


def run(plan: Plan) -> None:
    """Measure the decoders."""
    packed, originals = data.sources(plan)
    small, large = batches(packed, plan.scale.batch_size), batches(originals, plan.scale.batch_size)
    attempt("mixed decoding alone, packed at 256 pixels", partial(mixed, plan, small, (341, 256)))
    attempt("torchvision's nvJPEG alone, packed", partial(nvjpeg, plan, small))
    attempt("DALI's dynamic mode alone, packed", partial(dynamic, plan, small))
    most = plan.scale.threads[-1:]
    attempt(
        "mixed decoding alone, 600 x 450 pixels",
        partial(mixed, plan, large, (600, 450), threads=most),
    )


def batches(source: Source, size: int) -> list[Encoded]:
    """Return up to 16 batches of the JPEGs of a source."""
    samples = Samples(open_shards(source.shards).split("train"))
    jpegs = [samples.read(row) for row in range(min(source.images, 16 * size))]
    arrays = [np.frombuffer(jpeg, np.uint8) for jpeg in jpegs]
    return [arrays[at : at + size] for at in range(0, len(arrays) - size + 1, size)]


def mixed(
    plan: Plan,
    encoded: list[Encoded],
    largest: tuple[int, int],
    threads: tuple[int, ...] = (),
) -> Found:
    """Return the best of DALI's shares for the JPEG engines and threads; all are in the figures."""
    figures = {}
    for count, load in itertools.product(threads or plan.scale.threads, plan.scale.loads):
        pipe = pipeline(plan, encoded, count, partial(decoder, plan, largest, load))
        found = images_per_s(plan, lambda batch, pipe=pipe: pipe.run(), encoded)
        figures[f"{count} threads, hw_decoder_load {load:g}"] = found
        del pipe
    best = max(figures, key=lambda name: figures[name])
    return {"value": figures[best], "note": best, "figures": figures}


def decoder(plan: Plan, largest: tuple[int, int], load: float, jpeg: Any) -> Any:
    """Return this project's decoding operator."""
    from pipeline.loading.dali.graph import decode

    return decode(jpeg, "cpu" if plan.dry else "gpu", largest, load)


def pipeline(
    plan: Plan, encoded: list[Encoded], threads: int, operator: Callable[[Any], Any]
) -> Any:
    """Return a built DALI pipeline of one operator on batches in memory."""
    from nvidia.dali import fn
    from nvidia.dali.pipeline import Pipeline

    from pipeline.loading.dali.graph import PREFETCH

    source: Iterator[Encoded] = itertools.cycle(encoded)
    pipe = Pipeline(
        batch_size=len(encoded[0]),
        num_threads=threads,
        device_id=device_of(plan).index,
        prefetch_queue_depth=PREFETCH["gpu"],
        exec_dynamic=True,
    )
    with pipe:
        jpeg: Any = fn.external_source(lambda: next(source), batch=True, no_copy=True)
        pipe.set_outputs(operator(jpeg))
    pipe.build()
    return pipe


def nvjpeg(plan: Plan, encoded: list[Encoded]) -> Found:
    """Return torchvision's rate; on the CPU its libjpeg."""
    from torchvision.io import ImageReadMode, decode_jpeg

    tensors = [[torch.from_numpy(jpeg.copy()) for jpeg in batch] for batch in encoded]
    device = device_of(plan)

    def step(batch: list[torch.Tensor]) -> None:
        decode_jpeg(batch, ImageReadMode.RGB, device=device)

    return {"value": images_per_s(plan, step, tensors), "note": "a list at a time, one thread"}


def dynamic(plan: Plan, encoded: list[Encoded]) -> Found:
    """Return the rate of DALI's dynamic mode, where the installed version has it."""
    try:
        import nvidia.dali.experimental.dynamic as ndd  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        return {"status": "not available", "note": str(error)}
    ndd.set_num_threads(plan.scale.threads[-1])
    device = "cpu" if plan.dry else "gpu"

    def step(batch: Encoded) -> None:
        ndd.decoders.image(ndd.as_batch(batch), device=device).evaluate()

    return {"value": images_per_s(plan, step, encoded), "note": "a batch at a time, evaluated"}


def images_per_s(plan: Plan, step: Callable[[Any], object], batches: list[Any]) -> float:
    """Return the rate of ``step`` over batches, again and again, after warming up."""
    forever = itertools.cycle(batches)
    for batch in itertools.islice(forever, plan.scale.warm):
        step(batch)
    return round(rate(step, forever, plan.scale.seconds), 1)
