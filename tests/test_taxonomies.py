"""A set of eleven classes from packing to comparison, and models that meet other classes."""

import json
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix

from pipeline.ham10000.taxonomy import load
from tests.conftest import TINY, checked

ELEVEN = load("milk10k").classes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def eleven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 220 synthetic images of MILK10k's eleven classes."""
    root = tmp_path_factory.mktemp("eleven")
    words = ["--taxonomy", "milk10k", "--images", "220", "--width", "64", "--height", "48"]
    checked(["-m", "pipeline.ham10000", "synthesize", "--out", root / "source", *words])
    words = ["--taxonomy", "milk10k", "--image-size", "32", "--samples-per-shard", "40"]
    source, out = root / "source", root / "shards"
    checked(["-m", "pipeline.shards", "build", "--source", source, "--out", out, *words])
    return out


def test_eleven_classes_from_packing_to_comparison(eleven, train, tmp_path, command):
    def judged(checkpoint: Path, out: Path) -> tuple[dict, pd.DataFrame]:
        words = ("--shards", eleven, "--resamples", "20", "--cases", "2", "--out", out)
        done = command("eval.py", "--checkpoint", checkpoint, *words)
        assert done.returncode == 0, done.stderr
        return json.loads((out / "metrics.json").read_text()), pd.read_csv(out / "predictions.csv")

    manifest = json.loads((eleven / "manifest.json").read_text())
    assert manifest["taxonomy"]["dx"] == list(ELEVEN)
    assert command("-m", "pipeline.shards", "verify", eleven).returncode == 0
    assert command("-m", "pipeline.shards", "stats", eleven).returncode == 0

    # a kill, a resume: the same weights as without
    flags = ("--shards", eleven, *TINY, "--task", "dx")
    killed = train(*flags, "--run-dir", tmp_path / "a", die=[0, "step", "*30"])
    assert killed.codes == [-9], killed.text
    resumed = train(*flags, "--run-dir", tmp_path / "a")
    straight = train(*flags, "--run-dir", tmp_path / "b")
    assert resumed.codes == straight.codes == [0], resumed.text + straight.text
    cards = [json.loads((tmp_path / run / "best/model.json").read_text()) for run in "ab"]
    assert cards[0]["weights_sha256"] == cards[1]["weights_sha256"]
    assert cards[0]["classes"] == list(ELEVEN) == cards[0]["taxonomy"]["dx"]

    # the report against scikit-learn
    metrics, table = judged(tmp_path / "a/best", tmp_path / "report")
    scores = table[[f"prob_{dx}" for dx in ELEVEN]].to_numpy()
    called = np.array(ELEVEN)[scores.argmax(axis=1)]
    expected = confusion_matrix(table["dx"], called, labels=ELEVEN)
    assert metrics["confusion_matrix_dx"] == expected.tolist()
    balanced = balanced_accuracy_score(table["dx"], called)
    assert metrics["balanced_accuracy_dx"] == pytest.approx(balanced)
    malignant = load("milk10k").malignant
    summed = table[[f"prob_{dx}" for dx in malignant]].sum(axis=1)
    assert np.allclose(table["prob_malignant"], summed)
    assert list(table["label"]) == [int(dx in malignant) for dx in table["dx"]]
    page = (tmp_path / "report/report.html").read_text()
    assert "sccka: squamous cell carcinoma or keratoacanthoma" in page

    # files of one's own, ONNX, and a comparison with another model of the same images
    photos = eleven.parent / "source/HAM10000_images_part_1"
    words = ("--checkpoint", tmp_path / "a/best", "--out", tmp_path / "predicted", photos)
    assert command("eval.py", "predict", *words).returncode == 0
    predicted = pd.read_csv(tmp_path / "predicted/predictions.csv")
    assert set(predicted["predicted_dx"]) <= set(ELEVEN)
    words = ("--checkpoint", tmp_path / "a/best", "--shards", eleven, "--onnx", tmp_path / "m.onnx")
    assert command("eval.py", "export", *words).returncode == 0
    exported = onnx.load(tmp_path / "m.onnx")
    card = json.loads({each.key: each.value for each in exported.metadata_props}["card"])
    assert card["taxonomy"]["dx"] == list(ELEVEN)
    assert exported.graph.output[0].type.tensor_type.shape.dim[1].dim_value == 11
    judged(tmp_path / "b/best", tmp_path / "other")
    words = (tmp_path / "report", tmp_path / "other", "--out", tmp_path / "compared")
    assert command("eval.py", "compare", *words).returncode == 0


def test_a_model_of_seven_classes_meets_eleven(eleven, packed, train, tmp_path, command):
    trained = train("--shards", packed, *TINY, "--task", "dx", "--run-dir", tmp_path / "run")
    assert trained.codes == [0], trained.text
    words = ("--shards", eleven, "--allow-leak", "--resamples", "20", "--cases", "2")
    out = tmp_path / "report"
    done = command("eval.py", "--checkpoint", tmp_path / "run/best", *words, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "other classes than the shards': judged at akiec as akiec, bcc as bcc" in done.stdout
    metrics, table = json.loads((out / "metrics.json").read_text()), out / "predictions.csv"
    table = pd.read_csv(table)
    shared = [dx for dx in ELEVEN if f"prob_{dx}" in table]
    assert shared == ["akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"]
    inside = table[table["dx"].isin(shared)]
    called = np.array(shared)[inside[[f"prob_{dx}" for dx in shared]].to_numpy().argmax(axis=1)]
    expected = confusion_matrix(inside["dx"], called, labels=shared)  # one class has no image here
    assert metrics["confusion_matrix_dx"] == expected.tolist()
    assert metrics["n"] == len(table) > len(inside)
    assert "The model’s classes are others than these shards’" in (out / "report.html").read_text()
