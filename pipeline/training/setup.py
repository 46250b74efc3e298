"""From flags and a table of samples to a ``Run`` that stands where an earlier start left it.

The order matters: what was saved is looked at first (rank 0 alone reads RUN), then the network is
made, and the saved state goes into it last.
"""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from torch import nn

from pipeline.errors import DataError, warn
from pipeline.files import tidy, write_file
from pipeline.ham10000.taxonomy import DX
from pipeline.learning.losses import Loss
from pipeline.learning.model import build_model
from pipeline.learning.optimizers import FrozenBackbone, MovingAverage, make_optimizer
from pipeline.learning.probability import CLASSES, task_targets
from pipeline.learning.stored_model import ModelCard
from pipeline.machine import git_revision, hardware, versions
from pipeline.tracking.tracker import Journal, group_of_run, make_tracker
from pipeline.tracking.views import Pictures
from pipeline.training import checkpoints
from pipeline.training.flags import TrainConfig, changed_flags
from pipeline.training.processes import Interruption, from_main
from pipeline.training.run import Run
from pipeline.training.state import TrainingState, seed_all


def prepare(
    config: TrainConfig,
    accelerator: Accelerator,
    *,
    train: pd.DataFrame,
    val: pd.DataFrame,
    manifest: Path,
    manifest_sha256: str,
    threads: int,
    pictures: Pictures | None = None,
) -> Run:
    """Return a run ready for its next step.

    Args:
        config: the flags.
        accelerator: of this process.
        train: samples of the train split (image_id, lesion_id, group, dx, label, split).
        val: samples of the validation split.
        manifest: the shards' manifest.json.
        manifest_sha256: its digest.
        threads: CPU threads of this process.
        pictures: gives images of the validation split, for the tracker.
    """
    interruption = Interruption()
    train, val = (table.assign(dx_index=table["dx"].map(DX.index)) for table in (train, val))
    check_classes(val)
    saved = from_main(
        open_run(config, accelerator, manifest_sha256) if accelerator.is_main_process else None,
        accelerator,
    )
    counts = np.bincount(
        task_targets(train["dx_index"].to_numpy(), config.task),
        minlength=len(CLASSES[config.task]),
    )
    state = make_state(config, accelerator, fresh=saved is None)
    if saved is not None:
        state.restore(saved)
    progress = state.progress
    progress.wandb_id = progress.wandb_id or from_main(uuid4().hex[:8], accelerator)
    facts = {**resolved(accelerator, threads=threads), "manifest_sha256": manifest_sha256}
    facts |= facts_of_run(config, counts)
    if accelerator.is_main_process:
        everything = {"flags": config.flags(), **facts}
        write_file(config.run_dir / "config.json", json.dumps(everything, indent=2) + "\n")
    run = Run(
        config=config,
        accelerator=accelerator,
        state=state,
        criterion=make_loss(config, counts, accelerator.device),
        frozen=FrozenBackbone(state.model, config.freeze_epochs),
        train=train,
        val=val,
        samples=pd.concat([train, val], ignore_index=True),
        card=first_card(config, manifest_sha256, facts["git_revision"]),
        target_of_dx=torch.from_numpy(task_targets(np.arange(len(DX)), config.task)).to(
            accelerator.device
        ),
        # on a CPU a look costs nothing; on a GPU it waits for the device
        look_every=1 if accelerator.device.type == "cpu" else config.log_steps,
        interruption=interruption,
        pictures=pictures,
    )
    tracker = make_tracker(
        config,
        run_id=progress.wandb_id,
        facts=facts,
        manifest=manifest,
        points=progress.points,
        main=accelerator.is_main_process,
    )
    run.journal = Journal(tracker, progress.points)
    announce(run, facts, len(train), len(val))
    return run


def resolved(accelerator: Accelerator, *, threads: int) -> dict[str, Any]:
    """Return what the flags came to on this machine."""
    return {
        "processes": accelerator.num_processes,
        "device": str(accelerator.device.type),
        "precision": accelerator.mixed_precision,
        "threads": threads,
        "versions": versions(),
        **hardware(),
    }


def facts_of_run(config: TrainConfig, counts: np.ndarray) -> dict[str, Any]:
    """Return what is kept of a run beside its flags; ``counts``: [K], of the train split."""
    return {
        "git_revision": git_revision(),
        "tracked_group": group_of_run(config),
        "train_counts": dict(zip(CLASSES[config.task], counts.tolist(), strict=True)),
    }


def make_loss(config: TrainConfig, counts: np.ndarray, device: torch.device) -> Loss:
    """Return the loss for classes that occur ``counts`` times ([K]) in the train split."""
    return Loss(
        config.loss,
        counts,
        weighting=config.weighting,
        focal_gamma=config.focal_gamma,
        label_smoothing=config.label_smoothing,
        device=device,
    )


