"""What a second start of a training does, and what a first one leaves when it must end early."""

import errno
import json
import os
import re
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from pipeline import files
from pipeline.cli import parse
from pipeline.errors import DataError
from pipeline.training.checkpoints import MODEL_FILES, read_checkpoint, write_checkpoint
from pipeline.training.flags import TrainFlags
from pipeline.training.resume import resume


@pytest.fixture
def trained(train, tiny, tmp_path):
    """One epoch of a tiny training: its flags and its folder."""
    flags = [*tiny, "--run-dir", tmp_path, "--schedule", "plateau", "--epochs"]
    outcome = train(*flags, 1, "--checkpoint-steps", 5)
    assert outcome.codes == [0], outcome.text
    return flags, tmp_path


def steps(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").glob("step-*"))


def test_epochs_is_the_total_after_a_resume_too(train, trained):
    flags, run = trained
    assert train(*flags, 3).codes == [0]
    assert pd.read_csv(run / "history.csv")["epoch"].to_list() == [1, 2, 3]
    assert pd.read_csv(run / "timing.csv")["epoch"].to_list() == [1, 2, 3]


def test_completed_run_started_again_changes_nothing(train, trained):
    flags, run = trained
    before = (run / "best" / "model.safetensors").read_bytes()
    outcome = train(*flags, 1)
    assert outcome.codes == [0]
    assert (run / "best" / "model.safetensors").read_bytes() == before
    assert len(pd.read_csv(run / "history.csv")) == 1


def test_damaged_checkpoint_is_passed_over_with_a_warning(train, trained):
    flags, run = trained
    last = run / "checkpoints" / steps(run)[-1]
    state = bytearray((last / "state.pt").read_bytes())
    state[len(state) // 2] ^= 1
    (last / "state.pt").write_bytes(state)
    outcome = train(*flags, 2)
    assert outcome.codes == [0], outcome.text
    assert "warning: checkpoint passed over" in outcome.text and "state.pt" in outcome.text
    assert f"resuming from {run / 'checkpoints' / 'step-00000010'}" in outcome.text


def test_every_damage_to_the_list_of_a_checkpoint_is_named(trained):
    folder = next((trained[1] / "checkpoints").glob("step-*"))
    path = folder / "checkpoint.json"
    written = json.loads(path.read_text())
    damaged = [{**written, "batch": 3}, {**written, "files": {}}, {**written, "epoch": 1e999}]
    damaged += [{**written, "files": {**written["files"], "state.pt": wrong}} for wrong in (7, [])]
    for content in damaged:
        path.write_text(json.dumps(content))
        with pytest.raises(DataError, match=r"checkpoint\.json is missing or damaged"):
            read_checkpoint(folder)
    del written["sha256"]  # of an earlier version
    path.write_text(json.dumps(written))
    assert read_checkpoint(folder).epoch == written["epoch"]


def test_torn_checkpoint_is_passed_over(train, trained):
    flags, run = trained
    last = run / "checkpoints" / steps(run)[-1]
    (last / "checkpoint.json").unlink()
    outcome = train(*flags, 2)
    assert outcome.codes == [0] and "passed over" in outcome.text
    assert len(pd.read_csv(run / "history.csv")) == 2


def test_checkpoint_that_was_being_replaced_comes_back(train, tiny, tmp_path):
    flags = [*tiny, "--run-dir", tmp_path, "--epochs", 2, "--keep-checkpoints", 1]
    calm = tmp_path / "calm"
    assert train(*tiny, "--run-dir", calm, "--epochs", 2).codes == [0]
    last = int(pd.read_csv(calm / "history.csv")["step"][0])
    # the epoch's checkpoint takes the place of its last step's, and the process dies just before
    outcome = train(*flags, "--checkpoint-steps", 1, die=[0, "exchange", f"*/step-{last:08d}"])
    assert outcome.codes == [-9] and steps(tmp_path) == [f"step-{last:08d}"]
    outcome = train(*flags, "--checkpoint-steps", 1)
    assert outcome.codes == [0] and f"step-{last:08d}: epoch 0, batch" in outcome.text
    assert (calm / "history.csv").read_bytes() == (tmp_path / "history.csv").read_bytes()
    assert not list(tmp_path.rglob(".*.old")) and not list(tmp_path.rglob(".*.partial"))


def test_changed_flags_are_listed_and_refused_unless_allowed(train, trained):
    flags, run = trained
    before = steps(run)
    outcome = train(*flags, 2, "--batch-size", 5, "--lr", "2e-3")
    assert outcome.codes == [2]
    assert "--batch-size: 6 before, 5 now" in outcome.text
    assert "--lr: 0.001 before, 0.002 now" in outcome.text
    assert "Traceback" not in outcome.text and steps(run) == before
    outcome = train(*flags, 2, "--lr", "2e-3", "--allow-changes")
    assert outcome.codes == [0] and "going on with changed flags" in outcome.text
    assert pd.read_csv(run / "history.csv")["lr"].to_list() == [1e-3, 2e-3]


def test_resume_never_starts_anew_and_moves_the_old_run_aside(train, trained):
    flags, run = trained
    old = (run / "history.csv").read_bytes()
    outcome = train(*flags, 2, "--resume", "never", "--seed", 1)
    assert outcome.codes == [0], outcome.text
    assert (run / "before-1" / "history.csv").read_bytes() == old
    assert len(pd.read_csv(run / "history.csv")) == 2
    assert (run / "before-1" / "best" / "model.safetensors").is_file()


def test_resume_takes_the_path_of_a_checkpoint(train, trained, tmp_path_factory):
    flags, run = trained
    kept = tmp_path_factory.mktemp("kept") / "step-00000010"
    shutil.copytree(run / "checkpoints" / "step-00000010", kept)
    outcome = train(*flags, 1, "--resume", kept)
    assert outcome.codes == [0] and f"resuming from {kept}" in outcome.text
    outcome = train(*flags, 1, "--resume", run / "nowhere")
    assert outcome.codes == [2] and "nowhere" in outcome.text


def test_other_number_of_processes_goes_on_from_an_epoch_boundary(train, trained):
    flags, run = trained
    outcome = train(*flags, 2, ranks=2)
    assert outcome.codes == [0, 0], outcome.text
    assert "resuming on 2 process(es) what 1 began" in outcome.text
    assert pd.read_csv(run / "history.csv")["epoch"].to_list() == [1, 2]


def test_another_launch_goes_on_in_mid_epoch_with_what_is_left(train, tiny, tmp_path):
    flags = [*tiny, "--run-dir", tmp_path / "run", "--epochs", 2]
    outcome = train(*flags, die=[0, "step", "4", "SIGTERM"])
    assert outcome.codes == [143], outcome.text
    outcome = train(*flags, "--batch-size", 3, ranks=2, die=[1, "step", "6", "SIGTERM"])
    assert outcome.codes == [143] * 2, outcome.text
    assert not re.search("^warning: ", outcome.text, re.MULTILINE), outcome.text
    outcome = train(*flags, "--batch-size", 6, ranks=2, die=[0, "step", "8", "SIGTERM"])
    assert outcome.codes == [2, 2] and "--batch-size: 3 before, 6 now" in outcome.text
    again = ["--batch-size", 6, "--allow-changes"]
    outcome = train(*flags, *again, ranks=2, die=[0, "step", "8", "SIGTERM"])
    assert outcome.codes == [143] * 2
    assert "resuming on 2 process(es) what 2 began: a step takes 12 images, 6" in outcome.text
    assert train(*flags).codes == [0]
    assert train(*tiny, "--run-dir", tmp_path / "calm", "--epochs", 2).codes == [0]
    found, calm = (pd.read_csv(tmp_path / name / "history.csv") for name in ("run", "calm"))
    assert found["samples"].equals(calm["samples"])
    assert found["step"].to_list() == (calm["step"] - 2).to_list()
    assert found["lr"].iloc[-1] == calm["lr"].iloc[-1]
    launches = json.loads((tmp_path / "run" / "config.json").read_text())["launches"]
    names = ("position", "step", "processes", "batch_size")
    got = [tuple(row[name] for name in names) for row in launches]
    assert got == [(0, 0, 1, 6), (24, 4, 2, 3), (36, 6, 2, 6), (60, 8, 1, 6)]


@pytest.mark.parametrize("ranks", [1, 2])
def test_checkpoint_of_an_earlier_version_resumes_to_the_same_bytes(train, tiny, tmp_path, ranks):
    flags = [*tiny, "--run-dir", tmp_path, "--epochs", 2]
    assert train(*flags, ranks=ranks, die=[0, "step", "4", "SIGTERM"]).codes == [143] * ranks
    folder = tmp_path / "checkpoints" / "step-00000004"
    found = read_checkpoint(folder)
    state = found.state()
    for name in ("position", "began_with", "launches"):  # had no names then
        del state["progress"][name]
    state["flags"]["backend"] = "auto"  # was resolved anew by each start
    model = {name: (folder / name).read_bytes() for name in MODEL_FILES}
    where = {"epoch": 0, "batch": found.batch, "step": 4, "processes": ranks}
    assert write_checkpoint(tmp_path, state, model, keep=1, **where)
    assert train(*flags, ranks=ranks).codes == [0] * ranks
    calm = tmp_path / "calm"
    assert train(*flags, "--run-dir", calm, ranks=ranks).codes == [0] * ranks
    for name in ("history.csv", "best/model.safetensors"):
        assert (calm / name).read_bytes() == (tmp_path / name).read_bytes()


def test_auto_is_resolved_when_a_run_begins_and_said_and_kept(train, trained):
    flags, run = trained
    outcome = train(*flags, 2)
    assert outcome.codes == [0] and ", backend portable; run in" in outcome.text
    assert json.loads((run / "config.json").read_text())["flags"]["backend"] == "portable"
    state = read_checkpoint(run / "checkpoints" / steps(run)[-1]).state()
    assert state["flags"]["backend"] == "portable"
    outcome = train(*flags, 3, "--backend", "dali")
    assert outcome.codes == [2] and "--backend: portable before, dali now" in outcome.text
    assert train(*flags, 2, "--backend", "portable").codes == [0]


def backend_of_a_start(monkeypatch, flags, folder: Path, *more: str) -> str:
    """Who decodes when a training goes on from a checkpoint on a machine without a GPU."""
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, flags), *more])
    manifest = read_checkpoint(folder).state()["manifest"]
    where = {"manifest_sha256": manifest, "processes": 1, "device": "cpu"}
    return resume(parse(TrainFlags), **where)[1].data.backend


