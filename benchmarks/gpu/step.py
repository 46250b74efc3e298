"""The training step: what it eats of one cached batch, and what it reaches with the real loader."""

import contextlib
import itertools
from functools import partial

import torch

from benchmarks.gpu import data
from benchmarks.gpu.plan import Plan
from benchmarks.gpu.worker import Found, attempt, device_of, emit, said
from benchmarks.training import make_step, measure, rate
from pipeline.learning.model import build_model
from pipeline.loading.batch import Batch
from pipeline.loading.loader import make_loader
from pipeline.machine import cores

RATIO, OVER = "step with loader over cached batch", "loader over the compiled step"
COMPILED = "the same, compiled"


def run(plan: Plan) -> None:
    """Measure; the ratio comes before the batch sizes that take long to compile."""
    attempt("step on one cached batch", partial(appetite, plan))
    attempt("the same, fused optimizer", partial(appetite, plan, fused=True))
    try:
        with_loader(plan, compiled=True)
    except Exception as error:
        emit(COMPILED, status="FAIL", note=said(error))
        attempt_pair(plan)
        return
    attempt(COMPILED, partial(appetite, plan, fused=True, compiled=True))


def attempt_pair(plan: Plan) -> None:
    """Print the rows with the loader, of the step that is not compiled, or why there are none."""
    try:
        with_loader(plan, compiled=False)
    except Exception as error:
        emit(RATIO, status="FAIL", note=said(error))
        emit(OVER, status="FAIL", note=said(error))


def appetite(plan: Plan, *, fused: bool = False, compiled: bool = False) -> Found:
    """Return the rate of the best batch size; all are in the figures.

    Compiling takes long, so what is known is printed after each size.
    """
    figures: dict[str, float | str] = {}
    for size in plan.scale.batch_sizes:
        try:
            torch.compiler.reset()  # a second size would be compiled for any size
            network = build_model(plan.scale.arch, 7)
            step = make_step(network, device_of(plan), compiled=compiled, fused=fused)
            figures[f"batch {size}"] = steps(plan, step, size)
        except torch.OutOfMemoryError:
            figures[f"batch {size}"] = "out of memory"
        if compiled and isinstance(figures[f"batch {size}"], float):
            emit(COMPILED, **best_of(figures))
    return best_of(figures)


def best_of(figures: dict[str, float | str]) -> Found:
    """Return the row of the rates by batch size.

    Raises:
        RuntimeError: there is no rate.
    """
    rates = {name: found for name, found in figures.items() if isinstance(found, float)}
    if not rates:
        raise RuntimeError("out of memory at every batch size")
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


def with_loader(plan: Plan, *, compiled: bool) -> None:
    """Print how the step fed by the loader compares with the same on a cached batch."""
    scale, device = plan.scale, device_of(plan)
    loader = make_loader(
        data.loaded(plan),
        phase="train",
        image_size=scale.image_size,
        batch_size=scale.batch_size,
        device=device,
        threads=min(cores(), 16),
        backend="dali",
    )
    step = make_step(build_model(scale.arch, 7), device, compiled=compiled, fused=True)
    with contextlib.closing(loader):
        row = measure(
            loader,
            step,
            image_size=scale.image_size,
            pairs=scale.pairs,
            seconds=2.5 * scale.seconds,
        )
    figures = {"cached": row.cached, "loaded": row.loaded, "loader_alone": row.loader_alone}
    words = f"batch {scale.batch_size}" + ("" if compiled else ", not compiled")
    emit(RATIO, row.ratio, note=words, figures={**figures, "all": row.ratios})
    emit(OVER, round(row.loader_alone / row.cached, 3), note=words, figures=figures)