def first_card(config: TrainConfig, manifest_sha256: str, git_revision: str) -> ModelCard:
    """Return what is known of the model before it is trained."""
    return ModelCard(
        arch=config.arch,
        task=config.task,
        classes=CLASSES[config.task],
        image_size=config.image_size,
        dropout=config.dropout,
        target_sensitivity=config.target_sensitivity,
        manifest_sha256=manifest_sha256,
        git_revision=git_revision,
        seed=config.seed,
    )


def check_classes(val: pd.DataFrame) -> None:
    """Refuse a validation split that no ROC-AUC can be computed on."""
    found = sorted(int(label) for label in val["label"].unique())
    if found != [0, 1]:
        raise DataError(
            f"the validation split has only the label(s) {found}, but ROC-AUC needs benign (0) "
            "and malignant (1) samples; pack the shards with a larger --val-fraction"
        )


def open_run(
    config: TrainConfig, accelerator: Accelerator, manifest_sha256: str
) -> dict[str, Any] | None:
    """Make RUN where it is absent, and return the state to go on from, if any (rank 0 only)."""
    run_dir = config.run_dir
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        for folder in (run_dir, run_dir / "checkpoints"):
            tidy(folder)
    except OSError as error:
        raise DataError(f"--run-dir {run_dir}: cannot be written ({error})") from error
    if config.resume == "never":
        aside = checkpoints.move_aside(run_dir)
        if aside:
            print(f"starting anew; what was in {run_dir} is in {aside} now", flush=True)
        return None
    found = checkpoints.find_checkpoint(run_dir, config.resume, processes=accelerator.num_processes)
    if found is None:
        return None
    state = found.state()
    check_unchanged(config, state, manifest_sha256, str(found.folder))
    checkpoints.drop_after(run_dir, found.step)
    print(
        f"resuming from {found.folder}: epoch {found.epoch}, batch {found.batch}, "
        f"step {found.step}",
        flush=True,
    )
    return state


def check_unchanged(
    config: TrainConfig, state: dict[str, Any], manifest_sha256: str, where: str
) -> None:
    """Refuse to go on with other flags or other shards, unless told to."""
    changed = changed_flags(state["flags"], config.flags())
    if state["manifest"] != manifest_sha256:
        changed.append(
            f"--shards: manifest {state['manifest'][:12]}... before, {manifest_sha256[:12]}... now"
        )
    if not changed:
        return
    if not config.allow_changes:
        raise DataError(
            f"{where} was trained with other flags: {'; '.join(changed)}. Give the same flags to "
            "go on, --allow-changes to go on with these, --resume never to start anew, or "
            "another --run-dir"
        )
    warn(f"going on with changed flags: {'; '.join(changed)}")


def make_state(config: TrainConfig, accelerator: Accelerator, *, fresh: bool) -> TrainingState:
    """Return network, average and optimizer, wrapped for this launch.

    Args:
        config: the flags.
        accelerator: of this process.
        fresh: whether the starting weights are needed; a resumed run has its own.
    """
    seed_all(config.seed)
    with accelerator.main_process_first():  # the weights may have to be fetched, once
        model = build_model(
            config.arch,
            len(CLASSES[config.task]),
            weights=config.weights if fresh else "none",
            dropout=config.dropout,
        )
    check_image_size(model, config)
    model = model.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if accelerator.device.type == "cuda" and accelerator.num_processes > 1:
        # batch statistics over all ranks; torch has this for GPUs only
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    average = MovingAverage(model, config.ema_decay) if config.ema_decay else None
    optimizer = make_optimizer(model, config.optimizer, lr=config.lr, weight_decay=config.decay)
    if config.compile:
        model.compile()
    network, optimizer = accelerator.prepare(model, optimizer)
    if average:
        average.follow(model)
    sums = torch.zeros(4, dtype=torch.float64, device=accelerator.device)
    return TrainingState(accelerator, model, network, average, optimizer, sums)


def check_image_size(model: nn.Module, config: TrainConfig) -> None:
    """Run one blank image through the network: some architectures take one size only."""
    blank = torch.zeros(1, 3, config.image_size, config.image_size)
    model.eval()
    try:
        with torch.inference_mode():
            model(blank)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise DataError(
            f"--arch {config.arch} does not take images of --image-size {config.image_size}: "
            f"{error}"
        ) from error
    model.train()


def announce(run: Run, facts: dict[str, Any], train: int, val: int) -> None:
    """Say in two lines what is about to be trained, on what, and where it goes."""
    parameters = sum(p.numel() for p in run.state.model.parameters()) / 1e6
    counts = ", ".join(f"{name} {count}" for name, count in facts["train_counts"].items())
    run.say(
        f"{run.config.arch}, {parameters:.1f} M parameters, {run.config.task}; "
        f"{train} images to train on ({counts}), {val} to validate"
    )
    run.say(
        f"{facts['processes']} process(es) on {facts['device']}, {facts['threads']} thread(s) "
        f"each, precision {facts['precision']}; run in {run.config.run_dir}"
    )
