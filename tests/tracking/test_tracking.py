"""What a training tells W&B and TensorBoard, read back from their own files."""

import base64
import hashlib
import io
import json
import tarfile
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import auc, average_precision_score, confusion_matrix, roc_curve
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.figures import surest_mistakes
from pipeline.learning.stored_model import load_stored
from pipeline.loading.loader import make_loader
from pipeline.shards.dataset import open_shards
from pipeline.tracking.tracker import KEPT_POINTS, Aside, Journal
from pipeline.tracking.wandb_run import open_run
from pipeline.training.pace import advice

NOBODY = {"WANDB_API_KEY": "", "NETRC": "/nowhere", "WANDB_MODE": "online"}
"""Online is wanted, but nobody is logged in."""

EPOCHS, STEPS, BATCH = 3, 13, 6
"""Of the tiny training on one process."""

TRACKED = ("--tracker", "wandb", "--mixed-precision", "no", "--log-steps", "1")
LABELS = ("--group", "moles", "--job-type", "trial", "--tags", "a", "b", "--notes", "a note")


@pytest.fixture(scope="module")
def tracked(train, tiny, tmp_path_factory):
    """A training that W&B was told of, offline because nobody is logged in."""
    run = tmp_path_factory.mktemp("tracked") / "run"
    outcome = train(*tiny, *TRACKED, *LABELS, "--run-dir", run, env=NOBODY)
    assert outcome.codes == [0], outcome.text
    return run


@pytest.fixture(scope="module")
def said(tracked, read_wandb):
    return read_wandb(tracked)


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


def steps_once(rows: list[dict], *, epochs: int = EPOCHS, global_batch: int = BATCH) -> None:
    """Each step is there exactly once, in order, with its count of images, and each epoch."""
    steps = [row["step"] for row in rows if "train/loss" in row]
    assert steps == list(range(1, len(steps) + 1))
    assert [row["samples"] for row in rows] == [step * global_batch for step in steps]
    assert [row["_step"] for row in rows] == [row["samples"] for row in rows]
    assert [row["epoch"] for row in rows if "epoch" in row] == list(range(1, epochs + 1))


def media_table(run: Path, entry: dict) -> pd.DataFrame:
    """The table that a row of history points to."""
    (file,) = run.glob(f"wandb/*run-*/files/{entry['path']}")
    stored = json.loads(file.read_text())
    return pd.DataFrame(stored["data"], columns=stored["columns"])


def best_row(rows: list[dict]) -> dict:
    epochs = [row for row in rows if "epoch" in row]
    return max(epochs, key=lambda row: (row["epoch/val_roc_auc"], -row["epoch"]))


def table_with_pictures(artifacts: list, name: str) -> pd.DataFrame:
    """The last table artifact of that name, its images as arrays."""
    artifact = [found for found in artifacts if found.name.endswith(f"-{name}")][-1]
    files = {entry.path: Path(entry.local_path) for entry in artifact.manifest.contents}
    stored = json.loads(files[f"{name}.table.json"].read_text())
    table = pd.DataFrame(stored["data"], columns=stored["columns"])
    pictures = [Image.open(files[entry["path"]]).convert("RGB") for entry in table["image"]]
    return table.assign(image=[np.asarray(each, dtype=float) for each in pictures])


# -- numbers


def test_config_holds_flags_digests_versions_and_hardware(said, tracked, packed):
    config = said.config
    digest = hashlib.sha256((packed / "manifest.json").read_bytes()).hexdigest()
    assert config["manifest_sha256"] == digest
    stored = json.loads((tracked / "config.json").read_text())
    assert {name: config[name] for name in stored["flags"]} == stored["flags"]
    assert config["lr"] == 1e-3 and config["arch"] == "shufflenet_v2_x0_5"
    card = json.loads((tracked / "best" / "model.json").read_text())
    assert config["git_revision"] == card["git_revision"]
    versions = config["versions"]
    assert versions["torch"] == torch.__version__.partition("+")[0]
    assert versions["accelerate"] and versions["wandb"]
    assert config["processes"] == 1 and config["cores"] >= 1 and config["memory_gib"] > 0
    assert config["cpu"] and config["device"] == "cpu" and config["gpus"] == 0


