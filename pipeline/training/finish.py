"""After the last epoch: the best model gets its final last layer, calibration and threshold.

The layer is fitted on train, the rest on validation, nothing on test. Repeated, it gives the same.
"""

from dataclasses import asdict, replace

import pandas as pd
import torch
from torch import nn

from pipeline.errors import DataError
from pipeline.learning.decision import Decision
from pipeline.learning.flags import Tta
from pipeline.learning.inference import Predictions, predict_logits
from pipeline.learning.refit import fit_layer, resampled, set_layer, without_head
from pipeline.learning.stored_model import ModelCard, load_stored, stored_files
from pipeline.loading.batch import Loader
from pipeline.training import checkpoints
from pipeline.training.epoch_end import EpochEnd
from pipeline.training.history import validation_metrics
from pipeline.training.processes import first_on_main, from_main
from pipeline.training.run import Run


def finish(
    run: Run,
    epoch_end: EpochEnd,
    val_loader: Loader,
    plain_train_loader: Loader | None,
    train: pd.DataFrame,
) -> None:
    """Refit the head where asked, then fit calibration and threshold, without and with ``--tta``.

    Without either, what the best epoch has fitted stands.

    Args:
        run: complete.
        epoch_end: of the validation split.
        val_loader: eval loader of the validation split.
        plain_train_loader: eval loader of the train split, for ``--refit-head``.
        train: samples of the train split.
    """
    first_on_main(epoch_end.settle, run.accelerator)
    decision, refit_head = run.flags.decision, run.flags.imbalance.refit_head
    if decision.tta == "none" and refit_head == "none":
        return
    model, card = best_of(run)
    if plain_train_loader is not None:
        refit(run, model, plain_train_loader, train)
        card = replace(card, refit_head=refit_head)
    fitted, roc_auc = fit(run, epoch_end, model, val_loader, "none")
    without_tta = None
    if decision.tta != "none":
        without_tta = asdict(fitted)
        fitted, roc_auc = fit(run, epoch_end, model, val_loader, decision.tta)
    card = replace(
        card,
        **asdict(fitted),
        without_tta=without_tta,
        target_sensitivity=decision.target_sensitivity,
        tta=decision.tta,
        val_roc_auc=roc_auc,
    )
    if run.accelerator.is_main_process:
        files = stored_files(model.state_dict(), card, run.stored.samples)
        if not checkpoints.write_best(run.flags.run.run_dir, card.step, files):
            raise DataError(
                f"{run.flags.run.run_dir / 'best'} is as the last epoch left it: make room there; "
                "the same command then fits the threshold again"
            )


def fit(
    run: Run, epoch_end: EpochEnd, model: nn.Module, loader: Loader, tta: Tta
) -> tuple[Decision, float]:
    """Return calibration and threshold of the final model on validation, and its ROC-AUC there."""
    found = predict(run, model, loader, f"validating, --tta {tta}", tta)
    logits = epoch_end.in_order(found)
    decision = epoch_end.decide(logits)
    metrics = validation_metrics(logits, epoch_end.dx_index, run.outputs)
    run.say(
        f"final validation ROC-AUC {metrics['val_roc_auc']:.4f} with --tta {tta}, "
        f"threshold {decision.threshold:.4f}"
    )
    return decision, metrics["val_roc_auc"]


def refit(run: Run, model: nn.Module, loader: Loader, train: pd.DataFrame) -> None:
    """Fit the last layer again on resampled features of the train split, without augmentation."""
    how, outputs = run.flags.imbalance.refit_head, run.outputs
    run.say(f"fitting the last layer again, --refit-head {how}")
    found = predict(run, without_head(model), loader, "features", "none")
    layer = None
    if run.accelerator.is_main_process:
        dx = train.set_index("image_id")["dx"].loc[list(found.image_ids)]
        target = outputs.targets(outputs.taxonomy.index(dx))
        balanced = resampled(found.logits, target, how, run.flags.run.seed)
        layer = fit_layer(*balanced, outputs=len(outputs.names))
    layer = from_main(layer, run.accelerator)
    assert layer is not None
    set_layer(model, *layer)


def predict(run: Run, model: nn.Module, loader: Loader, what: str, tta: Tta) -> Predictions:
    """Run ``model`` over ``loader`` with a progress bar that says ``what``."""
    return predict_logits(
        model,
        run.until_interrupted(loader.epoch(0)),
        accelerator=run.accelerator,
        tta=tta,
        progress=what,
        total=loader.batches_per_epoch,
    )


def best_of(run: Run) -> tuple[nn.Module, ModelCard]:
    """Return the best model on every rank's device, as rank 0 reads it, and its card.

    A second network, because an interrupted finish saves the one that was trained.
    """
    read = None
    if run.accelerator.is_main_process:
        model, card, _ = load_stored(run.flags.run.run_dir / "best")
        read = (dict(model.state_dict()), card)
    read = from_main(read, run.accelerator)
    assert read is not None
    state, card = read
    model = card.network()
    model.load_state_dict(state)
    return model.to(run.accelerator.device, memory_format=torch.channels_last), card  # type: ignore[call-overload]
