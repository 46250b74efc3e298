"""Runs of a cross-validation joined: each image judged once, by the model that did not see it.

python eval.py folds runs/fold0 runs/fold1 runs/fold2 --out reports/folds --ensemble runs/ensemble

Each run's ``validation_predictions.csv`` --> one pooled table --> OUT; runs of several seeds on one
split give each image the mean of their probabilities. ``--ensemble`` writes all of them as one
checkpoint, whose threshold is fitted on the pooled table.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from pipeline.errors import DataError, warn
from pipeline.evaluation.flags import FoldsFlags
from pipeline.evaluation.leak import refuse
from pipeline.evaluation.metrics.binary import binary_metrics, ones
from pipeline.evaluation.metrics.summary import summarise
from pipeline.evaluation.predictions import as_csv, read
from pipeline.evaluation.report.page import METRIC_NAMES, as_json, template, write_files
from pipeline.files import publish_folder, require_writable, writing
from pipeline.folders import utf8
from pipeline.learning.decision import choose_threshold, fit_prior_strength
from pipeline.learning.stored_model import (
    VALIDATION,
    ModelCard,
    card_values,
    load_stored,
    samples_csv,
    stored_files,
    stored_folder,
)
from pipeline.machine import git_revision
from pipeline.owner import sole_writer

SAME = ("task", "classes", "taxonomy", "image_size", "manifest_sha256")
"""What all runs must have in common."""

SPREAD = ("roc_auc", "pr_auc", "sensitivity", "specificity", "balanced_accuracy", "ece")
"""Figures that are given for each run."""


@dataclass(frozen=True)
class Member:
    """One run."""

    name: str
    model: nn.Module
    card: ModelCard
    samples: pd.DataFrame
    """Its train and validation samples."""
    validation: pd.DataFrame
    """Its predictions of the latter."""


def run(flags: FoldsFlags) -> None:
    """Join the runs; OUT is this process's alone."""
    if flags.ensemble:
        require_writable(flags.ensemble, "--ensemble")
    with sole_writer(flags.out, "--out"):
        join(flags)


def join(flags: FoldsFlags) -> None:
    """Pool the runs' predictions, judge them, write the report and the ensemble."""
    members = [open_member(path) for path in flags.runs]
    require_same(members)
    frame = pooled([member.validation for member in members])
    card = joint_card(members, frame)
    frame["predicted"] = (frame["prob_malignant"] >= card.threshold).astype(int)
    metrics = summarise(
        frame,
        card.taxonomy,
        threshold=card.threshold,
        decide=card.decide,
        resamples=flags.resamples,
        seed=flags.seed,
    )
    unjudged = len(set(pd.concat([m.samples for m in members])["image_id"]) - {*frame["image_id"]})
    metrics |= spread_of(members) | {"without_judgement": unjudged}
    metrics["provenance"] = {
        "checkpoint": ", ".join(member.name for member in members),
        "split": "validation of each run",
        "manifest_sha256": card.manifest_sha256,
        "threshold_source": "pooled validation",
        "leak": {"found": False},
        "git_revision": git_revision(),
    }
    page = template("folds.html.j2").render(
        metrics=metrics, spread={name: METRIC_NAMES[name] for name in SPREAD}
    )
    tables = {"predictions.csv": as_csv(frame), "metrics.json": as_json(metrics)}
    write_files(flags.out, {"report.html": page, **tables})
    tell(metrics, flags.out)
    if flags.ensemble:
        write_ensemble(flags.ensemble, members, card, frame)


def open_member(path: Path) -> Member:
    """Read a run's model and predictions; refuse those of images that it was trained on."""
    model, card, samples = load_stored(path)
    table = stored_folder(path) / VALIDATION
    if not table.is_file():
        raise DataError(
            f"{table} does not exist: its training was not finished, or by an earlier version; the "
            "same train.py command again writes it"
        )
    if card.tta != "none":
        raise DataError(
            f"{path} was fitted with --tta {card.tta}; runs are joined without test-time "
            "augmentation: run its train.py command again with --tta none"
        )
    validation = read(table, card.taxonomy)
    refuse(validation, pd.DataFrame(samples[samples["split"] == "train"]), str(table))
    expected = set(samples.loc[samples["split"] == "val", "image_id"])
    if set(validation["image_id"]) != expected or not validation["image_id"].is_unique:
        raise DataError(
            f"{table}: {len(validation):,} predictions, expected one of each of the "
            f"{len(expected):,} images that the model was validated on; train it again"
        )
    return Member(utf8(path), model, card, samples, validation)