def test_group_job_type_tags_and_notes_are_those_of_the_flags(said):
    (run,) = said.runs
    assert (run.run_group, run.job_type, run.notes) == ("moles", "trial", "a note")
    assert list(run.tags) == ["a", "b"] and run.display_name == "run"
    assert said.exits == 1 and len(said.files) == 1


def test_each_step_and_epoch_is_told_once_against_images_and_epochs(said):
    steps_once(said.rows)
    assert len(said.rows) == EPOCHS * STEPS
    for row in said.rows:
        assert row["train/lr"] > 0 and row["train/images_per_second"] > 0
        assert 0 <= row["train/waiting_share"] <= 1
    assert said.metrics["train/*"].step_metric == "samples"
    assert said.metrics["epoch/*"].step_metric == "epoch"
    assert said.metrics["epoch/val_roc_auc"].summary.max
    assert said.metrics["epoch/val_loss"].summary.min


def test_figures_are_those_of_history_and_timing(said, tracked):
    history = pd.read_csv(tracked / "history.csv", float_precision="round_trip")
    timing = pd.read_csv(tracked / "timing.csv", float_precision="round_trip")
    table = history.merge(timing, on="epoch").set_index("epoch")
    told = {row["epoch"]: row for row in said.rows if "epoch" in row}
    for epoch, expected in table.iterrows():
        row = told[epoch]
        assert row["step"] == expected["step"] and row["samples"] == expected["samples"]
        for name in table.columns.drop(["step", "samples"]):
            assert row[f"epoch/{name}"] == expected[name], name
    names = {name for row in told.values() for name in row if name.startswith("epoch/")}
    assert names == {f"epoch/{name}" for name in table.columns.drop(["step", "samples"])}


def test_summary_holds_the_best_value_of_each_metric(said, tracked):
    history = pd.read_csv(tracked / "history.csv", float_precision="round_trip")
    assert said.summary["epoch/val_roc_auc"]["max"] == history["val_roc_auc"].max()
    assert said.summary["epoch/val_loss"]["min"] == history["val_loss"].min()
    assert said.summary["best_roc_auc"] == history["val_roc_auc"].max()
    assert said.summary["best_epoch"] == history["val_roc_auc"].idxmax() + 1


# -- curves and cases


def test_curves_and_confusion_matrix_of_the_best_epoch_are_sklearns(said, tracked, validation):
    table, threshold = validation
    label, probability = table["label"].to_numpy(), table["probability"].to_numpy()
    row = best_row(said.rows)
    roc = media_table(tracked, row["roc_table"])
    fpr, tpr, _ = roc_curve(label, probability)
    assert np.allclose(roc["fpr"], fpr) and np.allclose(roc["tpr"], tpr)
    pr = media_table(tracked, row["pr_table"])
    steps = -np.diff(pr["recall"]) * pr["precision"].to_numpy()[:-1]
    assert steps.sum() == pytest.approx(average_precision_score(label, probability))
    matrix = media_table(tracked, row["confusion_table"])
    expected = confusion_matrix(label, probability >= threshold)
    names = ["benign", "malignant"]
    told = matrix.pivot(index="Actual", columns="Predicted", values="nPredictions")
    assert (told.loc[names, names].to_numpy() == expected).all()