def test_auto_goes_on_with_the_backend_that_a_run_began_with(train, tiny, tmp_path, monkeypatch):
    flags = [*tiny, "--run-dir", tmp_path / "run", "--epochs", 1]
    outcome = train(*flags, "--backend", "dali", die=[0, "step", "4", "SIGTERM"])
    assert outcome.codes == [143], outcome.text
    begun = partial(
        backend_of_a_start, monkeypatch, flags, tmp_path / "run" / "checkpoints" / "step-00000004"
    )
    assert begun() == "dali"
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "nvidia.dali", None)  # as where it is not installed
        with pytest.raises(DataError, match=r"--backend: dali \(not installed here.*portable now"):
            begun()
        assert begun("--allow-changes") == "portable"
        with pytest.raises(DataError, match="backend dali is not installed"):
            begun("--backend", "dali")
    outcome = train(*flags)
    assert outcome.codes == [0] and ", backend dali; run in" in outcome.text, outcome.text
    histories = [tmp_path / "run" / "history.csv"]
    for backend in ("dali", "portable"):
        folder = tmp_path / backend
        assert train(*flags, "--run-dir", folder, "--backend", backend).codes == [0]
        histories.append(folder / "history.csv")
    found, dali, portable = (path.read_bytes() for path in histories)
    assert found == dali and found != portable


