"""The images of all parts: made once, before the first part that needs them; no torch.

made-up or original JPEGs -> shards as they are, shards at 256 pixels   (decoded, loaded)
made-up images            -> shards with train, val and test            (trained on, judged)
"""

from pathlib import Path

from benchmarks.gpu.plan import Plan
from benchmarks.loader_sources import Source, make_sources, run_module
from pipeline.shards.dataset import Split, open_shards


def run(plan: Plan) -> None:
    """Make everything that is not there yet."""
    sources(plan)
    if plan.shards is None:
        made, out = plan.work / "training-images", plan.training_shards
        words = ["--out", str(made), "--images", str(plan.scale.training_images)]
        run_module(["pipeline.ham10000", "synthesize", *words])
        size = "64" if plan.dry else "256"
        words = ["--source", str(made), "--out", str(out), "--image-size", size]
        run_module(["pipeline.shards", "build", *words, "--samples-per-shard", "100"])


def sources(plan: Plan) -> list[Source]:
    """Return the packed images and the original ones; made where they are missing."""
    work = Path(plan.work) / "sources"
    work.mkdir(exist_ok=True)
    return make_sources(work, originals=plan.originals, shards=None, images=plan.scale.images)


def loaded(plan: Plan) -> Split:
    """Return what the loaders read: the user's images to train on, or the packed ones."""
    return open_shards(plan.shards or sources(plan)[0].shards).split("train")