def test_every_epoch_has_its_own_curves(said, tracked):
    rows = [row for row in said.rows if "epoch" in row]
    assert len(rows) == EPOCHS
    for row in rows:
        roc = media_table(tracked, row["roc_table"])
        assert auc(roc["fpr"], roc["tpr"]) == pytest.approx(row["epoch/val_roc_auc"])
        matrix = media_table(tracked, row["confusion_table"]).set_index(["Actual", "Predicted"])
        count = matrix["nPredictions"]
        found = count["malignant", "malignant"]
        missed = count["malignant", "benign"]
        assert found / (found + missed) == pytest.approx(row["epoch/val_sensitivity"])
        assert count.sum() == 23


def test_table_of_predictions_shows_each_image_with_its_facts(said, tracked, validation, packed):
    table, threshold = validation
    told = table_with_pictures(said.artifacts, "predictions")
    assert len(told) == best_row(said.rows)["predictions"]["nrows"]
    assert sorted(told["image_id"]) == sorted(table.index)  # 32 are asked for, 23 there are
    jpegs = {}
    for tar in packed.glob("val/*.tar"):
        with tarfile.open(tar) as file:
            jpegs |= {m.name: file.extractfile(m).read() for m in file if m.name.endswith(".jpg")}
    for row in told.to_dict("records"):
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


def test_gallery_shows_the_mistakes_and_only_those(said, tracked, validation):
    table, threshold = validation
    wrong = table[(table["probability"] >= threshold) != (table["label"] == 1)]
    gallery = best_row(said.rows)["misclassified"]
    assert sorted(text.split(":")[0] for text in gallery["captions"]) == sorted(wrong.index)
    assert len(wrong) > 0
    assert len(gallery["filenames"]) == len(wrong)


def test_pictures_are_shown_after_best_epochs_only(said):
    best = -1.0
    for row in (row for row in said.rows if "epoch" in row):
        assert ("predictions" in row) == (row["epoch/val_roc_auc"] > best)
        best = max(best, row["epoch/val_roc_auc"])


def test_surest_mistake_comes_first():
    probability = np.array([0.95, 0.05, 0.41, 0.2, 0.99])
    rows = surest_mistakes(np.array([0, 1, 0, 0, 1]), probability, 0.4, count=2)
    assert rows.tolist() == [0, 1]  # 0.92 and 0.88 of the way; 0.41 is the third


# -- artifacts


def test_best_model_is_an_artifact_with_aliases_and_metadata(said, tracked):
    (model,) = [found for found in said.artifacts if found.type == "model"]
    assert model.name == "model-run" and set(model.aliases) == {"best", "latest"}
    card = json.loads((tracked / "best" / "model.json").read_text())
    assert json.loads(model.metadata) == card
    stored = {entry.path: entry.digest for entry in model.manifest.contents}
    assert set(stored) == {"model.safetensors", "model.json", "training_samples.csv"}
    for name, digest in stored.items():
        content = (tracked / "best" / name).read_bytes()
        assert digest == base64.b64encode(hashlib.md5(content).digest()).decode()


# -- several processes, kills, no tracker, another tracker


def test_two_processes_are_one_run(train, tiny, tmp_path, read_wandb):
    flags = [*tiny, *TRACKED, "--run-dir", tmp_path]
    assert train(*flags, ranks=2, env=NOBODY).codes == [0, 0]
    said = read_wandb(tmp_path)
    assert len(said.files) == 1 and len(said.runs) == 1
    steps_once(said.rows, global_batch=2 * BATCH)
    assert said.config["processes"] == 2


def test_killed_and_resumed_is_one_run_without_gaps_or_repeats(
    train, tiny, tracked, said, tmp_path, read_wandb
):
    flags = [*tiny, *TRACKED, "--run-dir", tmp_path, "--checkpoint-steps", 4]
    for death in ([0, "step", 7], [0, "validation", 2], [0, "fsync", 3]):
        assert train(*flags, die=death, env=NOBODY).codes == [-9]
    assert train(*flags, env=NOBODY).codes == [0]
    again = read_wandb(tmp_path)
    assert len(again.files) == 4 and len({run.run_id for run in again.runs}) == 1
    steps_once(again.rows)
    assert (tmp_path / "history.csv").read_bytes() == (tracked / "history.csv").read_bytes()
    for row, calm in zip(again.rows, said.rows, strict=True):
        assert row["train/loss"] == calm["train/loss"]
        for name in ("roc_table", "pr_table", "confusion_table"):
            assert row.get(name, {}).get("sha256") == calm.get(name, {}).get("sha256")


