"""What a training and a report send to W&B, read back from W&B's own files."""

import base64
import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import auc, confusion_matrix, precision_recall_curve, roc_curve

from pipeline.learning.stored_model import load_stored
from pipeline.loading.loader import make_loader
from pipeline.shards.dataset import open_shards
from pipeline.tracking.wandb_run import start_wandb_run

NOBODY = {"WANDB_API_KEY": "", "NETRC": "/nowhere", "WANDB_MODE": "online"}
"""Online is wanted, but nobody is logged in."""

EPOCHS, BATCH = 3, 6
POINTS = [10, 13, 20, 26, 30, 39]
"""Steps of the points of the tiny training: every tenth, and the ends of epochs."""

FLAGS = (
    *("--tracker", "wandb", "--mixed-precision", "no"),
    *("--group", "moles", "--tags", "a", "b", "--notes", "a note"),
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("WANDB_DISABLED", value) for value in ("true", "True", "1", "yes", "on", " TRUE ")),
        *(("WANDB_MODE", value) for value in ("disabled", "DISABLED")),
    ],
)
def test_the_environment_switches_wandb_off(name, value, tmp_path, monkeypatch):
    monkeypatch.setenv(name, value)
    assert start_wandb_run(tmp_path) is None
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def tracked(train, tiny, tmp_path_factory):
    """The folder of a training that is tracked offline, because nobody is logged in."""
    run = tmp_path_factory.mktemp("tracked") / "run"
    outcome = train(*tiny, *FLAGS, "--run-dir", run, env=NOBODY)
    assert outcome.codes == [0], outcome.text
    assert "W&B" not in outcome.text
    return run


@pytest.fixture(scope="module")
def stored(tracked, read_wandb):
    return read_wandb(tracked)


@pytest.fixture(scope="module")
def epochs(stored):
    """Rows of history that close an epoch."""
    return [row for row in stored.rows if "epoch" in row]


@pytest.fixture(scope="module")
def best(epochs):
    return max(epochs, key=lambda row: (row["epoch/val_roc_auc"], -row["epoch"]))


@pytest.fixture(scope="module")
def history(tracked):
    return pd.read_csv(tracked / "history.csv", float_precision="round_trip")


@pytest.fixture(scope="module")
def validation(tracked, packed):
    """The validation split with the best model's probability of each image, computed here."""
    model, card, _ = load_stored(tracked / "best")
    split = open_shards(packed).split("val")
    loader = make_loader(
        split, phase="eval", backend="portable", image_size=card.image_size, batch_size=4,
        device=torch.device("cpu"), threads=1,
    )  # fmt: skip
    with torch.inference_mode():
        found = [(batch.image_ids, model(batch.images)) for batch in loader.epoch(0)]
    logits = torch.cat([out for _, out in found]).double() / card.temperature
    logits[:, 1] += card.bias
    table = split.samples.set_index("image_id").loc[[i for ids, _ in found for i in ids]]
    return table.assign(probability=logits.softmax(1)[:, 1].numpy()), card.threshold


def media_table(run: Path, entry: dict) -> pd.DataFrame:
    """The table that a row of history points to."""
    (file,) = run.glob(f"wandb/*run-*/files/{entry['path']}")
    content = json.loads(file.read_text())
    return pd.DataFrame(content["data"], columns=content["columns"])


def table_with_pictures(artifacts: list, name: str) -> pd.DataFrame:
    """The last table artifact of that name, its images as arrays."""
    artifact = [found for found in artifacts if found.name.endswith(f"-{name}")][-1]
    files = {entry.path: Path(entry.local_path) for entry in artifact.manifest.contents}
    content = json.loads(files[f"{name}.table.json"].read_text())
    table = pd.DataFrame(content["data"], columns=content["columns"])
    pictures = [Image.open(files[entry["path"]]).convert("RGB") for entry in table["image"]]
    return table.assign(image=[np.asarray(each, dtype=float) for each in pictures])


def digests(artifact) -> dict[str, str]:
    return {entry.path: entry.digest for entry in artifact.manifest.contents}


def md5_of(path: Path) -> str:
    return base64.b64encode(hashlib.md5(path.read_bytes()).digest()).decode()


# -- numbers