@pytest.mark.gpu
def test_auto_is_dali_on_a_gpu_and_stays_dali_without_one(command, tiny, tmp_path, monkeypatch):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    flags = [*tiny, "--run-dir", tmp_path, "--epochs", 1]
    done = command("train.py", *flags)
    assert done.returncode == 0, done.stderr
    assert "process(es) on cuda" in done.stdout and ", backend dali; run in" in done.stdout
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["flags"]["backend"] == "dali" and config["gpu"] == torch.cuda.get_device_name(0)
    last = tmp_path / "checkpoints" / steps(tmp_path)[-1]
    assert backend_of_a_start(monkeypatch, flags, last) == "dali"


@pytest.mark.parametrize(
    ("name", "code", "moment", "number", "ranks"),
    [("SIGTERM", 143, "step", 4, 2), ("SIGINT", 130, "validation", 1, 1)],
)
def test_signal_saves_and_leaves_and_the_same_command_goes_on(
    train, tiny, tmp_path, name, code, moment, number, ranks
):
    flags = [*tiny, "--run-dir", tmp_path]
    outcome = train(*flags, ranks=ranks, die=[ranks - 1, moment, str(number), name])
    assert outcome.codes == [code] * ranks, outcome.text
    assert "interrupted at epoch 0" in outcome.text and "Traceback" not in outcome.text
    if moment == "step":
        assert steps(tmp_path) == [f"step-{number:08d}"]
    assert train(*flags, ranks=ranks).codes == [0] * ranks
    calm = tmp_path / "calm"
    assert train(*tiny, "--run-dir", calm, ranks=ranks).codes == [0] * ranks
    assert (calm / "history.csv").read_bytes() == (tmp_path / "history.csv").read_bytes()
    points = [
        read_checkpoint(max((run / "checkpoints").glob("*"))).state()["progress"]["points"]
        for run in (calm, tmp_path)
    ]
    losses = [[point.get("train/loss") for point in each] for each in points]
    assert losses[0] == losses[1] and any(losses[0])  # a point is the mean of 10 steps


