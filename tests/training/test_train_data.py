"""What train.py makes of the shards it is given: folds, and labels without a diagnosis."""

import csv
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.errors import DataError
from pipeline.learning.probability import require_diagnoses

Command = Callable[..., subprocess.CompletedProcess[str]]

TINY = ("--arch", "resnet18", "--weights", "none", "--image-size", "32", "--epochs", "1")
QUICK = ("--batch-size", "8", "--tracker", "none", "--threads", "1")


def test_a_fold_is_validated_on_and_the_others_are_trained_on(
    synthetic_source: Path, tmp_path: Path, command: Command
) -> None:
    shards, run = tmp_path / "shards", tmp_path / "run"
    build = ("-m", "pipeline.shards", "build", "--source", synthetic_source, "--out", shards)
    done = command(*build, "--image-size", "32", "--folds", "3", "--samples-per-shard", "20")
    assert done.returncode == 0, done.stderr
    train = ("train.py", "--shards", shards, "--run-dir", run, *TINY, *QUICK)
    unnamed = command(*train)
    assert unnamed.returncode == 2
    assert "name a fold" in unnamed.stderr
    done = command(*train, "--fold", "1")
    assert done.returncode == 0, done.stderr
    kept = pd.read_csv(run / "best" / "training_samples.csv").set_index("image_id")["split"]
    table = pd.read_csv(shards / "samples.csv").set_index("image_id")
    inside = table[table["split"] == "train"]
    expected = inside["fold"].map(lambda fold: "val" if fold == 1 else "train")
    pd.testing.assert_series_equal(
        kept.sort_index(), expected.sort_index(), check_names=False, check_dtype=False
    )
    assert json.loads((run / "config.json").read_text())["flags"]["fold"] == 1


def test_batches_of_one_image_are_refused_where_the_network_takes_none(
    tiny: list[str], tmp_path: Path, train: Callable[..., Any]
) -> None:
    one = [*tiny, "--run-dir", tmp_path / "run", "--batch-size", "1", "--epochs", "1"]
    refused = train(*one, "--arch", "resnet18")  # ends at 1 x 1 pixel
    assert refused.codes == [2], refused.text
    assert "batches of one image (--batch-size 1) at --image-size 32" in refused.text


def test_seven_diagnoses_are_not_learnt_from_two_labels() -> None:
    require_diagnoses("dx", "dx", "shards/a")
    require_diagnoses("binary", "binary", "shards/a")
    with pytest.raises(DataError, match="without a diagnosis"):
        require_diagnoses("dx", "binary", "shards/a")


@pytest.mark.slow
def test_own_images_with_labels_alone_train_a_binary_classifier(
    synthetic_source: Path, tmp_path: Path, command: Command
) -> None:
    own, shards = tmp_path / "own", tmp_path / "shards"
    own.mkdir()
    with (synthetic_source / "HAM10000_metadata.csv").open() as file:
        rows = list(csv.DictReader(file))
    for path in synthetic_source.rglob("*.jpg"):
        shutil.copy(path, own / path.name)
    malignant = {"mel", "bcc", "akiec"}
    lines = [f"{row['image_id']},{int(row['dx'] in malignant)}" for row in rows]
    (own / "labels.csv").write_text("image_id,label\n" + "\n".join(lines) + "\n")
    build = ("-m", "pipeline.shards", "build", "--source", own, "--out", shards)
    done = command(*build, "--image-size", "32")
    assert done.returncode == 0, done.stderr
    train = ("train.py", "--shards", shards, "--run-dir", tmp_path / "run", *TINY, *QUICK)
    refused = command(*train, "--task", "dx")
    assert refused.returncode == 2
    assert "without a diagnosis" in refused.stderr
    assert "Traceback" not in refused.stderr
    done = command(*train)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "best" / "model.safetensors").is_file()