def test_config_holds_flags_digests_versions_and_hardware(stored, tracked, packed):
    config = stored.config
    digest = hashlib.sha256((packed / "manifest.json").read_bytes()).hexdigest()
    assert config["manifest_sha256"] == digest
    flags = json.loads((tracked / "config.json").read_text())["flags"]
    assert {name: config[name] for name in flags} == flags
    assert config["lr"] == 1e-3 and config["arch"] == "shufflenet_v2_x0_5"
    card = json.loads((tracked / "best" / "model.json").read_text())
    assert config["git_revision"] == card["git_revision"]
    versions = config["versions"]
    assert versions["torch"] == torch.__version__.partition("+")[0]
    assert versions["accelerate"] and versions["wandb"]
    assert config["processes"] == 1 and config["cores"] >= 1 and config["memory_gib"] > 0
    assert config["cpu"] and config["device"] == "cpu" and config["gpus"] == 0


def test_group_tags_and_notes_are_those_of_the_flags(stored):
    (run,) = stored.runs
    assert (run.run_group, run.job_type, run.notes) == ("moles", "train", "a note")
    assert list(run.tags) == ["a", "b"] and run.display_name == "run"
    assert stored.exits == 1 and len(stored.files) == 1


def test_each_point_is_logged_once_against_images_and_epochs(stored, epochs):
    assert [row["step"] for row in stored.rows] == POINTS
    for row in stored.rows:
        assert row["_step"] == row["samples"] == row["step"] * BATCH
    assert [row["epoch"] for row in epochs] == [1, 2, 3]
    within = [row for row in stored.rows if "train/loss" in row]
    assert [row["step"] for row in within] == [10, 20, 30]
    for row in within:
        assert row["train/lr"] > 0 and row["train/images_per_second"] > 0
        assert 0 <= row["train/waiting_share"] <= 1
    assert stored.metrics["train/*"].step_metric == "samples"
    assert stored.metrics["epoch/*"].step_metric == "epoch"


def test_figures_are_those_of_history_and_timing(epochs, history, tracked):
    timing = pd.read_csv(tracked / "timing.csv", float_precision="round_trip")
    table = history.merge(timing, on="epoch").set_index("epoch")
    for row in epochs:
        expected = table.loc[row["epoch"]]
        assert row["step"] == expected["step"] and row["samples"] == expected["samples"]
        figures = {f"epoch/{n}": v for n, v in expected.items() if n not in ("step", "samples")}
        assert {name: row[name] for name in row if name.startswith("epoch/")} == figures


def test_summary_holds_the_best_value_of_each_metric(stored, history):
    assert stored.summary["epoch/val_roc_auc"]["max"] == history["val_roc_auc"].max()
    assert stored.summary["epoch/val_loss"]["min"] == history["val_loss"].min()
    assert stored.summary["best_roc_auc"] == history["val_roc_auc"].max()
    assert stored.summary["best_epoch"] == history["val_roc_auc"].idxmax() + 1


# -- curves and cases


def test_curves_and_confusion_matrix_of_the_best_epoch_are_sklearns(best, tracked, validation):
    table, threshold = validation
    label, probability = table["label"].to_numpy(), table["probability"].to_numpy()
    roc = media_table(tracked, best["roc_table"])
    fpr, tpr, _ = roc_curve(label, probability)
    assert set(roc["class"]) == {"malignant"}  # W&B rounds to 3 digits
    assert np.allclose(roc["fpr"], fpr, atol=1e-3) and np.allclose(roc["tpr"], tpr, atol=1e-3)
    pr = media_table(tracked, best["pr_table"])
    precision, recall, _ = precision_recall_curve(label, probability)
    # W&B interpolates: the highest precision at this recall or above
    expected = [precision[recall >= at - 1e-9].max() for at in np.linspace(1, 0, len(pr))]
    assert len(pr) > 20 and np.allclose(pr["precision"], expected, atol=1e-3)
    matrix = media_table(tracked, best["confusion_table"])
    names = ["benign", "malignant"]
    counts = matrix.pivot(index="Actual", columns="Predicted", values="nPredictions")
    expected = confusion_matrix(label, probability >= threshold)
    assert (counts.loc[names, names].to_numpy() == expected).all()


def test_every_epoch_has_its_own_curves(epochs, tracked):
    assert len(epochs) == EPOCHS
    for row in epochs:
        roc = media_table(tracked, row["roc_table"])
        assert auc(roc["fpr"], roc["tpr"]) == pytest.approx(row["epoch/val_roc_auc"], abs=2e-3)
        matrix = media_table(tracked, row["confusion_table"]).set_index(["Actual", "Predicted"])
        count = matrix["nPredictions"]
        found, missed = count["malignant", "malignant"], count["malignant", "benign"]
        assert found / (found + missed) == pytest.approx(row["epoch/val_sensitivity"])
        assert count.sum() == 23


