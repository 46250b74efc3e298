"""After the last epoch: the best model gets its final last layer, calibration and threshold.

Everything is fitted on train (the layer) and validation (the rest), never on test. Done again, it
comes to the same.
"""

from dataclasses import asdict, replace
from typing import Any

import torch

from pipeline.learning.decision import Decision, decide
from pipeline.learning.inference import predict_logits
from pipeline.learning.model import Features, build_model
from pipeline.learning.probability import CLASSES, task_targets
from pipeline.learning.refit import fit_layer, linear_head, resampled, set_layer
from pipeline.learning.stored_model import ModelCard, load_stored, stored_files
from pipeline.training import checkpoints
from pipeline.training.history import validation_metrics
from pipeline.training.processes import from_main
from pipeline.training.run import Run


def finish(run: Run, val_loader: Any, train_loader: Any | None) -> None:
    """Refit the head where asked, then fit calibration and threshold, without and with ``--tta``.

    Without either, what the best epoch has fitted stands.

    Args:
        run: complete.
        val_loader: eval loader of the validation split.
        train_loader: eval loader of the train split, for ``--refit-head``.
    """
    config = run.config
    if config.tta == "none" and config.refit_head == "none":
        return
    model, card = best_of(run)
    if config.refit_head != "none":
        refit(run, model, train_loader)
        card = replace(card, refit_head=config.refit_head)
    card = replace(card, target_sensitivity=config.target_sensitivity, without_tta=None)
    decision, roc_auc = fitted(run, model, val_loader, "none")
    if config.tta != "none":
        card = replace(card, without_tta=asdict(decision))
        decision, roc_auc = fitted(run, model, val_loader, config.tta)
    card = replace(
        card,
        **asdict(decision),
        tta=config.tta,
        val_roc_auc=roc_auc,
    )
    if run.accelerator.is_main_process:
        files = stored_files(model.state_dict(), card, run.samples)
        checkpoints.write_best(config.run_dir, card.step, files)


def fitted(run: Run, model: torch.nn.Module, loader: Any, tta: str) -> tuple[Decision, float]:
    """Return calibration and threshold of the final model on validation, and its ROC-AUC there."""
    config = run.config
    predictions = predict_logits(
        model,
        run.until_interrupted(loader.epoch(0)),
        accelerator=run.accelerator,
        tta=tta,
        progress=f"validating, --tta {tta}",
        total=loader.batches_per_epoch,
    )
    logits = run.in_order(predictions)
    decision = decide(
        logits,
        run.val["label"].to_numpy(),
        task=config.task,
        calibrate=config.calibrate,
        target_sensitivity=config.target_sensitivity,
    )
    metrics = validation_metrics(logits, run.val["dx_index"].to_numpy(), config.task)
    run.say(
        f"final validation ROC-AUC {metrics['val_roc_auc']:.4f} with --tta {tta}, "
        f"threshold {decision.threshold:.4f}"
    )
    return decision, metrics["val_roc_auc"]


def refit(run: Run, model: torch.nn.Module, loader: Any) -> None:
    """Fit the last layer again on resampled features of the train split, plainly preprocessed."""
    config = run.config
    run.say(f"fitting the last layer again, --refit-head {config.refit_head}")
    linear_head(model)
    found = predict_logits(
        Features(model),
        run.until_interrupted(loader.epoch(0)),
        accelerator=run.accelerator,
        progress="features",
        total=loader.batches_per_epoch,
    )
    layer = None
    if run.accelerator.is_main_process:
        dx_of = run.train.set_index("image_id")["dx_index"]
        target = task_targets(dx_of.loc[list(found.image_ids)].to_numpy(), config.task)
        balanced = resampled(found.logits, target, config.refit_head, config.seed)
        layer = fit_layer(*balanced, outputs=len(CLASSES[config.task]))
    layer = from_main(layer, run.accelerator)
    assert layer is not None
    set_layer(model, *layer)


def best_of(run: Run) -> tuple[torch.nn.Module, ModelCard]:
    """Return the best model on every rank's device, as rank 0 reads it, and its card.

    It is another network than the one that was trained: an interrupted finish saves that one.
    """
    read = None
    if run.accelerator.is_main_process:
        model, card, _ = load_stored(run.config.run_dir / "best")
        read = (dict(model.state_dict()), card)
    read = from_main(read, run.accelerator)
    assert read is not None
    state, card = read
    model = build_model(card.arch, len(card.classes), dropout=card.dropout)
    model.load_state_dict(state)
    return model.to(run.accelerator.device, memory_format=torch.channels_last), card  # type: ignore[call-overload]