@pytest.mark.slow
def test_signal_leaves_the_last_point_to_the_next_start(train, tiny, tmp_path, read_wandb):
    flags = [*tiny, *TRACKED, "--run-dir", tmp_path]
    outcome = train(*flags, die=[0, "validation", 1, "SIGTERM"], env=NOBODY)
    assert outcome.codes == [143]
    assert train(*flags, env=NOBODY).codes == [0]
    steps_once(read_wandb(tmp_path).rows)


def test_none_leaves_the_tables_alone_and_nothing_else(train, tiny, tracked, tmp_path):
    flags = [*tiny, *TRACKED, "--tracker", "none", "--run-dir", tmp_path]
    assert train(*flags).codes == [0]
    assert not (tmp_path / "wandb").exists() and not (tmp_path / "tensorboard").exists()
    for name in ("history.csv", "best/model.safetensors"):
        assert (tmp_path / name).read_bytes() == (tracked / name).read_bytes()
    assert Image.open(tmp_path / "curves.png").size[0] > 500


def test_disabled_by_wandb_itself_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    run = open_run(tmp_path, mode="auto", config={}, group="", job_type="train")
    assert run is None and not list(tmp_path.iterdir())


def test_tensorboard_holds_the_same_figures_after_a_kill(train, tiny, tmp_path):
    flags = [*tiny, *TRACKED, "--tracker", "tensorboard"]
    flags += ["--run-dir", tmp_path, "--checkpoint-steps", 4]
    assert train(*flags, die=[0, "step", 20]).codes == [-9]
    assert train(*flags).codes == [0]
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0}).Reload()
    losses = [event.step for event in events.Scalars("train/loss")]
    assert losses == [BATCH * step for step in range(1, EPOCHS * STEPS + 1)]
    history = pd.read_csv(tmp_path / "history.csv")
    for name in ("val_roc_auc", "val_loss", "train_loss", "val_sensitivity"):
        told = events.Scalars(f"epoch/{name}")
        assert [event.step for event in told] == history["samples"].to_list()
        assert np.allclose([event.value for event in told], history[name], atol=1e-6)
    kinds = ("true_positives", "true_negatives", "false_positives", "false_negatives")
    assert sum(events.Scalars(f"confusion/{kind}")[-1].value for kind in kinds) == 23
    assert "misclassified" in {tag.split("/")[0] for tag in events.Tags()["images"]}


# -- the journal by itself


class Memory:
    """A tracker whose store outlives it; the last rows can get lost in a kill."""

    def __init__(self, store: list[int]) -> None:
        self.store, self.delivered = store, max(store, default=-1)

    def log(self, point, views):
        self.store.append(point["samples"])

    def finish(self, exit_code=0): ...
    def keep_model(self, folder): ...


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9), st.integers(0, 5)), max_size=6),
    st.integers(1, 9),
)
def test_whatever_is_killed_each_point_arrives_once(lives, last):
    store: list[int] = []
    reached, farthest, saved = 0, 0, []
    for steps, checkpoint_at, lost in lives:
        points = [dict(point) for point in saved]
        journal = Journal(Memory(store), points)
        for number in range(1, steps + 1):
            journal.add(reached + number, {"loss": 1.0})
            if number == checkpoint_at:
                kept, saved = reached + number, [dict(point) for point in points]
        farthest = max(farthest, reached + steps)
        if checkpoint_at and checkpoint_at <= steps:
            reached = kept
        del store[len(store) - min(lost, len(store)) :]  # never reached the disk
    journal = Journal(Memory(store), saved)
    for samples in range(reached + 1, farthest + last + 1):
        journal.add(samples, {"loss": 1.0})
    journal.close(0, model=Path())
    assert store == list(range(1, farthest + last + 1))


