"""What flags promise, seen in what a training leaves."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from pipeline.errors import DataError
from pipeline.learning.stored_model import read_card
from pipeline.training.flags import ImbalanceFlags, TrainFlags
from pipeline.training.resume import changed_flags

ROOT = Path(__file__).resolve().parents[2]


def card(run: Path) -> dict:
    return json.loads((run / "best" / "model.json").read_text())


@pytest.mark.parametrize(
    "flags",
    [
        ("--task", "dx", "--loss", "focal", "--augment", "strong", "--backend", "portable"),
        ("--balance", "oversample", "--mixup", "0.2", "--label-smoothing", "0.1"),
        ("--balance", "undersample", "--batch-size", "2", "--cutmix", "1.0"),
        ("--task", "dx", "--loss", "logit-adjusted", "--optimizer", "sgd", "--clip-norm", "1"),
        ("--class-weights", "effective", "--schedule", "cosine", "--mixed-precision", "no"),
    ],
)
def test_remedies_and_regularisation_train_together(train, tiny, tmp_path, flags):
    outcome = train(*tiny, "--run-dir", tmp_path, *flags, "--epochs", 1)
    assert outcome.codes == [0] and "Warning" not in outcome.text, outcome.text
    row = pd.read_csv(tmp_path / "history.csv").iloc[0]
    assert 0 <= row["val_roc_auc"] <= 1 and math.isfinite(row["train_loss"])
    assert ("val_dx_accuracy" in row) is ("dx" in flags)
    assert len(card(tmp_path)["classes"]) == (7 if "dx" in flags else 2)


def test_last_partial_window_of_an_epoch_is_stepped(train, tiny, packed, tmp_path):
    outcome = train(*tiny, "--run-dir", tmp_path, "--epochs", 2, "--accumulate", 4)
    assert outcome.codes == [0], outcome.text
    samples = pd.read_csv(packed / "samples.csv")
    batches = (samples["split"] == "train").sum() // 6
    assert batches % 4  # else this test would show nothing
    per_epoch = math.ceil(batches / 4)
    assert pd.read_csv(tmp_path / "history.csv")["step"].to_list() == [per_epoch, 2 * per_epoch]


def test_early_stopping_ends_after_epochs_without_a_better_auc(train, tiny, tmp_path):
    flags = [*tiny, "--run-dir", tmp_path, "--lr", "1e-12", "--ema-decay", 0, "--dropout", 0]
    flags += ["--freeze-epochs", 30]  # nothing learns: the first epoch stays the best
    outcome = train(*flags, "--epochs", 30, "--early-stopping", 2, "--mixed-precision", "no")
    assert outcome.codes == [0] and "stopped early" in outcome.text
    assert len(pd.read_csv(tmp_path / "history.csv")) == 3
    assert card(tmp_path)["epoch"] == 1


def test_final_decision_is_fitted_with_the_views_and_kept(train, tiny, tmp_path):
    flags = [*tiny, "--run-dir", tmp_path, "--epochs", 1]
    assert train(*flags, "--no-calibrate").codes == [0]
    plain = card(tmp_path)
    assert plain["temperature"] == 1.0 and plain["bias"] == 0.0 and plain["tta"] == "none"
    outcome = train(*flags, "--tta", "flips", "--refit-head", "smote", "--target-sensitivity", 0.9)
    assert outcome.codes == [0], outcome.text
    final = card(tmp_path)
    assert final["tta"] == "flips" and final["refit_head"] == "smote"
    assert final["target_sensitivity"] == 0.9 and final["temperature"] != 1.0
    assert final["bias"] != 0.0 and set(final["without_tta"]) == {
        "threshold",
        "temperature",
        "bias",
    }
    assert final["weights_sha256"] != plain["weights_sha256"]
    once = (tmp_path / "best" / "model.json").read_bytes()
    again = train(*flags, "--tta", "flips", "--refit-head", "smote", "--target-sensitivity", 0.9)
    assert again.codes == [0] and (tmp_path / "best" / "model.json").read_bytes() == once


def test_a_model_fitted_with_views_is_judged_without_them_at_a_threshold_of_its_own(
    train, tiny, packed, tmp_path
):
    flags = [*tiny, "--run-dir", tmp_path / "run", "--epochs", 1, "--tta", "flips"]
    assert train(*flags, "--target-sensitivity", 0.9).codes == [0]
    final = card(tmp_path / "run")
    words = [
        "--checkpoint",
        tmp_path / "run" / "best",
        "--shards",
        packed,
        "--out",
        tmp_path / "out",
    ]
    words += ["--split", "val", "--allow-leak", "--out", tmp_path / "out", "--tta", "none"]
    words += ["--resamples", 20, "--cases", 1]
    command = [sys.executable, "eval.py", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found["threshold"] == final["without_tta"]["threshold"] != final["threshold"]
    assert found["sensitivity"] >= 0.9  # what it was chosen for, on this very split
    stored = read_card(tmp_path / "run" / "best")
    assert stored.at("flips") == stored
    with pytest.raises(DataError, match="fitted with none and flips"):
        stored.at("dihedral")


def test_class_weights_are_chosen_by_themselves_where_nothing_else_corrects():
    assert ImbalanceFlags().weighting == "inverse"
    assert ImbalanceFlags(loss="focal").weighting == "none"
    assert ImbalanceFlags(balance="oversample").weighting == "none"
    assert ImbalanceFlags(loss="focal", class_weights="inverse").weighting == "inverse"


def test_a_checkpoint_from_before_a_flag_existed_counts_as_its_default():
    now = TrainFlags().flat()
    old = {name: value for name, value in now.items() if name not in ("mixup", "focal_gamma")}
    assert changed_flags(old, now) == []
    assert changed_flags(old, now | {"mixup": 0.2}) == ["--mixup: 0.0 before, 0.2 now"]
    # flags of earlier versions: one that altered the training counts, others do not
    assert changed_flags(now | {"log_steps": 1, "plateau_factor": 0.1}, now) == []
    changed = changed_flags(now | {"plateau_factor": 0.5}, now)
    assert changed == ["--plateau-factor: 0.5 before, 0.1 now"]


def test_flags_that_no_step_depends_on_may_change():
    now = TrainFlags().flat()
    assert changed_flags(now | {"tta": "flips", "threads": 3, "epochs": 9, "notes": "a"}, now) == []
    cosine = now | {"schedule": "cosine"}
    assert changed_flags(cosine | {"epochs": 9}, cosine) == ["--epochs: 9 before, 30 now"]


@pytest.mark.gpu
def test_cuda_graphs_give_the_losses_of_single_launches(command, tiny, tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    flags = [*tiny, "--epochs", "2", "--dropout", "0.2", "--freeze-epochs", "1", "--clip-norm", "1"]
    for name, more in (("plain", ()), ("graphs", ("--compile", "--cuda-graphs"))):
        done = command("train.py", *flags, "--run-dir", tmp_path / name, *more, timeout=500)
        assert done.returncode == 0, done.stdout + done.stderr
    losses = [pd.read_csv(tmp_path / n / "history.csv")["val_loss"] for n in ("plain", "graphs")]
    assert losses[1].to_numpy() == pytest.approx(losses[0], rel=0.1)


@pytest.mark.slow
def test_compiled_network_gives_the_same_losses_and_is_stored_plainly(command, tiny, tmp_path):
    flags = [*tiny, "--epochs", "2", "--dropout", "0", "--mixed-precision", "no"]
    # the last layer alone learns: over six images batch norm is so ill-conditioned that what was
    # rounding in one step is a tenth of the loss ten steps later
    flags += ["--optimizer", "sgd", "--schedule", "constant", "--freeze-epochs", "2"]
    kernels = tmp_path / "kernels"
    for name, more in (("plain", ()), ("compiled", ("--compile",))):
        done = command(
            *("train.py", *flags, "--run-dir", tmp_path / name, *more),
            timeout=500,
            env={"TORCHINDUCTOR_CACHE_DIR": str(kernels)},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert any(kernels.rglob("*.cpp")) == (name == "compiled")
    plain, compiled = (pd.read_csv(tmp_path / n / "history.csv") for n in ("plain", "compiled"))
    assert compiled["train_loss"].to_numpy() == pytest.approx(plain["train_loss"], rel=1e-3)
    models = [load_file(tmp_path / n / "best" / "model.safetensors") for n in ("plain", "compiled")]
    assert models[0].keys() == models[1].keys()
