"""The training step: what it eats of one cached batch, and what it reaches with the real loader."""

import contextlib
import itertools
import statistics
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Literal
from unittest.mock import patch

import torch

from benchmarks.gpu import data
from benchmarks.gpu.plan import Plan
from benchmarks.gpu.worker import Found, attempt, device_of, emit, said
from benchmarks.training import Row, Step, endless, finish, make_step, measure, rate
from pipeline.learning.model import build_model
from pipeline.loading.batch import Batch, Loader
from pipeline.loading.loader import make_loader
from pipeline.machine import cores

Mode = Literal["", "default", "reduce-overhead"]
"""Of torch.compile; "": not compiled."""
RATIO, OVER = "step with loader over cached batch", "loader over that step"
ROWS: dict[Mode, str] = {
    "": "the same, fused optimizer",
    "default": "the same, compiled",
    "reduce-overhead": "the same, compiled, CUDA graphs",
}
"""Each with the fused optimizer; the last is train.py --compile --cuda-graphs."""


def run(plan: Plan) -> None:
    """Measure; the ratio comes before the batch sizes that take long to compile."""
    attempt("step on one cached batch", partial(appetite, plan, fused=False))
    attempt(ROWS[""], partial(appetite, plan, fused=True))
    with_loader(plan)
    compiled(plan)


def appetite(plan: Plan, *, fused: bool) -> Found:
    """Return the rate of the best batch size; all are in the figures."""
    sizes = plan.scale.batch_sizes
    return best_of({f"batch {size}": stepping(plan, "", size, fused=fused) for size in sizes})


def compiled(plan: Plan) -> None:
    """Print the rates of the compiled steps after each size, as compiling takes long."""
    figures: dict[Mode, dict[str, float | str]] = {"reduce-overhead": {}, "default": {}}
    for size in sorted(plan.scale.batch_sizes, key=lambda size: size != plan.scale.batch_size):
        for mode, found in figures.items():
            torch.compiler.reset()  # a second size would be compiled for any size
            try:
                found[f"batch {size}"] = stepping(plan, mode, size, fused=True)
            except Exception as error:  # whatever goes wrong is reported
                found[f"batch {size}"] = said(error)
            attempt(ROWS[mode], partial(best_of, found))


def stepping(plan: Plan, mode: Mode, size: int, *, fused: bool) -> float | str:
    """Return images/s at a batch size, or that memory ran out."""
    try:
        network = build_model(plan.scale.arch, 7)
        return steps(plan, make_step(network, device_of(plan), compiled=mode, fused=fused), size)
    except torch.OutOfMemoryError:
        return "out of memory"


def best_of(figures: dict[str, float | str]) -> Found:
    """Return the row of the rates by batch size.

    Raises:
        RuntimeError: there is no rate.
    """
    rates = {name: found for name, found in figures.items() if isinstance(found, float)}
    if not rates:
        raise RuntimeError("; ".join(f"{name}: {found}" for name, found in figures.items()))
    best = max(rates, key=lambda name: rates[name])
    missing = [f"{name}: {found}" for name, found in figures.items() if name not in rates]
    return {"value": rates[best], "note": "; ".join([best, *missing]), "figures": figures}


def steps(plan: Plan, step: object, size: int) -> float:
    """Return images/s of a step on one batch."""
    assert callable(step)
    shape = (size, 3, plan.scale.image_size, plan.scale.image_size)
    device = device_of(plan)
    images = torch.randn(shape, device=device).to(memory_format=torch.channels_last)
    batch = Batch(images, torch.randint(7, (size,), device=device), ("",) * size)
    for _ in range(min(plan.scale.warm, 10)):
        step(batch)
    return round(rate(step, itertools.repeat(batch), 2 * plan.scale.seconds), 1)


def with_loader(plan: Plan) -> None:
    """Print how the step fed by the loader compares with the same on a cached batch.

    Where it cannot be compiled, the step that is not compiled is compared. The figures say where
    the time goes, and what another share for the JPEG engines or a longer queue would change.
    """
    scale = plan.scale
    times: dict[str, Any] = {"image_size": scale.image_size, "seconds": 2.5 * scale.seconds}
    problems = []
    for mode in ("reduce-overhead", "default", ""):
        try:
            with contextlib.closing(loader_of(plan)) as loader:
                network = build_model(scale.arch, 7)
                step = make_step(network, device_of(plan), compiled=mode, fused=True)
                row = measure(loader, step, pairs=scale.pairs, **times)
                where = shares(loader, step, scale.warm)
        except Exception as error:  # whatever goes wrong is reported
            problems.append(f"{mode or 'not compiled'}: {said(error)}")
            continue
        figures = {"cached": row.cached, "loaded": row.loaded, "loader_alone": row.loader_alone}
        words = "; ".join([f"batch {scale.batch_size}, {mode or 'not compiled'}", *problems])
        emit(OVER, round(row.loader_alone / row.cached, 3), note=words, figures=figures)
        figures |= {"all": row.ratios, **where}
        emit(RATIO, row.ratio, note=words, figures=figures)
        figures |= variants(plan, partial(measure, step=step, pairs=1, **times))
        emit(RATIO, row.ratio, note=words, figures=figures)
        return
    emit(RATIO, status="FAIL", note="; ".join(problems))
    emit(OVER, status="FAIL", note="; ".join(problems))


def loader_of(plan: Plan) -> Loader:
    """Return the loader of a training."""
    return make_loader(
        data.loaded(plan),
        phase="train",
        image_size=plan.scale.image_size,
        batch_size=plan.scale.batch_size,
        device=device_of(plan),
        threads=min(cores(), 16),
        backend="dali",
    )


def shares(loader: Loader, step: Step, batches: int) -> dict[str, float]:
    """Return what a batch costs the GPU, by torch's profiler, and an epoch's first the host, ms."""
    firsts = []
    for _ in range(3):
        began = time.perf_counter()
        with contextlib.closing(endless(loader)) as fresh:
            next(fresh)
            finish()
            firsts.append(1000 * (time.perf_counter() - began))
    found = {"ms to an epoch's first batch": round(statistics.median(firsts), 2)}
    if torch.cuda.is_available():
        with contextlib.closing(endless(loader)) as fed:
            cached = next(fed)
            alone = partial(deque, itertools.islice(fed, batches), 0)
            found["ms of the GPU for a batch of the loader"] = on_gpu(alone) / batches
        again = partial(deque, map(step, itertools.repeat(cached, batches)), 0)
        found["ms of the GPU for a step"] = on_gpu(again) / batches
    return found


def on_gpu(work: Callable[[], object]) -> float:
    """Return the milliseconds that kernels and copies of ``work`` take, one by one."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as found:
        work()
        finish()
    return round(sum(event.self_device_time_total for event in found.key_averages()) / 1000, 3)


def variants(plan: Plan, measured: Callable[[Loader], Row]) -> dict[str, Any]:
    """Return the ratio with all JPEGs for the engines, and with a queue of four batches."""
    from pipeline.loading.dali import graph

    found: dict[str, Any] = {}
    for name, change in {
        "ratio with hw_decoder_load 1": patch.object(graph, "HW_DECODER_LOAD", 1.0),
        "ratio with 4 batches ahead": patch.dict(graph.PREFETCH, {"gpu": 4, "cpu": 4}),
    }.items():
        try:
            with change, contextlib.closing(loader_of(plan)) as loader:
                found[name] = measured(loader).ratio
        except Exception as error:  # whatever goes wrong is reported
            found[name] = said(error)
    return found
