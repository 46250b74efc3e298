"""After the last epoch: the best model gets its final last layer, calibration and decisions.

The layer is fitted on train, the rest on validation, nothing on test. Repeated, it gives the same.
"""

from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import torch
from torch import nn

from pipeline.errors import DataError, warn
from pipeline.files import write_file
from pipeline.learning.decision import Decision, fit_prior_strength
from pipeline.learning.flags import Tta
from pipeline.learning.inference import Predictions, predict_logits
from pipeline.learning.probability import class_probabilities
from pipeline.learning.refit import fit_layer, resampled, set_layer, without_head
from pipeline.learning.stored_model import VALIDATION, ModelCard, load_stored, stored_files
from pipeline.loading.batch import Loader
from pipeline.training import checkpoints
from pipeline.training.epoch_end import EpochEnd
from pipeline.training.history import validation_metrics
from pipeline.training.processes import first_on_main, from_main
from pipeline.training.run import Run

STANDS = ("binary", "none", "none")
"""Task, --tta and --refit-head with which what the best epoch has fitted stands."""


def finish(
    run: Run,
    epoch_end: EpochEnd,
    val_loader: Loader,
    plain_train_loader: Loader | None,
    train: pd.DataFrame,
) -> None:
    """Fit what is fitted last, and put the predictions of the validation split beside the model.

    ``run`` is complete. ``plain_train_loader``, an eval loader of the train split with samples
    ``train``, is for ``--refit-head``.
    """
    first_on_main(epoch_end.settle, run.accelerator)
    best, flags = run.flags.run.run_dir / "best", run.flags
    stands = (flags.model.task, flags.decision.tta, flags.imbalance.refit_head) == STANDS
    if stands and from_main((best / VALIDATION).is_file(), run.accelerator):
        return
    model, card = best_of(run)
    if stands:
        logits = epoch_end.in_order(predict(run, model, val_loader, "validating", "none"))
    else:
        if plain_train_loader is not None:
            refit(run, model, plain_train_loader, train)
        card, logits = fit_all(run, epoch_end, model, card, val_loader, train)
    if run.accelerator.is_main_process:
        table = pd.concat([epoch_end.val, card.scores(logits)], axis=1)
        predictions = table.to_csv(index=False, lineterminator="\n").encode()
        publish(run, model, card, predictions, whole=not stands)


def fit_all(
    run: Run,
    epoch_end: EpochEnd,
    model: nn.Module,
    card: ModelCard,
    loader: Loader,
    train: pd.DataFrame,
) -> tuple[ModelCard, np.ndarray]:
    """Return the card with all that is fitted on validation, and the logits [N, K] there."""
    tta, without_tta = run.flags.decision.tta, None
    card = replace(card, refit_head=run.flags.imbalance.refit_head)
    if card.task == "dx":
        # plus one: a class may be missing, and no share may be zero
        counts = train["dx"].value_counts().reindex(list(card.classes), fill_value=0) + 1
        prior = tuple((counts / counts.sum()).to_list())
        card = replace(card, decide=run.flags.decision.decide, class_prior=prior)
    fitted, roc_auc, logits = fit(run, epoch_end, model, card, loader, "none")
    if tta != "none":
        without_tta = {k: v for k, v in asdict(fitted).items() if v is not None}
        fitted, roc_auc, logits = fit(run, epoch_end, model, card, loader, tta)
    card = replace(
        card,
        **asdict(fitted),
        without_tta=without_tta,
        target_sensitivity=run.flags.decision.target_sensitivity,
        tta=tta,
        val_roc_auc=roc_auc,
    )
    return card, logits


def publish(
    run: Run, model: nn.Module, card: ModelCard, predictions: bytes, *, whole: bool
) -> None:
    """Write RUN/best anew, or only (not ``whole``) the predictions of its validation split."""
    best = run.flags.run.run_dir / "best"
    if whole:
        files = stored_files(model.state_dict(), card, run.stored.samples)
        files[VALIDATION] = predictions
        if not checkpoints.write_best(run.flags.run.run_dir, card.step, files):
            raise DataError(
                f"{best} is as the last epoch left it: make room there; "
                "the same command then fits the threshold again"
            )
        return
    try:
        write_file(best.resolve() / VALIDATION, predictions)
    except OSError as error:
        warn(f"{best / VALIDATION} could not be written: {error}")


def fit(
    run: Run, epoch_end: EpochEnd, model: nn.Module, card: ModelCard, loader: Loader, tta: Tta
) -> tuple[Decision, float, np.ndarray]:
    """Return what was fitted on validation, the ROC-AUC there and the logits [N, K]."""
    found = predict(run, model, loader, f"validating, --tta {tta}", tta)
    logits = epoch_end.in_order(found)
    decision = epoch_end.decide(logits)
    if card.task == "dx":
        shares = class_probabilities(logits, run.outputs, decision.temperature, decision.bias)
        strength = fit_prior_strength(shares, epoch_end.dx_index, np.array(card.class_prior))
        decision = replace(decision, prior_strength=strength)
    metrics = validation_metrics(logits, epoch_end.dx_index, run.outputs)
    run.say(
        f"final validation ROC-AUC {metrics['val_roc_auc']:.4f} with --tta {tta}, "
        f"threshold {decision.threshold:.4f}"
    )
    return decision, metrics["val_roc_auc"], logits


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
