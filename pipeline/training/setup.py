"""From flags and tables of samples to a ``Run`` that is ready for its next step.

    flags --resume--> saved state --make_state--> network, optimizer --> Run, EpochEnd

The order matters: rank 0 looks for saved state first, then the network is made, and the saved
state goes into it last.
"""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from torch import nn

from pipeline.errors import DataError
from pipeline.files import write_file
from pipeline.ham10000.taxonomy import Taxonomy
from pipeline.learning.flags import keyword_arguments
from pipeline.learning.losses import Loss
from pipeline.learning.model import build_model
from pipeline.learning.optimizers import FrozenBackbone, MovingAverage, make_optimizer
from pipeline.learning.probability import Outputs
from pipeline.learning.stored_model import ModelCard, samples_csv
from pipeline.machine import git_revision, hardware, versions
from pipeline.tracking.journal import PointJournal
from pipeline.tracking.tracker import make_tracker, run_id
from pipeline.tracking.views import Pictures
from pipeline.training.epoch_end import EpochEnd
from pipeline.training.flags import TrainFlags
from pipeline.training.pace import PendingLosses
from pipeline.training.processes import Interruption, first_on_main
from pipeline.training.resume import resume
from pipeline.training.run import Run, StoredFacts
from pipeline.training.state import Progress, TrainingState, seed_all
from pipeline.training.watchdog import Watchdog


def set_up(
    flags: TrainFlags,
    accelerator: Accelerator,
    *,
    train: pd.DataFrame,
    val: pd.DataFrame,
    taxonomy: Taxonomy,
    manifest: Path,
    manifest_sha256: str,
    threads: int,
    pictures: Pictures | None = None,
) -> tuple[Run, EpochEnd]:
    """Return a run ready for its next step, and what closes its epochs.

    ``train`` and ``val`` are the samples of the splits (image_id, lesion_id, group, dx, label,
    split), ``manifest`` is the shards' manifest.json; ``pictures`` gives images of val by id.
    """
    interruption = Interruption()
    check_labels(val)
    on_main, outputs = accelerator.is_main_process, Outputs(flags.model.task, taxonomy)
    processes = accelerator.num_processes
    start = {"processes": processes, "device": accelerator.device.type}
    saved, flags = first_on_main(
        lambda: resume(flags, manifest_sha256=manifest_sha256, **start), accelerator
    )
    state = make_state(flags, accelerator, len(outputs.names), fresh=saved is None)
    if saved is not None:
        state.restore(saved, flags.run.seed)
    progress = state.progress
    progress.note_launch(processes, flags.data.batch_size)
    if on_main:
        progress.wandb_id = progress.wandb_id or run_id(flags.run.run_dir)
    target_of_dx = outputs.targets(np.arange(len(taxonomy.classes)))
    targets = outputs.targets(taxonomy.index(train["dx"]))
    counts = np.bincount(targets, minlength=len(outputs.names))
    facts = facts_of_run(flags, accelerator, threads) | {
        "train_counts": dict(zip(outputs.names, counts.tolist(), strict=True)),
        "manifest_sha256": manifest_sha256,
    }
    if on_main:
        note_config(flags, facts | {"launches": progress.launches})
    run = Run(
        flags=flags,
        accelerator=accelerator,
        state=state,
        criterion=make_loss(flags, counts, accelerator.device),
        frozen=FrozenBackbone(state.model, flags.optimisation.freeze_epochs),
        outputs=outputs,
        target_of_dx=torch.from_numpy(target_of_dx).to(accelerator.device),
        stored=StoredFacts(
            card=first_card(flags, outputs, manifest_sha256, facts["git_revision"]),
            samples=samples_csv(train, val) if on_main else b"",
            flags=flags.flat(),
        ),
        journal=make_journal(flags, progress, facts, manifest=manifest, on_main=on_main),
        interruption=interruption,
        losses=PendingLosses(progress.losses),
        watchdog=Watchdog(
            flags.run.watchdog_minutes, run_dir=flags.run.run_dir, rank=accelerator.process_index
        ),
    )
    announce(run, facts, len(train), len(val))
    return run, EpochEnd(run, val, pictures)


def note_config(flags: TrainFlags, facts: Mapping[str, Any]) -> None:
    """Write RUN/config.json: the flags, and what is known of this run."""
    everything = {"flags": flags.flat(), **facts}
    write_file(flags.run.run_dir / "config.json", json.dumps(everything, indent=2) + "\n")


def make_journal(
    flags: TrainFlags,
    progress: Progress,
    facts: Mapping[str, Any],
    *,
    manifest: Path,
    on_main: bool,
) -> PointJournal:
    """Start the tracker, and return what numbers the points that it gets."""
    tracker = make_tracker(
        flags.tracking.tracker,
        run_dir=flags.run.run_dir,
        run_id=progress.wandb_id,
        config={**flags.flat(), **facts},
        group=facts["tracked_group"],
        tags=flags.tracking.tags,
        notes=flags.tracking.notes,
        manifest=manifest,
        points=progress.points,
        main=on_main,
    )
    return PointJournal(tracker, progress.points)


def check_labels(val: pd.DataFrame) -> None:
    """Refuse a validation split that no ROC-AUC can be computed on."""
    found = sorted(int(label) for label in val["label"].unique())
    if found != [0, 1]:
        raise DataError(
            f"the validation split has only the label(s) {found}, but ROC-AUC needs benign (0) "
            "and malignant (1) samples; pack the shards with a larger --val-fraction"
        )


