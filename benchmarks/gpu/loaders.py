"""The loaders alone, batches of float32 on the device, on the user's or packed images."""

import contextlib
import itertools
from functools import partial

from benchmarks.gpu import data
from benchmarks.gpu.plan import Plan
from benchmarks.gpu.worker import Found, attempt, device_of
from benchmarks.training import endless, rate
from pipeline.loading.flags import Backend
from pipeline.loading.loader import make_loader
from pipeline.loading.presets import Augment
from pipeline.machine import cores
from pipeline.shards.dataset import Split

KINDS: tuple[tuple[Backend, Augment], ...] = (
    ("dali", "basic"),
    ("dali", "strong"),
    ("dali", "trivial"),
    ("portable", "basic"),
)


def run(plan: Plan) -> None:
    """Measure each preset."""
    split = data.loaded(plan)
    for backend, augment in KINDS:
        name = f"loader, {backend}, {augment}"
        attempt(name, partial(alone, plan, split, backend, augment))


def alone(plan: Plan, split: Split, backend: Backend, augment: Augment) -> Found:
    """Return the rate of a loader whose batches nobody uses; the best of several threads."""
    figures = {}
    for threads in sorted({min(cores(), 16), min(cores(), 8)}):
        loader = make_loader(
            split,
            phase="train",
            image_size=plan.scale.image_size,
            batch_size=plan.scale.batch_size,
            device=device_of(plan),
            threads=threads,
            backend=backend,
            augment=augment,
        )
        with contextlib.closing(loader), contextlib.closing(endless(loader)) as batches:
            for _ in itertools.islice(batches, plan.scale.warm):
                pass
            found = rate(lambda batch: None, batches, 2 * plan.scale.seconds)
        figures[f"{threads} threads"] = round(found, 1)
    best = max(figures, key=lambda name: figures[name])
    return {"value": figures[best], "note": best, "figures": figures}
