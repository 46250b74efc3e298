"""``eval.py submit``: the ISIC challenges' form, the decision by prior, and the official scorer."""

import csv
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.errors import DataError
from pipeline.judging.submit import form_of

SEVEN = ["MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"]
QUICK = ("--resamples", "20", "--cases", "1", "--threads", "1")

UV = Path(sys.executable).with_name("uv")


@pytest.fixture(scope="module")
def run(tmp_path_factory, train, tiny):
    """A model of the diagnoses, decided by prior."""
    folder = tmp_path_factory.mktemp("dx") / "run"
    flags = ("--epochs", "1", "--task", "dx", "--decide", "prior", "--class-weights", "none")
    outcome = train(*tiny, "--run-dir", folder, *flags)
    assert outcome.codes == [0], outcome.text
    return folder


@pytest.fixture(scope="module")
def report(run, packed, command, tmp_path_factory):
    out = tmp_path_factory.mktemp("reports") / "dx"
    done = command("eval.py", "--checkpoint", run, "--shards", packed, "--out", out, *QUICK)
    assert done.returncode == 0, done.stderr
    return out


def test_the_submission_holds_the_probabilities_that_the_report_decides_by(
    run, report, packed, command, tmp_path
):
    out = tmp_path / "new" / "submission.csv"
    where = ("--checkpoint", run, "--shards", packed, "--out", out, "--threads", "1")
    done = command("eval.py", "submit", *where)
    assert done.returncode == 0, done.stderr
    found = pd.read_csv(out, index_col="image")
    assert list(found.columns) == SEVEN
    np.testing.assert_allclose(found.sum(axis=1), 1)
    table = pd.read_csv(report / "predictions.csv", index_col="image_id").loc[found.index]
    assert (found.idxmax(axis=1).str.lower() == table["predicted_dx"]).all()
    card = json.loads((run / "best" / "model.json").read_text())
    calibrated = table[[f"prob_{name}" for name in card["classes"]]].to_numpy()
    divided = calibrated / np.array(card["class_prior"]) ** card["prior_strength"]
    divided /= divided.sum(axis=1, keepdims=True)
    ours = found[[name.upper() for name in card["classes"]]].to_numpy()
    np.testing.assert_allclose(ours, divided, rtol=1e-9)


def test_the_report_has_both_decisions_and_the_malignant_probability_stays(report):
    metrics = json.loads((report / "metrics.json").read_text())
    table = pd.read_csv(report / "predictions.csv")
    assert metrics["decide"] == "prior"
    assert metrics["balanced_accuracy_dx"] == metrics["balanced_accuracy_dx_prior"]
    probabilities = table.filter(regex="^prob_(akiec|bcc|bkl|df|mel|nv|vasc)$")
    called = probabilities.idxmax(axis=1).str.removeprefix("prob_")
    recalls = [(called[table["dx"] == dx] == dx).mean() for dx in table["dx"].unique()]
    assert metrics["balanced_accuracy_dx_argmax"] == pytest.approx(np.mean(recalls))
    malignant = probabilities[["prob_akiec", "prob_bcc", "prob_mel"]].sum(axis=1)
    np.testing.assert_allclose(table["prob_malignant"], malignant)
    assert "Balanced accuracy either way" in (report / "report.html").read_text()


def test_the_form_follows_the_classes():
    assert form_of([name.lower() for name in SEVEN])[1] == tuple(SEVEN)
    eight = ["mel", "nv", "bcc", "ak", "bkl", "df", "vasc", "scc"]
    assert form_of(eight)[1] == (*(name.upper() for name in eight), "UNK")
    with pytest.raises(DataError, match=r"benign, malignant.*--task dx"):
        form_of(["benign", "malignant"])


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    """The official scorer, in an environment of its own."""
    place = tmp_path_factory.mktemp("scorer") / "venv"
    made = subprocess.run(
        [UV, "venv", "-q", "--python", "3.11", place], capture_output=True, text=True, check=False
    )
    packages = ["isic-challenge-scoring==5.6.0", "pandas<3"]
    words = [UV, "pip", "install", "-q", "--python", place / "bin" / "python", *packages]
    if made.returncode == 0:
        made = subprocess.run(words, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"the official scorer cannot be installed here: {made.stderr[-200:]}")
    return place / "bin" / "isic-challenge-scoring"


def official_twin(source: Path, out: Path) -> Path:
    """Real images as HAM10000 with the official test set of 200; returns its ground truth."""
    table = pd.read_csv(source / "HAM10000_metadata.csv").drop_duplicates("lesion_id")
    shuffled = table.sample(frac=1, random_state=0)
    test = pd.concat([shuffled.groupby("dx").head(5), shuffled]).drop_duplicates().head(200)
    known = shuffled.drop(test.index).groupby("dx").head(30)
    out.mkdir()
    known.to_csv(out / "HAM10000_metadata.csv", index=False)
    truth = out / "ISIC2018_Task3_Test_GroundTruth.csv"
    with truth.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", *SEVEN])
        for image, dx in zip(test["image_id"], test["dx"], strict=True):
            rows.writerow([image, *(float(name == dx.upper()) for name in SEVEN)])
    parts = [zipfile.ZipFile(path) for path in sorted(source.glob("HAM10000_images_part_*.zip"))]
    where = {Path(name).stem: (part, name) for part in parts for name in part.namelist()}
    zips = {"HAM10000_images_part_1.zip": known, "ISIC2018_Task3_Test_Images.zip": test}
    for name, rows in zips.items():
        with zipfile.ZipFile(out / name, "w") as packed:
            for image in rows["image_id"]:
                part, member = where[image]
                packed.writestr(f"{image}.jpg", part.read(member))
    return truth


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize("decide", ["argmax", "prior"])
def test_the_official_scorer_finds_what_metrics_json_says(
    decide, scorer, ham10000, command, train, tmp_path
):
    truth = official_twin(ham10000, tmp_path / "source")
    shards, run = tmp_path / "shards", tmp_path / "run"
    where = ("--source", tmp_path / "source", "--out", shards, "--image-size", "48")
    done = command("-m", "pipeline.shards", "build", *where)
    assert done.returncode == 0, done.stderr
    flags = ("--shards", shards, "--run-dir", run, "--task", "dx", "--decide", decide)
    small = ("--arch", "shufflenet_v2_x0_5", "--weights", "none", "--image-size", "32")
    rest = ("--epochs", "3", "--lr", "3e-3", "--threads", "1", "--tracker", "none")
    assert train(*flags, *small, *rest).codes == [0]
    where = ("--checkpoint", run, "--shards", shards)
    done = command("eval.py", *where, "--out", tmp_path / "report", *QUICK)
    assert done.returncode == 0, done.stderr
    submission = tmp_path / "submission.csv"
    done = command("eval.py", "submit", *where, "--out", submission, "--threads", "1")
    assert done.returncode == 0, done.stderr
    words = [scorer, "-o", "json", "classification", truth, submission]
    said = subprocess.run(words, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    theirs = json.loads(said.stdout)
    ours = json.loads((tmp_path / "report" / "metrics.json").read_text())["official"]
    assert ours["aggregate"]["balanced_accuracy"] == pytest.approx(
        theirs["aggregate"]["balanced_accuracy"], abs=1e-9
    )
    for figure in ("auc", "ap"):
        assert ours["per_category"][figure] == pytest.approx(
            theirs["per_category"][figure], abs=1e-9
        )
        assert ours["macro_average"][figure] == pytest.approx(
            theirs["macro_average"][figure], abs=1e-9
        )