def test_points_in_a_checkpoint_stay_few():
    points: list[dict] = []
    journal = Journal(Memory([]), points)
    for number in range(1, KEPT_POINTS + 50):
        journal.add(number, {})
    assert len(points) == KEPT_POINTS and points[-1]["samples"] == KEPT_POINTS + 49


def test_failing_tracker_is_told_of_once_and_left_out(capsys):
    class Broken(Memory):
        def log(self, point, views):
            raise BrokenPipeError("the service is gone")

    tracker = Aside(lambda: Broken([]))
    for _ in range(3):
        tracker.log({"samples": 1}, None)
    tracker.finish()
    assert capsys.readouterr().err.count("the service is gone") == 1
    Aside(lambda: 1 / 0).finish()  # type: ignore[arg-type]
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_tracker_that_hangs_holds_nothing_up(monkeypatch, capsys):
    hang = threading.Event()
    monkeypatch.setattr("pipeline.tracking.tracker.ENDING", 0.1)

    class Hanging(Memory):
        def log(self, point, views):
            hang.wait()

    tracker = Aside(lambda: Hanging([]))
    for number in range(100):
        tracker.log({"samples": number}, None)  # would never come back otherwise
    tracker.finish()
    assert "is not done after" in capsys.readouterr().err
    hang.set()


# -- waiting for data


def test_slow_loader_is_told_of_with_what_helps(train, tiny, tmp_path):
    flags = [*tiny, "--epochs", 2, "--run-dir", tmp_path]
    outcome = train(*flags, die=[0, "slow", 60])
    assert outcome.codes == [0], outcome.text
    (line,) = [line for line in outcome.text.splitlines() if "waiting for data:" in line]
    for flag in ("--threads", "--image-size", "--backend", "--cache"):
        assert flag in line
    timing = pd.read_csv(tmp_path / "timing.csv")
    assert (timing["waiting_share"] > 0.1).all()
    assert timing["images_per_second"].max() < BATCH / 0.06  # 60 ms a batch are not beaten
    assert "images/s" in outcome.text


def test_ten_percent_of_waiting_pass_without_a_word():
    assert advice(0.1) is None and "11%" in str(advice(0.11))


# -- the report


def test_report_is_an_artifact_in_the_group_of_its_training(
    command, tracked, packed, tmp_path, read_wandb
):
    out = tmp_path / "held out"
    flags = ["--checkpoint", tracked / "best", "--shards", packed, "--out", out]
    flags += ["--resamples", 20, "--cases", 1, "--tracker", "wandb", "--wandb", "auto"]
    done = command("eval.py", *flags, env=NOBODY)
    assert done.returncode == 0, done.stderr
    said = read_wandb(out)
    (run,) = said.runs
    assert (run.run_group, run.job_type) == ("moles", "eval")
    metrics = json.loads((out / "metrics.json").read_text())
    (row,) = said.rows
    for name in ("roc_auc", "pr_auc", "sensitivity", "specificity", "brier", "n"):
        assert row[f"eval/{name}"] == metrics[name]
    card = json.loads((tracked / "best" / "model.json").read_text())
    assert said.config["weights_sha256"] == card["weights_sha256"]
    (report,) = said.artifacts
    assert (report.name, report.type) == ("report-held-out", "report")
    stored = {entry.path: entry.digest for entry in report.manifest.contents}
    assert set(stored) == {path.name for path in out.iterdir() if path.is_file()}
    for name in ("report.html", "metrics.json", "predictions.csv", "roc.png"):
        content = (out / name).read_bytes()
        assert stored[name] == base64.b64encode(hashlib.md5(content).digest()).decode()
