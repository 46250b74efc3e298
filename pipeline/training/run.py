"""One training run: what the loop in train.py works with, and what it leaves on disk.

``prepare`` makes a ``Run``: network, loss, optimizer, tracker, and the state of an earlier start
of the same command. The loop asks it to save, to log, and to close an epoch.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from pipeline.errors import DataError, warn
from pipeline.learning.decision import decide
from pipeline.learning.inference import Predictions
from pipeline.learning.losses import Loss
from pipeline.learning.optimizers import FrozenBackbone
from pipeline.learning.probability import malignant_probability, task_targets
from pipeline.learning.stored_model import ModelCard, stored_files
from pipeline.tracking.tracker import Journal, NullTracker
from pipeline.tracking.views import Pictures, look_at
from pipeline.training import checkpoints
from pipeline.training.flags import TrainConfig
from pipeline.training.history import (
    decided_metrics,
    draw_curves,
    epoch_line,
    validation_metrics,
    write_table,
)
from pipeline.training.pace import Pace, advice, gpu_memory
from pipeline.training.processes import Interrupted, Interruption, agreed
from pipeline.training.state import TrainingState


@dataclass
class Run:
    """What the phases of train.py share."""

    config: TrainConfig
    accelerator: Accelerator
    state: TrainingState
    criterion: Loss
    frozen: FrozenBackbone
    train: pd.DataFrame
    """The train split's samples, with their dx_index."""
    val: pd.DataFrame
    """The validation split's samples, likewise."""
    samples: pd.DataFrame
    """Samples of train and val, as they are kept with the model."""
    card: ModelCard
    """What is known of the model before it is trained."""
    target_of_dx: Tensor
    """int64 [7] on the device: the task's class of each diagnosis."""
    look_every: int
    """Steps between looks at the loss and at the signals."""
    interruption: Interruption
    pictures: Pictures | None = None
    """Gives images of the validation split, for the tracker."""
    journal: Journal = field(default_factory=lambda: Journal(NullTracker(), []))
    """What goes to the tracker."""
    pace: Pace = field(default_factory=Pace)
    losses: list[float] = field(default_factory=list)
    """Looked at since the last point was tracked."""
    saved_at: float = field(default_factory=time.monotonic)
    """When the last checkpoint was written, on this process's clock."""
    advised: bool = False
    """Whether this process has said what to do against waiting for data."""

    # -- in the loop

    def targets(self, batch: Any) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return a batch's classes in this task, those blended in, and the share of the first."""
        blended = None if batch.labels_b is None else self.target_of_dx[batch.labels_b]
        return self.target_of_dx[batch.labels], blended, batch.lam

    def count(self, logits: Tensor, target: Tensor) -> None:
        """Add a batch to the epoch's right answers and samples seen, on the device."""
        self.state.sums[2] += (logits.argmax(1) == target).sum()
        self.state.sums[3] += len(logits)

    def images_in(self, window: list[Any]) -> int:
        """Return the images of a window over all processes."""
        return sum(len(batch.image_ids) for batch in window) * self.accelerator.num_processes

    def bar(self, batches: int) -> tqdm:
        """Return the progress bar of an epoch: loss, images/s and time left; rank 0, terminals."""
        progress, config = self.state.progress, self.config
        per_batch = config.batch_size * self.accelerator.num_processes
        return tqdm(
            total=batches * per_batch,
            desc=f"epoch {progress.epoch + 1}/{config.epochs}",
            unit=" images",
            disable=None if self.accelerator.is_main_process else True,
            leave=False,
        )

    def log_step(self, bar: tqdm, loss: float, lr: float) -> None:
        """Show the loss since the last look; track its mean, pace and waiting now and then."""
        progress = self.state.progress
        self.losses.append(loss)
        bar.set_postfix(loss=f"{loss:.4f}", waiting=f"{self.pace.share:.0%}", refresh=False)
        if progress.step % self.config.log_steps:
            return
        pace = self.pace.look(self.accelerator.num_processes)
        mean = sum(self.losses) / len(self.losses)
        self.losses.clear()
        values = {"loss": mean, "lr": lr, **pace, **gpu_memory(self.accelerator.device)}
        tracked = {"step": progress.step, **{f"train/{name}": v for name, v in values.items()}}
        self.journal.add(progress.samples, tracked)

    def save_if_due(self) -> None:
        """Write a checkpoint where steps or minutes ask for one; leave where a signal did."""
        config, step = self.config, self.state.progress.step
        minutes = (time.monotonic() - self.saved_at) / 60
        overdue = 0 < config.checkpoint_minutes <= minutes
        stop, by_time = agreed([self.interruption.received, int(overdue)], self.accelerator)
        if stop:
            self.interruption.received = stop
            raise Interrupted
        if by_time or (config.checkpoint_steps and step % config.checkpoint_steps == 0):
            self.save()

    def until_interrupted(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield ``batches``; leave between two of them where a signal came to any rank."""
        for batch in batches:
            stop = agreed([self.interruption.received], self.accelerator)[0]
            if stop:
                self.interruption.received = stop
                raise Interrupted
            yield batch

    # -- on disk

    def stored(self) -> dict[str, bytes]:
        """Return the files of the model as it is now."""
        progress = self.state.progress
        card = replace(
            self.card,
            threshold=progress.threshold,
            temperature=progress.temperature,
            bias=progress.bias,
            epoch=progress.epoch,
            step=progress.step,
            val_roc_auc=progress.history[-1]["val_roc_auc"] if progress.history else None,
        )
        return stored_files(self.state.judged.state_dict(), card, self.samples)

    def save(self) -> None:
        """Write a checkpoint; every rank calls it, rank 0 writes."""
        progress = self.state.progress
        saved = self.state.capture()
        if self.accelerator.is_main_process:
            checkpoints.write_checkpoint(
                self.config.run_dir,
                {**saved, "flags": self.config.flags(), "manifest": self.card.manifest_sha256},
                self.stored(),
                keep=self.config.keep_checkpoints,
                epoch=progress.epoch,
                batch=progress.batch,
                step=progress.step,
                processes=self.accelerator.num_processes,
            )
        self.saved_at = time.monotonic()

    def in_order(self, predictions: Predictions) -> np.ndarray:
        """Return the logits in the order of the validation split, float32 [N, K]."""
        place = pd.Index(predictions.image_ids).get_indexer(pd.Index(self.val["image_id"]))
        assert len(predictions.image_ids) == len(self.val) and (place >= 0).all()
        logits = predictions.logits[place]
        if not np.isfinite(logits).all():
            raise DataError(
                f"the network's answers on validation are not finite after epoch "
                f"{self.state.progress.epoch + 1}; the last checkpoint is intact; lower --lr or "
                "use --mixed-precision no"
            )
        return logits

    def close_epoch(self, logits: np.ndarray) -> None:
        """Turn an epoch into a row, a step of the schedule, perhaps the best model, a checkpoint.

        All ranks come to the same numbers; only rank 0 writes them.
        """
        config, progress = self.config, self.state.progress
        self.decide_on(logits)
        calibration = (progress.temperature, progress.bias)
        probability = malignant_probability(logits, config.task, *calibration)
        row = self.epoch_row(logits, probability)
        auc = row["val_roc_auc"]
        if config.schedule == "plateau":
            patience, cut = config.plateau_patience, config.plateau_factor
            progress.plateau = progress.plateau.after(auc, patience=patience, cut=cut)
        progress.epoch += 1
        progress.batch = 0
        timing = {"epoch": progress.epoch, **self.stop_pace()}
        progress.history.append(row)
        progress.timing.append(timing)
        best = auc > progress.best_auc
        if best:
            progress.best_auc, progress.best_epoch = auc, progress.epoch
        if self.accelerator.is_main_process:
            if best:
                checkpoints.write_best(config.run_dir, progress.step, self.stored())
            print(epoch_line(row, timing, epochs=config.epochs, best=best), flush=True)
            self.write_tables()
            self.track_epoch({**row, **timing}, probability, best=best)
        self.save()

    def stop_pace(self) -> dict[str, float]:
        """Return the epoch's line of timing.csv, waiting as on the rank that waited most."""
        timing = self.pace.stop(self.accelerator.num_processes)
        share = agreed([round(timing["waiting_share"] * 10_000)], self.accelerator)[0] / 10_000
        words = advice(share)
        if words and not self.advised and self.accelerator.is_main_process:
            warn(words)
        self.advised = self.advised or bool(words)
        return {**timing, "waiting_share": share, **gpu_memory(self.accelerator.device)}

    def track_epoch(self, figures: dict[str, Any], probability: np.ndarray, *, best: bool) -> None:
        """Send an epoch's figures and curves; pictures too where it is the best so far."""
        config, progress = self.config, self.state.progress
        views = look_at(
            self.val,
            probability,
            progress.threshold,
            pictures=self.pictures if best else None,
            count=config.logged_images,
            seed=config.seed,
        )
        axes = ("epoch", "step", "samples")
        values = {f"epoch/{name}": v for name, v in figures.items() if name not in axes}
        tracked = {"epoch": progress.epoch, "step": progress.step, **values}
        tracked |= {"best_roc_auc": progress.best_auc, "best_epoch": progress.best_epoch}
        self.journal.add(progress.samples, tracked, views)

    def decide_on(self, logits: np.ndarray) -> None:
        """Fit calibration and threshold on the validation split."""
        decision = decide(
            logits,
            self.val["label"].to_numpy(),
            task=self.config.task,
            calibrate=self.config.calibrate,
            target_sensitivity=self.config.target_sensitivity,
        )
        self.state.progress.threshold = decision.threshold
        self.state.progress.temperature = decision.temperature
        self.state.progress.bias = decision.bias

    def epoch_row(self, logits: np.ndarray, probability: np.ndarray) -> dict[str, Any]:
        """Return the epoch's line of history.csv (a collective)."""
        progress = self.state.progress
        sums: Any = self.accelerator.reduce(self.state.sums.clone())
        loss, weight, right, seen = sums.tolist()
        dx_index = self.val["dx_index"].to_numpy()
        classes = task_targets(dx_index, self.config.task)
        # copied, as pandas' own array is read-only
        target = torch.tensor(classes, device=self.accelerator.device)
        answers = torch.from_numpy(logits).to(self.accelerator.device)
        weighted = self.criterion.weighted(answers, target, None, None).sum()
        val_loss = weighted / self.criterion.weight(target, None, None).sum()
        return {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            "samples": progress.samples,
            "lr": self.state.optimizer.param_groups[0]["lr"],
            "train_loss": loss / weight,
            "train_accuracy": right / seen,
            "val_loss": val_loss.item(),
            **validation_metrics(logits, dx_index, self.config.task),
            **decided_metrics(probability, self.val["label"].to_numpy(), progress.threshold),
        }

    def write_tables(self) -> None:
        """Write history.csv, timing.csv and curves.png; a full disk costs a warning."""
        run_dir, progress = self.config.run_dir, self.state.progress
        if not progress.history:
            return
        try:
            write_table(run_dir / "history.csv", progress.history)
            write_table(run_dir / "timing.csv", progress.timing)
            draw_curves(run_dir / "curves.png", progress.history, progress.timing)
        except OSError as error:
            warn(f"the tables in {run_dir} could not be written: {error}")

    # -- begin and end

    def say(self, line: str) -> None:
        """Print a line, on rank 0."""
        if self.accelerator.is_main_process:  # accelerator.print prints once on every machine
            print(line, flush=True)

    def complete(self) -> bool:
        """Say whether all epochs are done, or early stopping ends them."""
        progress, patience = self.state.progress, self.config.early_stopping
        if progress.epoch >= self.config.epochs:
            return True
        if patience and progress.epoch - progress.best_epoch >= patience > 0 < progress.epoch:
            self.say(f"stopped early: no better ROC-AUC for {patience} epochs")
            return True
        return False

    def close(self, how: str, *, exit_code: int = 0) -> None:
        """Say where things lie and close the tracker."""
        progress, run_dir = self.state.progress, self.config.run_dir
        where = f"epoch {progress.epoch}, batch {progress.batch}, step {progress.step}"
        if exit_code:
            self.say(f"{how} at {where}: saved; the same command goes on from there")
        else:
            self.say(
                f"{how}: best validation ROC-AUC {progress.best_auc:.4f} after epoch "
                f"{progress.best_epoch}; model in {run_dir / 'best'}, curves in "
                f"{run_dir / 'curves.png'}"
            )
        self.journal.close(exit_code, model=run_dir / "best")
