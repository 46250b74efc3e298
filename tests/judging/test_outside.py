"""A checkpoint on shards that it was not made from: the drop, and recalibration."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from pipeline.judging.outside import drop, recalibration

QUICK = ("--resamples", "20", "--cases", "1", "--threads", "1")


def predictions(n: int, seed: int, *, shift: float = 0.0) -> pd.DataFrame:
    """Predictions that are calibrated but for ``shift`` of the log-odds; 2 images a lesion."""
    rng = np.random.default_rng(seed)
    log_odds = rng.normal(-1, 1.5, n)
    label = (rng.random(n) < 1 / (1 + np.exp(-log_odds))).astype(int)
    prob = 1 / (1 + np.exp(-log_odds - shift))
    return pd.DataFrame(
        {
            "label": label,
            "prob_malignant": prob,
            "predicted": (prob >= 0.4).astype(int),
            "group": [f"g{k // 2}" for k in range(n)],
        }
    )


def test_the_drop_is_the_difference_of_the_figures_of_both_sets():
    there, here = predictions(600, 0), predictions(900, 1, shift=-1.5)
    found = drop(here, there, resamples=200, seed=0)
    areas = [roc_auc_score(t["label"], t["prob_malignant"]) for t in (there, here)]
    entry = found["figures"]["roc_auc"]
    assert [entry["validation"], entry["here"]] == pytest.approx(areas)
    assert entry["difference"] == pytest.approx(areas[1] - areas[0])
    assert entry["ci95"][0] < entry["difference"] < entry["ci95"][1]
    _, high = found["figures"]["sensitivity"]["ci95"]
    assert high < 0  # probabilities are too low here: fewer are found at the threshold
    assert found["figures"]["ece"]["ci95"][0] > 0
    same = drop(there, there, resamples=200, seed=0)["figures"]["roc_auc"]
    assert same["difference"] == 0 and same["ci95"][0] < 0 < same["ci95"][1]


def test_recalibration_on_more_cases_mends_a_shift():
    curve = recalibration(predictions(900, 1, shift=-1.5), seed=0)
    assert [entry["cases"] for entry in curve] == [0, 25, 50, 100, 200, 400]
    assert curve[0]["ece"] > 0.15 and curve[-1]["ece"] < curve[0]["ece"] / 2
    assert curve[-1]["brier"] < curve[0]["brier"]
    low, high = curve[-1]["ece_bounds"]
    assert low <= curve[-1]["ece"] <= high
    assert [entry["cases"] for entry in recalibration(predictions(40, 0), seed=0)] == [0]


@pytest.fixture(scope="module")
def model(tmp_path_factory, train, tiny):
    """``model("dx")`` or ``model("binary")`` is the run of a small model."""
    place = tmp_path_factory.mktemp("models")

    def run(task: str) -> Path:
        if not (place / task).exists():
            flags = ("--epochs", "1", "--task", task, "--run-dir", place / task)
            assert train(*tiny, *flags).codes == [0]
        return place / task

    return run


@pytest.fixture(scope="module")
def outside(tmp_path_factory, synthetic_source, command):
    """Shards of which only benign and malignant are known, all in the test split."""
    place = tmp_path_factory.mktemp("outside")
    made = place / "made"
    words = ("--out", made, "--images", "60", "--seed", "9")
    done = command("-m", "pipeline.ham10000", "synthesize", *words)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(made / "HAM10000_metadata.csv")
    paths = {path.stem: path for path in made.rglob("*.jpg")}
    (place / "own").mkdir()
    for name in table["image_id"]:
        (place / "own" / f"out_{name}.jpg").write_bytes(paths[name].read_bytes())
    own = pd.DataFrame({"image_id": "out_" + table["image_id"], "age": table["age"]})
    own["label"] = table["dx"].isin(["mel", "bcc", "akiec"]).astype(int)
    own.to_csv(place / "own" / "own.csv", index=False)
    where = ("--source", place / "own", "--out", place / "shards", "--image-size", "48")
    flags = ("--val-fraction", "0.1", "--test-fraction", "0.8", "--workers", "1")
    done = command("-m", "pipeline.shards", "build", *where, *flags)
    assert done.returncode == 0, done.stderr
    return place / "shards"


@pytest.mark.parametrize("task", ["dx", pytest.param("binary", marks=pytest.mark.slow)])
def test_a_model_is_judged_on_labels_alone(task, model, outside, command, tmp_path):
    where = ("--checkpoint", model(task), "--shards", outside, "--out", tmp_path / "report")
    done = command("eval.py", *where, *QUICK)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert "balanced_accuracy_dx" not in metrics and "dx" not in metrics["errors"]
    assert metrics["recall_mel"] is None
    best = model(task) / "best"
    own = pd.read_csv(best / "validation_predictions.csv")
    there = metrics["drop"]["figures"]["roc_auc"]["validation"]
    assert there == pytest.approx(roc_auc_score(own["label"], own["prob_malignant"]))
    assert metrics["recalibration"][0]["cases"] == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Against its own validation" in page
    assert (tmp_path / "report" / "recalibration.png").is_file()


def test_a_model_is_judged_on_a_set_that_grew_from_its_own_as_on_its_own(
    model, packed, command, tmp_path
):
    words = ("--out", tmp_path / "made", "--images", "20", "--seed", "9")
    assert command("-m", "pipeline.ham10000", "synthesize", *words).returncode == 0
    table = pd.read_csv(tmp_path / "made" / "HAM10000_metadata.csv")
    for path in (tmp_path / "made").rglob("*.jpg"):
        path.rename(path.with_name(f"new_{path.name}"))
    table.assign(image_id="new_" + table["image_id"]).to_csv(
        tmp_path / "made" / "HAM10000_metadata.csv", index=False
    )
    where = ("--source", tmp_path / "made", "--out", tmp_path / "grown", "--workers", "1")
    done = command("-m", "pipeline.shards", "build", *where, "--base", packed)
    assert done.returncode == 0, done.stderr

    scores, said = {}, {}
    for name, shards in {"own": packed, "grown": tmp_path / "grown"}.items():
        where = ("--checkpoint", model("dx"), "--shards", shards, "--out", tmp_path / name)
        done = command("eval.py", *where, *QUICK)
        assert done.returncode == 0, done.stderr
        scores[name] = pd.read_csv(tmp_path / name / "predictions.csv")
        said[name] = done.stdout
    assert scores["own"][["image_id", "prob_malignant"]].equals(
        scores["grown"][["image_id", "prob_malignant"]]
    )
    digest = hashlib.sha256((packed / "manifest.json").read_bytes()).hexdigest()
    words = f"test split is that of base {digest[:12]}"
    assert words in said["grown"] and "base" not in said["own"]
    metrics = json.loads((tmp_path / "grown" / "metrics.json").read_text())
    assert metrics["provenance"]["base"] == words
    assert "recalibration" not in metrics and not metrics["provenance"]["leak"]["found"]
    assert digest in (tmp_path / "grown" / "report.html").read_text()


@pytest.mark.slow
def test_a_binary_model_is_judged_on_diagnoses(model, packed, command, tmp_path):
    where = ("--checkpoint", model("binary"), "--shards", packed, "--out", tmp_path / "report")
    done = command("eval.py", *where, *QUICK)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert "balanced_accuracy_dx" not in metrics and "dx" in metrics["errors"]
    assert "recalibration" not in metrics  # its own shards
    entry = metrics["baselines"]["patient"]
    assert "note" in entry or entry["ci95"]["difference_roc_auc"]
