"""What follows a validation: decision, metrics, plateau, best model, tables, tracker, checkpoint.

logits [N, K] --decide--> threshold --metrics--> row of history.csv --> RUN/best, tracker
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from pipeline import figures
from pipeline.errors import DataError, warn
from pipeline.learning.decision import Decision, decide
from pipeline.learning.inference import Predictions
from pipeline.learning.probability import malignant_probability
from pipeline.tracking.views import Pictures, epoch_views
from pipeline.training import checkpoints, history
from pipeline.training.pace import Diverged, advice, gpu_memory
from pipeline.training.processes import agreed
from pipeline.training.run import Run

PLATEAU_FACTOR = 0.1
"""What the plateau schedule multiplies the learning rate with."""


@dataclass
class EpochEnd:
    """Closes epochs. All ranks compute the same numbers; only rank 0 writes them."""

    run: Run
    val: pd.DataFrame
    """The validation split's samples, N rows."""
    pictures: Pictures | None
    """Gives images of the validation split, for the tracker."""
    advised: bool = False
    """Whether this process printed what to do against waiting for data."""
    unwritten: tuple[int, Mapping[str, bytes]] | None = None
    """Step and files of the best model, until they are on disk."""
    tables_failed: bool = False
    """Whether the tables are not on disk as they should be."""

    @property
    def label(self) -> np.ndarray:
        """1 for malignant, else 0; int [N]."""
        return self.val["label"].to_numpy()

    @property
    def dx_index(self) -> np.ndarray:
        """Index of each diagnosis in the taxonomy, int [N]."""
        return self.run.outputs.taxonomy.index(self.val["dx"])

    def close(self, predictions: Predictions) -> None:
        """Turn an epoch into a row, perhaps the best model, and a checkpoint; a collective.

        All that is written is written by the thread of the checkpoints: the next epoch begins.
        """
        run, progress = self.run, self.run.state.progress
        optimisation = run.flags.optimisation
        logits = self.in_order(predictions)
        decision = self.decide(logits)
        progress.threshold = decision.threshold
        progress.temperature, progress.bias = decision.temperature, decision.bias
        fitted = (decision.temperature, decision.bias)
        probability = malignant_probability(logits, run.outputs, *fitted)
        row = self.row(logits, probability)
        auc = row["val_roc_auc"]
        if optimisation.schedule == "plateau":
            patience = optimisation.plateau_patience
            progress.plateau = progress.plateau.after(auc, patience=patience, cut=PLATEAU_FACTOR)
        progress.epoch += 1
        progress.batch = progress.position = 0
        timing = {"epoch": progress.epoch, **self.timing()}
        progress.history.append(row)
        progress.timing.append(timing)
        best = auc > progress.best_auc
        if best:
            progress.best_auc, progress.best_epoch = auc, progress.epoch
        if run.accelerator.is_main_process:
            line = history.epoch_line(row, timing, epochs=optimisation.epochs, best=best)
            print(line, flush=True)
            self.track({**row, **timing}, probability, best=best)
        run.save(partial(self.publish, best=best))

    def publish(
        self, files: Mapping[str, bytes], progress: Mapping[str, Any], *, best: bool
    ) -> None:
        """Write the best model and the tables, given a model's files and the captured progress."""
        if best:
            self.unwritten = (progress["step"], files)
        self.write_best()
        self.write_tables(progress["history"], progress["timing"])

    def in_order(self, predictions: Predictions) -> np.ndarray:
        """Return the logits in the order of the validation split, float32 [N, K].

        Diverged: they are not finite.
        """
        rows = pd.Index(predictions.image_ids).get_indexer(pd.Index(self.val["image_id"]))
        assert len(predictions.image_ids) == len(self.val) and (rows >= 0).all()
        logits = predictions.logits[rows]
        if not np.isfinite(logits).all():
            progress = self.run.state.progress
            found = "the network's answers on validation are not finite after epoch"
            raise Diverged(f"{found} {progress.epoch + 1}", progress.step)
        return logits

    def decide(self, logits: np.ndarray) -> Decision:
        """Fit calibration and threshold on validation logits [N, K]."""
        flags = self.run.flags
        return decide(
            logits,
            self.label,
            outputs=self.run.outputs,
            calibrate=flags.decision.calibrate,
            target_sensitivity=flags.decision.target_sensitivity,
        )

    def row(self, logits: np.ndarray, probability: np.ndarray) -> history.Row:
        """Return the epoch's line of history.csv; a collective."""
        run, progress, outputs = self.run, self.run.state.progress, self.run.outputs
        sums: Any = run.accelerator.reduce(run.state.sums.clone())
        loss, weight, right, seen = sums.tolist()
        # copied, as pandas' own array is read-only
        target = torch.tensor(outputs.targets(self.dx_index), device=run.accelerator.device)
        answers = torch.from_numpy(logits).to(run.accelerator.device)
        weighted = run.criterion.weighted(answers, target, None, None).sum()
        val_loss = weighted / run.criterion.weight(target, None, None).sum()
        return {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            "samples": progress.samples,
            "lr": run.state.optimizer.param_groups[0]["lr"],
            "train_loss": loss / weight,
            "train_accuracy": right / seen,
            "val_loss": val_loss.item(),
            **history.validation_metrics(logits, self.dx_index, outputs),
            **history.decided_metrics(probability, self.label, progress.threshold),
        }

    def timing(self) -> dict[str, float]:
        """Return the epoch's line of timing.csv, waiting as on the rank that waited most."""
        run = self.run
        timing = run.pace.total(run.accelerator.num_processes)
        share = agreed([round(timing["waiting_share"] * 10_000)], run.accelerator)[0] / 10_000
        words = advice(share)
        if words and not self.advised and run.accelerator.is_main_process:
            warn(words)
        self.advised = self.advised or bool(words)
        return {**timing, "waiting_share": share, **gpu_memory(run.accelerator.device)}

    def write_best(self) -> None:
        """Write the best model where it is not on disk yet; a full disk costs a warning."""
        run_dir = self.run.flags.run.run_dir
        if self.unwritten and checkpoints.write_best(run_dir, *self.unwritten):
            self.unwritten = None

    def settle(self) -> None:
        """Write what could not be written before (rank 0 only).

        DataError: the best model or a table is still missing.
        """
        run_dir, progress = self.run.flags.run.run_dir, self.run.state.progress
        self.run.writer.settle()
        self.write_best()
        best_epoch = progress.best_epoch
        missing = [] if checkpoints.best_is_of(run_dir, best_epoch) else ["best"]
        self.write_tables(progress.history, progress.timing)  # a complete run's may be damaged
        missing += ("history.csv", "timing.csv", "curves.png") if self.tables_failed else ()
        if missing:
            kept = next((f"from {f.name}" for f in checkpoints.step_folders(run_dir)), "anew")
            raise DataError(
                f"all epochs are done, but {', '.join(missing)} could not be written into "
                f"{run_dir} (the best epoch was {best_epoch}): make room there and see that it "
                f"can be written; the same command then begins {kept}"
            )

    def write_tables(self, rows: Sequence[history.Row], timing: Sequence[history.Row]) -> None:
        """Write history.csv, timing.csv and curves.png; a full disk costs a warning."""
        run_dir = self.run.flags.run.run_dir
        try:
            history.write_table(run_dir / "history.csv", rows)
            history.write_table(run_dir / "timing.csv", timing)
            figures.save(history.draw_curves(rows, timing), run_dir / "curves.png")
            self.tables_failed = False
        except (OSError, DataError) as error:
            self.tables_failed = True
            warn(f"the tables in {run_dir} could not be written: {error}")

    def track(self, row: history.Row, probability: np.ndarray, *, best: bool) -> None:
        """Send an epoch's figures and curves; pictures too where it is the best so far."""
        progress = self.run.state.progress
        views = partial(
            epoch_views,
            self.val,
            probability,
            progress.threshold,
            pictures=self.pictures if best else None,
            seed=self.run.flags.run.seed,
        )
        axes = ("epoch", "step", "samples")
        values = {f"epoch/{name}": v for name, v in row.items() if name not in axes}
        tracked = {"epoch": progress.epoch, "step": progress.step, **values}
        tracked |= {"best_roc_auc": progress.best_auc, "best_epoch": progress.best_epoch}
        self.run.journal.add(progress.samples, tracked, views)
