"""The training step: what it eats of one cached batch, and what it reaches with the real loader."""

import contextlib
import itertools
from functools import partial
from typing import Literal

import torch

from benchmarks.gpu import data
from benchmarks.gpu.plan import Plan
from benchmarks.gpu.worker import Found, attempt, device_of, emit, said
from benchmarks.training import make_step, measure, rate
from pipeline.learning.model import build_model
from pipeline.loading.batch import Batch
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

    Where it cannot be compiled, the step that is not compiled is compared.
    """
    scale, device = plan.scale, device_of(plan)
    problems = []
    for mode in ("reduce-overhead", "default", ""):
        loader = make_loader(
            data.loaded(plan),
            phase="train",
            image_size=scale.image_size,
            batch_size=scale.batch_size,
            device=device,
            threads=min(cores(), 16),
            backend="dali",
        )
        times = {"pairs": scale.pairs, "seconds": 2.5 * scale.seconds}
        try:
            with contextlib.closing(loader):
                step = make_step(build_model(scale.arch, 7), device, compiled=mode, fused=True)
                row = measure(loader, step, image_size=scale.image_size, **times)
        except Exception as error:  # whatever goes wrong is reported
            problems.append(f"{mode or 'not compiled'}: {said(error)}")
            continue
        figures = {"cached": row.cached, "loaded": row.loaded, "loader_alone": row.loader_alone}
        words = "; ".join([f"batch {scale.batch_size}, {mode or 'not compiled'}", *problems])
        emit(RATIO, row.ratio, note=words, figures={**figures, "all": row.ratios})
        emit(OVER, round(row.loader_alone / row.cached, 3), note=words, figures=figures)
        return
    emit(RATIO, status="FAIL", note="; ".join(problems))
    emit(OVER, status="FAIL", note="; ".join(problems))