def test_loss_that_is_not_finite_stops_with_step_rate_and_images(train, tiny, packed, tmp_path):
    flags = [*tiny, "--run-dir", tmp_path, "--epochs", 2, "--checkpoint-steps", 1]
    flags += ["--optimizer", "sgd", "--schedule", "constant", "--ema-decay", 0]
    outcome = train(*flags, "--lr", "1e30")
    assert outcome.codes == [2], outcome.text
    assert "the loss is" in outcome.text and "learning rate 1e+30" in outcome.text
    assert "--allow-changes" in outcome.text
    named = outcome.text.partition("with the images ")[2].partition(". To go on")[0].split(", ")
    assert len(named) == 6
    assert set(named) <= set(pd.read_csv(packed / "samples.csv")["image_id"])
    assert "Traceback" not in outcome.text


def test_last_good_checkpoint_is_left_by_a_loss_that_is_not_finite(train, tiny, tmp_path):
    flags = [*tiny, "--run-dir", tmp_path, "--schedule", "constant", "--checkpoint-steps", 3]
    assert train(*flags, "--epochs", 1).codes == [0]
    last = steps(tmp_path)[-1]
    outcome = train(*flags, "--epochs", 2, "--lr", "1e38", "--allow-changes")
    assert outcome.codes == [2]
    assert last in steps(tmp_path)
    for folder in (tmp_path / "checkpoints").glob("step-*"):
        weights = load_file(folder / "model.safetensors")
        assert all(torch.isfinite(w).all() for w in weights.values() if w.is_floating_point())


def test_full_disk_during_a_checkpoint_costs_only_that_checkpoint(train, tiny, tmp_path):
    # files of 3 MB at most: the model (1.4 MB) fits, the training state (over 4 MB) does not
    outcome = train(*tiny, "--run-dir", tmp_path, "--epochs", 2, file_limit=3_000_000)
    assert outcome.codes == [0], outcome.text
    assert "could not be written and is left out" in outcome.text
    assert steps(tmp_path) == [] and not list(tmp_path.rglob(".*.partial"))
    assert len(pd.read_csv(tmp_path / "history.csv")) == 2
    assert (tmp_path / "best" / "model.safetensors").is_file()
    again = train(*tiny, "--run-dir", tmp_path, "--epochs", 2)
    assert again.codes == [0] and steps(tmp_path)


def test_done_is_not_said_where_the_best_model_could_not_be_written(train, tiny, tmp_path):
    flags = [*tiny, "--run-dir", tmp_path, "--epochs", 1]
    outcome = train(*flags, file_limit=300_000)
    assert outcome.codes == [2] and "Traceback" not in outcome.text
    assert "best could not be written" in outcome.text and "done:" not in outcome.text
    assert json.loads((tmp_path / "exit.json").read_text())["code"] == 2
    outcome = train(*flags)
    assert outcome.codes == [0] and (tmp_path / "best" / "model.safetensors").is_file()
    shutil.rmtree((tmp_path / "best").resolve())  # the last checkpoint is of the best epoch
    assert train(*flags).codes == [0]
    assert (tmp_path / "best" / "model.safetensors").is_file()


