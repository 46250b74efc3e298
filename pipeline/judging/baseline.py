"""What a simple model reaches on the same split: on age, sex and site, or on given features.

python eval.py baseline --shards shards/ham10000 --out reports/patient
python eval.py baseline --features dino.npz --shards shards/ham10000 --out reports/dino

OUT has metrics.json and predictions.csv in a report's form, for ``eval.py compare``.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.errors import DataError
from pipeline.evaluation.flags import BaselineFlags
from pipeline.evaluation.leak import LEVELS, overlap, refuse
from pipeline.evaluation.metrics.binary import ranking_metrics
from pipeline.evaluation.metrics.bootstrap import estimate
from pipeline.evaluation.metrics.summary import summarise
from pipeline.evaluation.predictions import as_csv, assemble
from pipeline.evaluation.report.page import as_json, write_files
from pipeline.ham10000.taxonomy import Taxonomy
from pipeline.judging.probe import linear_probe, patient_vectors
from pipeline.learning.stored_model import ModelCard
from pipeline.machine import git_revision
from pipeline.owner import sole_writer
from pipeline.shards.dataset import ShardSet, open_shards
from pipeline.shards.storage.object_store import cached

PATIENT = "age, sex and site"
SHOWN = ("roc_auc", "pr_auc")


def run(flags: BaselineFlags) -> None:
    """Fit on train and judge the split; OUT is this process's alone."""
    with sole_writer(flags.out, "--out"):
        judge(flags)


def judge(flags: BaselineFlags) -> None:
    """Fit on train, judge the split, write the files."""
    shards = open_shards(cached(flags.shards, flags.cache))
    split = shards.split(flags.split, flags.fold)
    samples, own = shards.samples, split.samples
    seen, name = None, PATIENT
    if flags.features:
        vectors, seen = read_features(flags.features, samples)
        name = flags.features.name
        if not flags.allow_leak:
            where = f"{flags.features}, judged on split {flags.split} of {flags.shards}"
            refuse(own, seen, where)
    else:
        vectors = patient_vectors(samples)
    card, frame = probe(name, vectors, samples, own, shards.taxonomy)
    metrics = summarise(
        frame,
        shards.taxonomy,
        threshold=card.threshold,
        temperature=card.temperature,
        bias=card.bias,
        labels=shards.manifest.labels,
        resamples=flags.resamples,
        seed=flags.seed,
    )
    leak = overlap(own, seen) if seen is not None else {}
    metrics["provenance"] = {
        "checkpoint": card.arch,
        "shards": str(flags.shards),
        "split": split.name if flags.fold is None else f"{split.name} (fold {flags.fold})",
        "manifest_sha256": shards.manifest_sha256,
        "threshold_source": "held-out folds of the train split",
        "leak": {"found": any(leak.values()), **leak},
        "git_revision": git_revision(),
    }
    files = {"predictions.csv": as_csv(frame), "metrics.json": as_json(metrics)}
    write_files(flags.out, files)
    low, high = metrics["ci95"]["roc_auc"]
    print(f"{card.arch}: ROC-AUC {metrics['roc_auc']:.4f} (95 %: {low:.4f} to {high:.4f})")
    print(f"{metrics['n']:,} images; for eval.py compare: {flags.out}")


def probe(
    name: str, vectors: np.ndarray, samples: pd.DataFrame, own: pd.DataFrame, taxonomy: Taxonomy
) -> tuple[ModelCard, pd.DataFrame]:
    """Return the card and the predictions table of a probe on ``vectors``, one a sample.

    ``samples`` are those of the whole set, ``own`` those of the judged split.
    """
    judged = samples["image_id"].isin(own["image_id"]).to_numpy()
    apart = ~samples["group"].isin(own["group"]).to_numpy()
    train = (samples["split"] == "train").to_numpy() & apart
    card, logits = linear_probe(name, vectors, samples, train, judged)
    ids, scores = samples["image_id"].to_numpy()[judged].tolist(), card.scores(logits)
    return card, assemble(own, ids, scores, taxonomy)


def beside(
    frame: pd.DataFrame, shards: ShardSet, own: pd.DataFrame, *, resamples: int, seed: int
) -> dict:
    """Return the entry ``baselines`` of metrics.json: what age, sex and site alone reach.

    With intervals, and those of the difference: the model's predictions ``frame`` of the samples
    ``own`` minus them. A note says why where nothing can be fitted.
    """
    samples = shards.samples
    try:
        _, other = probe(PATIENT, patient_vectors(samples), samples, own, shards.taxonomy)
    except DataError as error:
        return {"patient": {"name": PATIENT, "note": str(error)}}
    label, groups = frame["label"].to_numpy(), frame["group"].to_numpy()
    probabilities = [each["prob_malignant"].to_numpy() for each in (frame, other)]

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        ours, theirs = (ranking_metrics(label, p, weights) for p in probabilities)
        found = {key: theirs[key] for key in SHOWN}
        return found | {f"difference_{key}": ours[key] - theirs[key] for key in SHOWN}

    figures, bounds = estimate(statistic, groups, resamples=resamples, seed=seed)
    return {"patient": {"name": PATIENT, **figures, "ci95": bounds}}


def read_features(path: Path, samples: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame]:
    """Return vectors [N, F], one for each of ``samples``, and what their network was trained on.

    What ``eval.py features`` does not write, and an image without a vector, are a DataError.
    """
    expected = "expected a NumPy .npz with image_id [N] (text) and vectors [N, F] (numbers)"
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
        ids, vectors = found["image_id"].astype(str), found["vectors"].astype(np.float32)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: {error}; {expected}") from error
    if vectors.ndim != 2 or len(ids) != len(vectors) or len(set(ids)) != len(ids):
        raise DataError(
            f"{path}: {len(ids)} image_id, {len(set(ids))} different, vectors of shape "
            f"{vectors.shape}; {expected}, one vector an image"
        )
    rows = pd.Index(ids).get_indexer(pd.Index(samples["image_id"]))
    if (rows < 0).any():
        first = samples["image_id"].to_numpy()[rows < 0][0]
        raise DataError(
            f"{path}: {(rows < 0).sum():,} of the shards' {len(rows):,} images have no vector, the "
            f"first is {first}; a probe needs those of all splits"
        )
    if not np.isfinite(vectors[rows]).all():
        raise DataError(f"{path}: vectors have values that are not finite (NaN or infinite)")
    seen = {name: found.get(f"seen_{name}", np.zeros(0, str)) for name in LEVELS}
    return vectors[rows].astype(np.float64), pd.DataFrame(seen, dtype=str)
