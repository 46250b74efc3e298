"""What the loop in train.py works with: network, loss, signals, clocks, and where to save.

``set_up`` makes a ``Run``. What happens after a validation is in ``epoch_end``.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from pipeline.files import reach
from pipeline.learning.losses import Loss
from pipeline.learning.optimizers import FrozenBackbone
from pipeline.learning.probability import Outputs
from pipeline.learning.stored_model import ModelCard, stored_files
from pipeline.loading.batch import Batch, Loader
from pipeline.loading.order import cuts
from pipeline.tracking.journal import PointJournal
from pipeline.training import checkpoints
from pipeline.training.flags import TrainFlags
from pipeline.training.pace import Diverged, Pace, PendingLosses, Track, gpu_memory
from pipeline.training.processes import Agreement, Interrupted, Interruption
from pipeline.training.state import TrainingState
from pipeline.training.watchdog import Watchdog

T = TypeVar("T")

Publish = Callable[[Mapping[str, bytes], Mapping[str, Any]], None]
"""Takes the stored model's files by name, and the captured progress."""

LOG_STEPS = 10
"""Steps between tracked points, and on a GPU between looks at the losses and at signals."""


@dataclass(frozen=True)
class StoredFacts:
    """What is written into every checkpoint and model beside the state."""

    card: ModelCard
    """As known before training."""
    samples: bytes
    """training_samples.csv: train and val samples, kept with the model."""
    flags: Mapping[str, Any]
    """Flat."""


