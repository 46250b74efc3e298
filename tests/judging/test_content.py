"""Training photographs in another set are named, also under other names and in another form."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

from pipeline.files import publish_folder
from pipeline.ham10000.taxonomy import HAM10000
from pipeline.learning.model import build_model
from pipeline.learning.stored_model import ModelCard, samples_csv, stored_files
from pipeline.shards.dataset import open_shards

QUICK = ("--resamples", "20", "--cases", "2", "--batch-size", "8")


@pytest.fixture(scope="module")
def outside(tmp_path_factory, command, synthetic_source):
    """Shards of new images, among them five training images turned, shrunk, compressed, renamed."""
    folder = tmp_path_factory.mktemp("outside")
    known, mixed = folder / "known", folder / "mixed"
    build = ("-m", "pipeline.shards", "build", "--workers", "1")
    assert command(*build, "--source", synthetic_source, "--out", known).returncode == 0
    new = ("-m", "pipeline.ham10000", "synthesize", "--images", "24", "--seed", "77")
    assert command(*new, "--out", mixed).returncode == 0
    table = pd.read_csv(mixed / "HAM10000_metadata.csv")
    (mixed / "own").mkdir()
    for number, path in enumerate(sorted(mixed.rglob("*.jpg"))):
        shutil.move(path, mixed / "own" / f"outside_{number:02d}.jpg")
    table["image_id"] = [f"outside_{number:02d}" for number in range(len(table))]
    table["lesion_id"] = table["image_id"]
    train = open_shards(known).split("train").samples["image_id"]
    copies = {}
    for number, name in enumerate(train.iloc[::12].head(5)):
        with Image.open(next(Path(synthetic_source).rglob(f"{name}.jpg"))) as image:
            turned = image.rotate(90 * number, expand=True).resize((240, 240 * 3 // 4))
            turned.save(mixed / "own" / f"outside_{number:02d}.jpg", quality=70)
        copies[f"outside_{number:02d}"] = name
    for old in mixed.glob("HAM10000_*"):
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    table.to_csv(mixed / "table.csv", index=False)
    out = folder / "outside"
    shares = ("--val-fraction", "0.1", "--test-fraction", "0.8")
    done = command(*build, "--source", mixed, "--out", out, *shares)
    assert done.returncode == 0, done.stderr
    return known, out, copies


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, outside):
    shards = open_shards(outside[0])
    torch.manual_seed(0)
    card = ModelCard("resnet18", "dx", HAM10000.classes, 64, manifest_sha256=shards.manifest_sha256)
    seen = shards.samples[shards.samples["split"] != "test"]
    folder = tmp_path_factory.mktemp("run") / "best"
    publish_folder(
        folder, stored_files(build_model("resnet18", 7).state_dict(), card, samples_csv(seen))
    )
    return folder


@pytest.mark.slow
def test_training_photographs_in_an_outside_set_are_refused_by_name(
    command, outside, checkpoint, tmp_path
):
    known, shards, copies = outside
    judged = set(open_shards(shards).split("test").samples["image_id"]) & set(copies)
    assert len(judged) >= 3
    words = ("eval.py", "--checkpoint", checkpoint, "--shards", shards, "--out", tmp_path / "r")
    refused = command(*words, *QUICK, "--check-content", known)
    assert refused.returncode == 2
    found = [name for name in judged if f"{name} = {copies[name]}" in refused.stderr]
    assert len(found) >= len(judged) - 1
    allowed = command(*words, *QUICK, "--check-content", known, "--allow-leak")
    assert allowed.returncode == 0, allowed.stderr
    leak = json.loads((tmp_path / "r" / "metrics.json").read_text())["provenance"]["leak"]
    assert leak["found"] and len(found) <= leak["photographs"] <= len(judged)
    page = (tmp_path / "r" / "report.html").read_text()
    assert f"{leak['photographs']} photographs" in page


def test_shards_without_the_training_images_cannot_check_content(
    command, outside, checkpoint, tmp_path
):
    _, shards, _ = outside
    words = ("eval.py", "--checkpoint", checkpoint, "--shards", shards, "--out", tmp_path / "r")
    done = command(*words, *QUICK, "--check-content", shards)
    assert done.returncode == 2 and "give the shards of that training" in done.stderr