def require_same(members: Sequence[Member]) -> None:
    """Refuse runs that do not answer the same question about the same shards."""
    for member in members[1:]:
        for name in SAME:
            values = [str(getattr(each.card, name)) for each in (members[0], member)]
            if values[0] != values[1]:
                raise DataError(
                    f"{members[0].name} has {name} {values[0]}, {member.name} has {values[1]}; "
                    "runs that are joined are of the same shards, task and image size"
                )


def pooled(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return one row an image: the mean of its probabilities in the tables that have it."""
    rows = pd.concat(tables, ignore_index=True)
    shares = [name for name in rows if name.startswith("prob_")]
    means = pd.DataFrame(rows.groupby("image_id")[shares].mean())
    frame = rows.drop_duplicates("image_id").set_index("image_id")
    frame[shares] = means.loc[frame.index]
    own = [name for name in frame if name.startswith(("adjusted_", "predicted_dx", "shard"))]
    return frame.drop(columns=own).reset_index()


def joint_card(members: Sequence[Member], frame: pd.DataFrame) -> ModelCard:
    """Return the card of all members as one; its decisions are fitted on the pooled ``frame``.

    The columns adjusted_CLASS are added to ``frame`` where the members have that decision.
    """
    first, label = members[0].card, frame["label"].to_numpy()
    prob = frame["prob_malignant"].to_numpy()
    card = replace(
        first,
        arch="ensemble",
        arch_args={},
        dropout=0.0,
        threshold=choose_threshold(prob, label, first.target_sensitivity),
        temperature=1.0,
        bias=0.0,
        val_roc_auc=float(binary_metrics(label, prob, label, ones(len(frame)))["roc_auc"][0]),
        members=tuple(card_values(member.card) for member in members),
    )
    if card.task == "dx" and card.class_prior:
        shares = frame[[f"prob_{name}" for name in card.classes]].to_numpy()
        truth = frame["dx"].map(card.classes.index).to_numpy()
        strength = fit_prior_strength(shares, truth, np.array(card.class_prior))
        card = replace(card, prior_strength=strength)
    if card.task == "dx":  # the logarithms are logits of just these probabilities
        logits = np.log(frame[[f"prob_{name}" for name in card.classes]].to_numpy())
        scores = card.scores(logits)
        added = [name for name in scores if name.startswith(("adjusted_", "predicted_dx"))]
        frame[added] = scores[added]
    return card


def spread_of(members: Sequence[Member]) -> dict:
    """Return the figures of each run at its own threshold, and their mean and deviation."""
    runs = []
    for member in members:
        columns = ("label", "prob_malignant", "predicted")
        label, prob, decided = (member.validation[name].to_numpy() for name in columns)
        found = binary_metrics(label, prob, decided, ones(len(label)))
        runs.append(
            {"run": member.name, "n": len(member.validation), "threshold": member.card.threshold}
            | {name: float(found[name][0]) for name in SPREAD}
        )
    spread = pd.DataFrame(runs)[[*SPREAD]].agg(["mean", "std", "min", "max"])
    return {"runs": runs, "spread": spread.rename(index={"std": "sd"}).to_dict()}


def tell(metrics: dict, out: Path) -> None:
    """Print the headlines."""
    if metrics["without_judgement"]:
        told = f"{metrics['without_judgement']:,} images of these shards are judged by no run"
        warn(f"{told}; give the runs of all folds")
    for name in SPREAD:
        low, high = metrics["ci95"][name] or (float("nan"), float("nan"))
        spread = metrics["spread"][name]
        print(
            f"{name:17s} {metrics[name]:.4f}  (95 %: {low:.4f} to {high:.4f})  "
            f"runs {spread['mean']:.4f} ± {spread['sd']:.4f}"
        )
    print(f"{metrics['n']:,} images; report: {out / 'report.html'}")


def write_ensemble(
    path: Path, members: Sequence[Member], card: ModelCard, frame: pd.DataFrame
) -> None:
    """Write all members as one stored model."""
    model = card.network()
    for part, member in zip(model.members, members, strict=True):  # type: ignore[arg-type]
        part.load_state_dict(member.model.state_dict())
    samples = pd.concat([member.samples for member in members]).drop_duplicates("image_id")
    files = stored_files(model.state_dict(), card, samples_csv(samples))
    files[VALIDATION] = as_csv(frame).encode()
    with writing(path):
        publish_folder(path, files)
    print(f"{len(members)} networks as one checkpoint, threshold {card.threshold:.4f}: {path}")
