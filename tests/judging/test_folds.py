"""``eval.py folds``: a cross-validation joined, and an ensemble as one checkpoint."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from pipeline.learning.stored_model import load_stored

QUICK = ("--resamples", "20", "--cases", "1", "--threads", "1")


@pytest.fixture(scope="module")
def folds(tmp_path_factory, synthetic_source, command, train, tiny):
    """Shards in two folds with a test split, and a run on each fold."""
    place = tmp_path_factory.mktemp("folds")
    where = ("--source", synthetic_source, "--out", place / "shards", "--image-size", "48")
    done = command("-m", "pipeline.shards", "build", *where, "--folds", "2", "--workers", "1")
    assert done.returncode == 0, done.stderr
    for fold in (0, 1):
        flags = ("--shards", place / "shards", "--fold", str(fold), "--epochs", "1")
        outcome = train(*tiny, *flags, "--run-dir", place / f"run{fold}")
        assert outcome.codes == [0], outcome.text
    return place


@pytest.fixture(scope="module")
def joined(folds, command):
    words = ("folds", folds / "run0", folds / "run1", "--resamples", "20")
    done = command("eval.py", *words, "--out", folds / "out", "--ensemble", folds / "ensemble")
    assert done.returncode == 0, done.stderr
    return folds


def test_each_image_is_judged_once_by_the_run_that_did_not_train_on_it(joined):
    samples = pd.read_csv(joined / "shards" / "samples.csv", index_col="image_id")
    table = pd.read_csv(joined / "out" / "predictions.csv", index_col="image_id")
    assert sorted(table.index) == sorted(samples.index[samples["split"] != "test"])
    for fold in (0, 1):
        best = joined / f"run{fold}" / "best"
        known = pd.read_csv(best / "training_samples.csv", index_col="image_id")["split"]
        own = pd.read_csv(best / "validation_predictions.csv", index_col="image_id")
        assert (known.loc[own.index] == "val").all()
        expected = table.loc[own.index, "prob_malignant"]
        np.testing.assert_allclose(own["prob_malignant"], expected, rtol=1e-12)
    metrics = json.loads((joined / "out" / "metrics.json").read_text())
    assert metrics["roc_auc"] == pytest.approx(
        roc_auc_score(table["label"], table["prob_malignant"])
    )
    areas = [each["roc_auc"] for each in metrics["runs"]]
    assert metrics["spread"]["roc_auc"]["sd"] == pytest.approx(np.std(areas, ddof=1))
    assert metrics["ci95"]["roc_auc"] and (joined / "out" / "report.html").is_file()


def test_an_ensemble_gives_the_mean_of_its_members_calibrated_probabilities(joined):
    images, found = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0)), {}
    for name in ("run0", "run1", "ensemble"):
        model, card, _ = load_stored(joined / name)
        with torch.inference_mode():
            found[name] = card.scores(model(images).numpy())["prob_malignant"]
    np.testing.assert_allclose(found["ensemble"], (found["run0"] + found["run1"]) / 2, atol=1e-6)
    assert (found["run0"] - found["run1"]).abs().max() > 1e-4


@pytest.mark.slow
def test_an_ensemble_is_one_checkpoint_for_every_command(joined, command):
    tables = {}
    for name in ("run0", "run1", "ensemble"):
        where = ("--checkpoint", joined / name, "--shards", joined / "shards")
        done = command("eval.py", *where, "--out", joined / f"test-{name}", *QUICK)
        assert done.returncode == 0, done.stderr
        tables[name] = pd.read_csv(joined / f"test-{name}" / "predictions.csv")["prob_malignant"]
    mean = (tables["run0"] + tables["run1"]) / 2
    np.testing.assert_allclose(tables["ensemble"], mean, atol=1e-6)
    pooled = json.loads((joined / "out" / "metrics.json").read_text())
    judged = json.loads((joined / "test-ensemble" / "metrics.json").read_text())
    assert judged["threshold"] == pooled["threshold"]
    image = next(iter((joined / "shards").parent.parent.glob("*/synthetic/**/*.jpg")))
    where = ("--checkpoint", joined / "ensemble")
    done = command("eval.py", "predict", *where, "--out", joined / "loose", image)
    assert done.returncode == 0, done.stderr
    images = ("--shards", joined / "shards", "--images", "3", "--onnx", joined / "both.onnx")
    done = command("eval.py", "export", *where, *images)
    assert done.returncode == 0, done.stderr


def test_an_ensemble_is_not_judged_on_what_any_member_saw(joined, command):
    where = ("--checkpoint", joined / "ensemble", "--shards", joined / "shards", *QUICK)
    done = command("eval.py", *where, "--split", "val", "--fold", "0", "--out", joined / "leak")
    assert done.returncode == 2 and "--allow-leak" in done.stderr


def test_runs_that_cannot_be_joined_are_refused(joined, command, tmp_path):
    shutil.copytree(joined / "run0" / "best", tmp_path / "cut")
    (tmp_path / "cut" / "validation_predictions.csv").unlink()
    done = command("eval.py", "folds", tmp_path / "cut", joined / "run1", "--out", tmp_path / "o")
    assert done.returncode == 2 and "validation_predictions.csv does not exist" in done.stderr
    shutil.copytree(joined / "run0" / "best", tmp_path / "leaked")
    shutil.copy(
        joined / "run1" / "best" / "validation_predictions.csv",
        tmp_path / "leaked" / "validation_predictions.csv",
    )
    where = (tmp_path / "leaked", joined / "run1", "--out", tmp_path / "o")
    done = command("eval.py", "folds", *where)
    assert done.returncode == 2 and "trained or chosen on part of it" in done.stderr
    assert not (tmp_path / "o").exists()