def test_where_two_checkpoints_have_room_the_older_makes_way_for_a_new_one(tmp_path):
    def full(moment: str, what: str) -> None:
        if moment == "sync" and len(steps(tmp_path)) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), what)

    files.watchers.append(full)
    model = dict.fromkeys(("model.safetensors", "model.json", "training_samples.csv"), b"")
    for step in range(4):
        where = {"epoch": step, "batch": 0, "step": step, "processes": 1}
        assert write_checkpoint(tmp_path, {}, model, keep=2, **where)
    files.watchers.remove(full)
    assert steps(tmp_path) == ["step-00000002", "step-00000003"]
    assert read_checkpoint(tmp_path / "checkpoints" / "step-00000003").epoch == 3


def test_mistakes_get_one_message_and_exit_code_2(train, tiny, tmp_path):
    cases = {
        ("--shards", tmp_path / "none"): "none",
        ("--arch", "resnet43"): "resnet34",
        ("--weights", tmp_path / "w.pt"): "no such file",
        ("--epochs", "0"): "--epochs must be above 0",
        ("--lr", "nan"): "--lr must be",
        ("--epoch", "3"): "--epochs",
        ("--loss", "logit-adjusted", "--balance", "oversample"): "twice",
        ("--arch", "vit_b_16"): "--image-size 32",
    }
    for words, expected in cases.items():
        outcome = train(*tiny, "--run-dir", tmp_path / "run", *words)
        assert outcome.codes == [2], (words, outcome.text)
        assert expected in outcome.text and "Traceback" not in outcome.text, (words, outcome.text)


def test_run_leaves_the_files_of_the_design(trained):
    _, run = trained
    for name in ("config.json", "history.csv", "timing.csv", "curves.png"):
        assert (run / name).stat().st_size > 0
    assert (run / "best").is_symlink() and (run / "best").readlink().name.startswith("best-step-")
    config = json.loads((run / "config.json").read_text())
    assert config["flags"]["arch"] == "shufflenet_v2_x0_5" and config["processes"] == 1
    assert {"cpu", "gpu", "jpeg engines", "driver", "bf16", "cuda of torch"} <= set(config)
    assert {"dermpipe", "torch", "nvidia-dali-cuda130"} <= set(config["versions"])
    card = json.loads((run / "best" / "model.json").read_text())
    assert card["manifest_sha256"] == config["manifest_sha256"] and card["epoch"] == 1
    assert 0 < card["threshold"] < 1 and card["temperature"] > 0
    samples = pd.read_csv(run / "best" / "training_samples.csv")
    assert set(samples["split"]) == {"train", "val"}


def test_several_gpus_of_a_version_before_sync_batch_norm_had_it(train, trained):
    flags, run = trained
    folder = run / "checkpoints" / steps(run)[-1]
    state, files_of = read_checkpoint(folder).state(), {}
    for name in MODEL_FILES:
        files_of[name] = (folder / name).read_bytes()
    del state["flags"]["sync_batch_norm"]
    for rank in state["ranks"]:
        rank["rng"]["cuda"] = rank["rng"]["torch"]
    shutil.rmtree(run / "checkpoints")
    progress = {"epoch": 1, "batch": 0, "step": state["progress"]["step"], "processes": 2}
    assert write_checkpoint(run, state, files_of, keep=1, **progress)
    outcome = train(*flags, 2, "--batch-size", 3, ranks=2)
    assert 2 in outcome.codes and "--sync-batch-norm: True before, False now" in outcome.text
    outcome = train(*flags, 2, "--batch-size", 3, "--allow-changes", ranks=2)
    assert outcome.codes == [0, 0], outcome.text


def test_two_ranks_validate_with_the_statistics_that_are_kept(train, tiny, tmp_path):
    flags = [*tiny, "--run-dir", tmp_path, "--ema-decay", 0, "--epochs", 1]
    assert train(*flags, ranks=2).codes == [0, 0]
    kept = pd.read_csv(tmp_path / "best" / "validation_predictions.csv")
    # weighted as the loss of training: inverse of the class's frequency, from the stored samples
    config = json.loads((tmp_path / "config.json").read_text())
    counts = [config["train_counts"][name] for name in ("benign", "malignant")]
    weight = (sum(counts) / 2 / np.array(counts))[kept["label"]]
    malignant = kept["prob_uncalibrated"]
    loss = -np.log(np.where(kept["label"] == 1, malignant, 1 - malignant))
    (row,) = pd.read_csv(tmp_path / "history.csv").to_dict("records")
    assert row["val_loss"] == pytest.approx(np.average(loss, weights=weight), rel=1e-5)
