"""Run the loop of train.py on batches that are ready, and print as JSON what became of it.

    python stepping.py SHARDS FOLDER

"nan": one batch has images of nan. "reads": what a step reads from the device is an error. On a GPU
torch sees to that, for every sync that it knows of. Without one, network, average, optimizer and
loss lie on torch's device "meta", whose tensors have no values.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import train
from pipeline.cli import parse
from pipeline.learning.losses import Loss
from pipeline.learning.optimizers import FrozenBackbone, MovingAverage, make_optimizer
from pipeline.loading.batch import Batch
from pipeline.shards.dataset import open_shards
from pipeline.training.flags import TrainFlags
from pipeline.training.pace import Diverged
from pipeline.training.processes import make_accelerator
from pipeline.training.run import Run
from pipeline.training.setup import set_up
from pipeline.training.state import TrainingState

SIZE, STEPS = 8, 25
"""Images of a batch, steps of an epoch."""

FLAGS = ["--arch", "resnet18", "--weights", "none", "--image-size", "32", "--lr", "1e-3"]
FLAGS += ["--batch-size", str(SIZE), "--accumulate", "2", "--ema-decay", "0.9", "--clip-norm", "1"]
FLAGS += ["--optimizer", "adamw", "--schedule", "onecycle", "--dropout", "0.2", "--task", "dx"]
FLAGS += ["--tracker", "none", "--checkpoint-minutes", "0"]


@dataclass
class Ready:
    """A loader of batches that lie on the device."""

    batches: list[Batch]

    @property
    def batches_per_epoch(self) -> int:
        return len(self.batches)

    @property
    def samples_per_epoch(self) -> int:
        return len(self.batches) * SIZE

    def epoch(
        self, epoch: int, start: int = 0, bounds: Sequence[int] | None = None
    ) -> Iterator[Batch]:
        return iter(self.batches[start:])

    def close(self) -> None:
        pass


def batches(device: torch.device) -> list[Batch]:
    """Random batches, every other one blended as by mixup."""
    found = []
    for number in range(2 * STEPS):
        images = torch.randn(SIZE, 3, 32, 32).to(memory_format=torch.channels_last)
        labels, labels_b = torch.randint(7, (2, SIZE)).to(device)
        ids = tuple(f"image {SIZE * number + i}" for i in range(SIZE))
        batch = Batch(images.to(device), labels, ids)
        lam = torch.rand(SIZE).to(device)
        found.append(replace(batch, labels_b=labels_b, lam=lam) if number % 2 else batch)
    return found


def make_run(root: str, run_dir: Path, *flags: str) -> Run:
    run_dir.mkdir()
    words = ["--shards", root, "--run-dir", str(run_dir), *FLAGS, *flags]
    shards = open_shards(Path(root))
    run, _ = set_up(
        parse(TrainFlags, argv=words),
        make_accelerator("bf16" if torch.cuda.is_available() else "no"),
        train=shards.split("train").samples,
        val=shards.split("val").samples,
        taxonomy=shards.taxonomy,
        manifest=shards.root / "manifest.json",
        manifest_sha256=shards.manifest_sha256,
        threads=1,
        pictures=None,
    )
    run.read_every = 10  # as on a GPU
    return run


def without_values(run: Run) -> None:
    """Put all that a step works on onto the device "meta"."""
    meta, flags = torch.device("meta"), run.flags
    model = run.state.model.to(meta)
    optimizer = make_optimizer(model, "adamw", lr=1e-3, weight_decay=0.01)
    sums = torch.zeros(4, dtype=torch.float64, device=meta)
    average = MovingAverage(model, 0.9)
    run.state = TrainingState(
        run.accelerator, model, model, average, optimizer, sums, run.state.progress
    )
    run.frozen, run.target_of_dx = FrozenBackbone(model, 0), run.target_of_dx.to(meta)
    run.criterion = Loss(
        flags.imbalance.loss,
        run.criterion.class_weight.numpy(),
        weighting="inverse",
        focal_gamma=0,
        label_smoothing=0.1,
        device=meta,
    )


def reads(run: Run) -> str:
    """Train, then read; return the first error."""
    progress = run.state.progress
    if run.accelerator.device.type == "cuda":
        ready = Ready(batches(run.accelerator.device))
        train.train_epoch(run, ready, None)  # cuDNN chooses its algorithms
        progress.batch = progress.position = 0
        torch.cuda.set_sync_debug_mode("error")
    else:
        without_values(run)
        ready = Ready(batches(torch.device("meta")))
    try:
        train.train_epoch(run, ready, None)
        run.state.sums.tolist()  # what is read is noticed
    except RuntimeError as error:
        return str(error)
    return "nothing was noticed"


def nan(run: Run) -> str:
    """Train with nan in step 13; return what is said."""
    found = batches(run.accelerator.device)
    found[24] = replace(found[24], images=torch.full_like(found[24].images, torch.nan))
    try:
        train.train_epoch(run, Ready(found), None)
    except Diverged as error:
        return str(error)
    finally:
        run.writer.close()
    return ""


root, folder = sys.argv[1], Path(sys.argv[2])
found = {}
for trained, flags in ((nan, ["--checkpoint-steps", "10"]), (reads, [])):
    run = make_run(root, folder / trained.__name__, *flags)
    error, progress = trained(run), run.state.progress
    points = [(point["samples"], point["step"]) for point in progress.points]
    found[trained.__name__] = {"error": error, "steps": progress.step, "points": points}
print(json.dumps(found))