@dataclass
class Run:
    """One training run on one rank."""

    flags: TrainFlags
    accelerator: Accelerator
    state: TrainingState
    criterion: Loss
    frozen: FrozenBackbone
    outputs: Outputs
    """What the logits stand for."""
    target_of_dx: Tensor
    """int64 on the device: the output of each class of the taxonomy."""
    stored: StoredFacts
    journal: PointJournal
    interruption: Interruption
    losses: PendingLosses
    watchdog: Watchdog
    pace: Pace = field(init=False)
    writer: checkpoints.Writer = field(default_factory=checkpoints.Writer)
    saved_at: float = field(default_factory=time.monotonic)
    """When the last checkpoint was begun, on this process's clock."""

    # -- a step

    @cached_property
    def read_every(self) -> int:
        """Steps between looks at the losses and at signals; on a CPU they cost nothing."""
        return 1 if self.accelerator.device.type == "cpu" else LOG_STEPS

    @cached_property
    def agreement(self) -> Agreement:
        """Of the ranks, on leaving and on saving."""
        return Agreement(self.accelerator)

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return a batch's classes in this task, those blended in, and the share of the first."""
        blended = None if batch.labels_b is None else self.target_of_dx[batch.labels_b]
        return self.target_of_dx[batch.labels], blended, batch.lam

    @property
    def global_batch(self) -> int:
        """Images of a batch over all processes."""
        return self.flags.data.batch_size * self.accelerator.num_processes

    def bounds(self, loader: Loader) -> tuple[list[int], int]:
        """Return where the rest of the epoch is cut into global batches, and the epoch's length.

        The length, in samples, is that of the launch that began the epoch, whose global batch says
        how many samples are left out at its end.
        """
        progress, ranks = self.state.progress, self.accelerator.num_processes
        whole = (progress.position and progress.began_with) or self.global_batch
        length = loader.samples_per_epoch // whole * whole
        sizes = {"batch_size": self.flags.data.batch_size, "world_size": ranks}
        return cuts(progress.position, length, **sizes), length

    def progress_bar(self, bounds: list[int]) -> tqdm:
        """Return an epoch's bar (loss, images/s, time left); on rank 0, and on terminals only."""
        return tqdm(
            total=bounds[-1] - bounds[0],
            desc=f"epoch {self.state.progress.epoch + 1}/{self.flags.optimisation.epochs}",
            unit=" images",
            disable=None if self.accelerator.is_main_process else True,
            leave=False,
        )

    def log_step(self, bar: tqdm, lr: float) -> None:
        """Look at the losses, show the last read; every ``LOG_STEPS`` begin a tracked point."""
        due = self.state.progress.step % LOG_STEPS == 0
        self.losses.look(self.point(lr) if due else None)
        waiting = f"{self.pace.total(1)['waiting_share']:.0%}"
        bar.set_postfix(loss=self.losses.latest, waiting=waiting, refresh=False)

    def point(self, lr: float) -> Track:
        """Return what tracks lr, pace and memory as they are now when it is called with a loss."""
        values = {
            "loss": math.nan,
            "lr": lr,
            **self.pace.look(self.accelerator.num_processes),
            **gpu_memory(self.accelerator.device),
        }
        step, samples = self.state.progress.step, self.state.progress.samples
        tracked = {"step": step, **{f"train/{name}": v for name, v in values.items()}}
        return lambda loss: self.journal.add(samples, tracked | {"train/loss": loss})

    def save_if_due(self) -> None:
        """Save where steps or minutes ask for it; raise ``Interrupted`` after a signal."""
        flags, step = self.flags.run, self.state.progress.step
        minutes = (time.monotonic() - self.saved_at) / 60
        overdue = 0 < flags.checkpoint_minutes <= minutes
        stop, by_time = self.agreement.ask(self.interruption.received, int(overdue))
        self.leave_if(stop)
        if by_time or (flags.checkpoint_steps and step % flags.checkpoint_steps == 0):
            self.save()

    def until_interrupted(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield ``batches``; raise ``Interrupted`` between two after a signal to any rank."""
        for number, batch in enumerate(batches):
            reach("validation", number)
            self.watchdog.beat()
            self.leave_if(self.agreement.ask(self.interruption.received, 0)[0])
            yield batch

    def leave_if(self, signal_number: int) -> None:
        """Raise ``Interrupted`` where a rank received a signal."""
        if signal_number:
            self.interruption.received = signal_number
            self.losses.drain()
            raise Interrupted

    # -- on disk

    def card(self) -> ModelCard:
        """Return what is known of the model as it is now."""
        progress = self.state.progress
        return replace(
            self.stored.card,
            threshold=progress.threshold,
            temperature=progress.temperature,
            bias=progress.bias,
            epoch=progress.epoch,
            step=progress.step,
            val_roc_auc=progress.history[-1]["val_roc_auc"] if progress.history else None,
        )

    def save(self, publish: Publish | None = None) -> None:
        """Capture the state and begin to write a checkpoint of it; every rank calls it.

        Waits for the checkpoint before. Rank 0 writes while training goes on; ``writer.settle``
        waits for that.

        Args:
            publish: called before the checkpoint is written, in the thread that writes.

        Raises:
            Diverged: a loss or a weight is not finite.
        """
        self.losses.drain()
        if not self.state.finite():
            raise Diverged("the weights are not finite any more", self.state.progress.step)
        self.writer.settle()
        captured, card = self.state.capture(), self.card()
        if self.accelerator.is_main_process:
            self.writer.start(lambda: self.write(captured, card, publish))
        self.saved_at, self.agreement.asked = time.monotonic(), None  # else it would save again

    def write(self, captured: dict[str, Any], card: ModelCard, publish: Publish | None) -> bool:
        """Write a checkpoint of what ``capture`` returned; say whether there was room for it."""
        progress = captured["progress"]
        files = stored_files(captured["average"], card, self.stored.samples)
        if publish:
            publish(files, progress)
        manifest = self.stored.card.manifest_sha256
        return checkpoints.write_checkpoint(
            self.flags.run.run_dir,
            {**captured, "flags": dict(self.stored.flags), "manifest": manifest},
            files,
            keep=self.flags.run.keep_checkpoints,
            epoch=progress["epoch"],
            batch=progress["batch"],
            step=progress["step"],
            processes=self.accelerator.num_processes,
        )

    # -- begin and end

    def say(self, line: str) -> None:
        """Print a line, on rank 0."""
        if self.accelerator.is_main_process:  # accelerator.print prints once on every machine
            print(line, flush=True)

    def complete(self) -> bool:
        """Say whether all epochs are done, or early stopping ends the training."""
        progress, patience = self.state.progress, self.flags.optimisation.early_stopping
        if progress.epoch >= self.flags.optimisation.epochs:
            return True
        if patience and progress.epoch and progress.epoch - progress.best_epoch >= patience:
            self.say(f"stopped early: no better ROC-AUC for {patience} epochs")
            return True
        return False

    def close(self, how: str, *, exit_code: int = 0, saved: bool = True) -> None:
        """Print where things lie and close the tracker."""
        progress, run_dir = self.state.progress, self.flags.run.run_dir
        if exit_code:
            where = f"epoch {progress.epoch}, batch {progress.batch}, step {progress.step}"
            went = "saved; the same command goes on from there"
            lost = "NOT saved; the same command goes on from the checkpoint before"
            self.say(f"{how} at {where}: {went if saved else lost}")
        else:
            self.say(
                f"{how}: best validation ROC-AUC {progress.best_auc:.4f} after epoch "
                f"{progress.best_epoch}; model in {run_dir / 'best'}, curves in "
                f"{run_dir / 'curves.png'}"
            )
        self.journal.close(exit_code, model=run_dir / "best")