def facts_of_run(flags: TrainFlags, accelerator: Accelerator, threads: int) -> dict[str, Any]:
    """Return what config.json holds beside the flags and what it says of the data."""
    return {
        "processes": accelerator.num_processes,
        "device": str(accelerator.device.type),
        "precision": accelerator.mixed_precision,
        "threads": threads,
        "versions": versions(),
        **hardware(),
        "git_revision": git_revision(),
        "tracked_group": flags.tracking.group or flags.run.run_dir.resolve().name,
    }


def make_loss(flags: TrainFlags, counts: np.ndarray, device: torch.device) -> Loss:
    """Return the loss for classes that occur ``counts`` times ([K]) in the train split."""
    return Loss(
        flags.imbalance.loss,
        counts,
        weighting=flags.imbalance.weighting,
        focal_gamma=flags.imbalance.focal_gamma,
        label_smoothing=flags.regularisation.label_smoothing,
        device=device,
    )


def first_card(
    flags: TrainFlags, outputs: Outputs, manifest_sha256: str, git_revision: str
) -> ModelCard:
    """Return what is known of the model before it is trained."""
    return ModelCard(
        arch=flags.model.arch,
        arch_args=keyword_arguments(flags.model.arch_args),
        task=outputs.task,
        classes=outputs.names,
        taxonomy=outputs.taxonomy,
        image_size=flags.data.image_size,
        dropout=flags.regularisation.dropout,
        target_sensitivity=flags.decision.target_sensitivity,
        manifest_sha256=manifest_sha256,
        git_revision=git_revision,
        seed=flags.run.seed,
    )


def make_state(
    flags: TrainFlags, accelerator: Accelerator, outputs: int, *, fresh: bool
) -> TrainingState:
    """Return network (of ``outputs`` logits), average and optimizer, wrapped for this launch.

    ``fresh`` says whether ``--weights`` are needed; a resumed run has its own.
    """
    seed_all(flags.run.seed)
    weights = flags.model.weights if fresh else "none"
    synchronised = flags.optimisation.sync_batch_norm and accelerator.num_processes > 1
    if synchronised and accelerator.device.type == "cpu":
        raise DataError("--sync-batch-norm needs GPUs: torch has none for CPUs; leave it out")
    graphs, alone = flags.optimisation.cuda_graphs, accelerator.num_processes == 1
    alone &= flags.optimisation.accumulate == 1  # summed gradients would be written over
    if graphs and not (alone and flags.optimisation.compile and accelerator.device.type == "cuda"):
        raise DataError("--cuda-graphs needs --compile, one process on a GPU, no --accumulate")
    with accelerator.main_process_first():  # the weights may have to be fetched, once
        model = build_model(
            flags.model.arch,
            outputs,
            weights=weights,
            dropout=flags.regularisation.dropout,
            report=print if accelerator.is_main_process else (lambda line: None),
            arch_args=keyword_arguments(flags.model.arch_args),
        )
    check_images(model, flags, alone=flags.data.batch_size == 1 and not synchronised)
    model = model.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if synchronised:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    ema_decay, name = flags.regularisation.ema_decay, flags.optimisation.optimizer
    average = MovingAverage(model, ema_decay) if ema_decay else None
    weight_decay = flags.regularisation.decay(name)
    optimizer = make_optimizer(model, name, lr=flags.optimisation.lr, weight_decay=weight_decay)
    if flags.optimisation.compile:
        model.compile(mode="reduce-overhead" if graphs else "default")
    network, optimizer = accelerator.prepare(model, optimizer)
    sums = torch.zeros(4, dtype=torch.float64, device=accelerator.device)
    return TrainingState(accelerator, model, network, average, optimizer, sums)


def check_images(model: nn.Module, flags: TrainFlags, *, alone: bool) -> None:
    """Run one blank image through the network: some architectures take one size only.

    With ``alone``, batches of one image, it is run in training mode too, on a copy: a batch norm
    over a single value has no variance.
    """
    size, copied = flags.data.image_size, None
    blank = torch.zeros(1, 3, size, size)
    model.eval()
    try:
        with torch.inference_mode(), torch.random.fork_rng(devices=()):
            model(blank)
            if alone:
                copied = copy.deepcopy(model).train()
                copied(blank)
    except (RuntimeError, AssertionError, ValueError) as error:
        what = f"images of --image-size {size}"
        what = f"batches of one image (--batch-size 1) at --image-size {size}" if copied else what
        raise DataError(f"--arch {flags.model.arch} does not take {what}: {error}") from error
    model.train()


def announce(run: Run, facts: dict[str, Any], train: int, val: int) -> None:
    """Print in two lines what is about to be trained, on what, and where it goes."""
    parameters = sum(p.numel() for p in run.state.model.parameters()) / 1e6
    counts = ", ".join(f"{name} {count}" for name, count in facts["train_counts"].items())
    run.say(
        f"{run.flags.model.arch}, {parameters:.1f} M parameters, {run.flags.model.task}; "
        f"{train} images to train on ({counts}), {val} to validate"
    )
    run.say(
        f"{facts['processes']} process(es) on {facts['device']}, {facts['threads']} thread(s) "
        f"each, precision {facts['precision']}, backend {run.flags.data.backend}; "
        f"run in {run.flags.run.run_dir}"
    )
