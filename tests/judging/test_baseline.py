"""``eval.py baseline`` and ``features``: linear probes under the same splits as a model."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from pipeline.errors import DataError
from pipeline.judging.baseline import read_features
from pipeline.judging.probe import linear_probe, patient_vectors

FEW = ("--resamples", "20")


@pytest.fixture
def samples():
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1], [300, 100])
    return pd.DataFrame(
        {
            "image_id": [f"i{k}" for k in range(400)],
            "group": [f"g{k // 2}" for k in range(400)],
            "label": label,
            "split": np.where(np.arange(400) % 4 < 2, "train", "test"),
            "age": np.where(rng.random(400) < 0.1, np.nan, 40 + 25 * label + rng.normal(0, 8, 400)),
            "sex": rng.choice(["male", "female", "unknown"], 400),
            "localization": rng.choice(["back", "face"], 400),
        }
    )


def test_age_sex_and_site_are_used_and_a_missing_age_is_no_age(samples):
    vectors = patient_vectors(samples)
    assert vectors.shape == (400, 2 + 3 + 2) and np.isfinite(vectors).all()
    train = (samples["split"] == "train").to_numpy()
    card, logits = linear_probe("age", vectors, samples, train, ~train)
    scores = card.scores(logits)
    label = samples["label"].to_numpy()[~train]
    assert roc_auc_score(label, scores["prob_malignant"]) > 0.9
    # what is judged has no part in the fit
    changed = samples.assign(label=np.where(train, samples["label"], 1 - samples["label"]))
    again, others = linear_probe("age", vectors, changed, train, ~train)
    np.testing.assert_array_equal(others, logits)
    assert again == card


def test_a_probe_on_pure_noise_finds_nothing(samples):
    noise = np.random.default_rng(1).normal(size=(400, 30))
    train = (samples["split"] == "train").to_numpy()
    card, logits = linear_probe("noise", noise, samples, train, ~train)
    label = samples["label"].to_numpy()[~train]
    assert abs(roc_auc_score(label, card.scores(logits)["prob_malignant"]) - 0.5) < 0.15


@pytest.mark.slow
def test_features_of_a_checkpoint_are_probed_and_compared(train, tiny, packed, command, tmp_path):
    assert train(*tiny, "--epochs", "1", "--run-dir", tmp_path / "run").codes == [0]
    vectors = tmp_path / "features" / "run.npz"
    where = ("--shards", packed, "--out", vectors, "--threads", "1")
    done = command("eval.py", "features", "--checkpoint", tmp_path / "run", *where)
    assert done.returncode == 0, done.stderr
    samples = pd.read_csv(packed / "samples.csv")
    with np.load(vectors, allow_pickle=False) as file:
        assert sorted(file["image_id"]) == sorted(samples["image_id"])
        assert file["vectors"].shape == (len(samples), 1024) and file["vectors"].std() > 0
    probe = ("eval.py", "baseline", "--shards", packed, *FEW)
    for name, flags in (("probe", ("--features", vectors)), ("patient", ())):
        done = command(*probe, *flags, "--out", tmp_path / name)
        assert done.returncode == 0, done.stderr
        metrics = json.loads((tmp_path / name / "metrics.json").read_text())
        table = pd.read_csv(tmp_path / name / "predictions.csv")
        assert metrics["n"] == len(table) == (samples["split"] == "test").sum()
        area = roc_auc_score(table["label"], table["prob_malignant"])
        assert metrics["roc_auc"] == pytest.approx(area)
    both = (tmp_path / "probe", tmp_path / "patient", "--out", tmp_path / "both")
    done = command("eval.py", "compare", *both, *FEW)
    assert done.returncode == 0 and "ROC-AUC" in done.stdout, done.stderr
    done = command(*probe, "--features", vectors, "--split", "val", "--out", tmp_path / "leak")
    assert done.returncode == 2 and "trained or chosen on part of it" in done.stderr


def test_features_that_do_not_fit_the_shards_are_refused(samples, tmp_path):
    path = tmp_path / "x.npz"
    with pytest.raises(DataError, match=r"x\.npz.*expected a NumPy"):
        read_features(path, samples)
    np.savez(path, image_id=samples["image_id"].to_numpy(str)[1:], vectors=np.ones((399, 3)))
    with pytest.raises(DataError, match=r"1 of the shards' 400 images have no vector.*i0"):
        read_features(path, samples)
    np.savez(path, image_id=samples["image_id"].to_numpy(str), vectors=np.full((400, 3), np.nan))
    with pytest.raises(DataError, match="not finite"):
        read_features(path, samples)
    np.savez(path, image_id=samples["image_id"].to_numpy(str), vectors=np.ones(400))
    with pytest.raises(DataError, match="one vector an image"):
        read_features(path, samples)