def test_table_of_predictions_shows_each_image_with_its_facts(stored, best, validation, packed):
    table, threshold = validation
    logged = table_with_pictures(stored.artifacts, "predictions")
    assert len(logged) == best["predictions"]["nrows"]
    groups = table.loc[
        logged["image_id"], "group"
    ]  # 32 are asked for, not so many lesions there are
    assert sorted(groups) == sorted(set(table["group"]))
    jpegs = {}
    for tar in packed.glob("val/*.tar"):
        with tarfile.open(tar) as file:
            jpegs |= {m.name: file.extractfile(m).read() for m in file if m.name.endswith(".jpg")}
    for row in logged.to_dict("records"):
        sample = table.loc[row["image_id"]]
        assert row["probability"] == pytest.approx(sample["probability"], abs=1e-5)
        assert row["actual"] == ["benign", "malignant"][sample["label"]]
        called = sample["probability"] >= threshold
        assert row["predicted"] == ["benign", "malignant"][int(called)]
        assert (row["dx"], row["sex"]) == (sample["dx"], sample["sex"])
        assert row["site"] == sample["localization"]
        assert row["age"] == sample["age"] or (row["age"] is None and np.isnan(sample["age"]))
        original = Image.open(io.BytesIO(jpegs[f"{row['image_id']}.jpg"])).convert("RGB")
        # one more JPEG lies between the two
        assert np.abs(row["image"] - np.asarray(original, dtype=float)).mean() < 5


def test_gallery_shows_the_mistakes_and_only_those(best, validation):
    table, threshold = validation
    wrong = table[(table["probability"] >= threshold) != (table["label"] == 1)]
    gallery = best["misclassified"]
    assert sorted(text.split(":")[0] for text in gallery["captions"]) == sorted(wrong.index)
    assert len(gallery["filenames"]) == len(wrong) > 0


def test_pictures_are_logged_after_best_epochs_only(epochs):
    highest = -1.0
    for row in epochs:
        assert ("predictions" in row) == (row["epoch/val_roc_auc"] > highest)
        highest = max(highest, row["epoch/val_roc_auc"])


# -- artifacts


def test_best_model_is_an_artifact_with_aliases_and_metadata(stored, tracked):
    (model,) = [found for found in stored.artifacts if found.type == "model"]
    assert model.name == "model-run" and set(model.aliases) == {"best", "latest"}
    card = json.loads((tracked / "best/model.json").read_text())
    assert {**json.loads(model.metadata), **card} == json.loads(model.metadata)
    files = list((tracked / "best").iterdir())
    assert digests(model) == {path.name: md5_of(path) for path in files} and len(files) >= 3


def test_report_is_an_artifact_in_the_group_of_its_training(
    command, tracked, packed, tmp_path, read_wandb
):
    out = tmp_path / "held out"
    flags = ["--checkpoint", tracked / "best", "--shards", packed, "--out", out]
    flags += ["--resamples", 20, "--cases", 1, "--tracker", "wandb"]
    done = command("eval.py", *flags, env=NOBODY)
    assert done.returncode == 0, done.stderr
    stored = read_wandb(out)
    (run,) = stored.runs
    assert (run.run_group, run.job_type) == ("moles", "eval")
    metrics = json.loads((out / "metrics.json").read_text())
    (row,) = stored.rows
    for name in ("roc_auc", "pr_auc", "sensitivity", "specificity", "brier", "n"):
        assert row[f"eval/{name}"] == metrics[name]
    card = json.loads((tracked / "best" / "model.json").read_text())
    assert stored.config["weights_sha256"] == card["weights_sha256"]
    (report,) = stored.artifacts
    assert (report.name, report.type) == ("report-held-out", "report")
    assert digests(report) == {path.name: md5_of(path) for path in out.iterdir() if path.is_file()}


# -- no tracker


def test_none_changes_no_table_and_leaves_nothing_else(train, tiny, tracked, tmp_path):
    flags = [*tiny, *FLAGS, "--tracker", "none", "--run-dir", tmp_path]
    assert train(*flags).codes == [0]
    assert not (tmp_path / "wandb").exists() and not (tmp_path / "tensorboard").exists()
    for name in ("history.csv", "best/model.safetensors"):
        assert (tmp_path / name).read_bytes() == (tracked / name).read_bytes()
    assert Image.open(tmp_path / "curves.png").size[0] > 500


def test_disabled_by_wandbs_own_variable_leaves_nothing(train, tiny, tmp_path):
    flags = [*tiny, *FLAGS, "--epochs", 1, "--run-dir", tmp_path]
    assert train(*flags, env={"WANDB_MODE": "disabled"}).codes == [0]
    assert not (tmp_path / "wandb").exists()
