"""eval.py as a user types it, on a small checkpoint with random weights."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.files import publish_folder
from pipeline.ham10000.taxonomy import HAM10000
from pipeline.learning.model import build_model
from pipeline.learning.stored_model import ModelCard, samples_csv, stored_files
from pipeline.owner import OWNER
from pipeline.shards.dataset import open_shards

ROOT = Path(__file__).resolve().parents[2]
QUICK = ("--resamples", "20", "--cases", "2", "--batch-size", "8")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, packed):
    """A seven-class model with random weights, trained on train and val of ``packed``."""
    torch.manual_seed(0)
    shards = open_shards(packed)
    folder = tmp_path_factory.mktemp("run") / "best"
    card = ModelCard(
        arch="resnet18",
        task="dx",
        classes=HAM10000.classes,
        image_size=64,
        threshold=0.4,
        temperature=1.5,
        bias=-0.7,
        manifest_sha256=shards.manifest_sha256,
    )
    seen = shards.samples[shards.samples["split"] != "test"]
    publish_folder(
        folder, stored_files(build_model("resnet18", 7).state_dict(), card, samples_csv(seen))
    )
    return folder


@pytest.fixture(scope="module")
def judged(tmp_path_factory, command, checkpoint, packed):
    """A report on the test split, by one process."""
    out = tmp_path_factory.mktemp("reports") / "one"
    done = command("eval.py", "--checkpoint", checkpoint, "--shards", packed, "--out", out, *QUICK)
    assert done.returncode == 0, done.stderr
    return out


def test_a_report_judges_every_image_of_the_split_once(judged, packed):
    manifest = json.loads((packed / "manifest.json").read_text())
    metrics = json.loads((judged / "metrics.json").read_text())
    table = pd.read_csv(judged / "predictions.csv")
    assert metrics["n"] == len(table) == manifest["counts"]["test"]
    assert table["image_id"].is_unique
    assert metrics["threshold"] == 0.4
    assert metrics["provenance"]["leak"]["found"] is False
    assert metrics["provenance"]["backend"] == "portable on cpu"  # --backend auto
    assert "backend portable on cpu" in (judged / "report.html").read_text()
    assert ((table["prob_malignant"] >= 0.4) == table["predicted"].astype(bool)).all()
    assert (judged / "report.html").is_file()


def test_two_processes_write_the_same_predictions(judged, checkpoint, packed, tmp_path):
    flags = ["--checkpoint", checkpoint, "--shards", packed, "--out", tmp_path / "two", *QUICK]
    launch = ["launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1", "eval.py"]
    words = [Path(sys.executable).parent / "accelerate", *launch, *map(str, flags)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("report:") == 1  # only the main process prints
    one = (judged / "predictions.csv").read_bytes()
    assert (tmp_path / "two" / "predictions.csv").read_bytes() == one


def test_another_batch_size_and_the_dali_backend_agree(
    judged, checkpoint, packed, command, tmp_path
):
    expected = pd.read_csv(judged / "predictions.csv")["prob_malignant"]
    for name, flags, tolerance in (
        ("batch", ("--batch-size", "5"), 1e-5),
        ("dali", ("--backend", "dali"), 0.05),
    ):
        where = ("--checkpoint", checkpoint, "--shards", packed, "--out", tmp_path / name)
        done = command("eval.py", *where, *QUICK, *flags)
        assert done.returncode == 0, done.stderr
        found = pd.read_csv(tmp_path / name / "predictions.csv")["prob_malignant"]
        np.testing.assert_allclose(found, expected, atol=tolerance)


def test_training_samples_are_refused_unless_allowed_and_then_reported(
    checkpoint, packed, command, tmp_path
):
    where = ("--checkpoint", checkpoint, "--shards", packed, "--out", tmp_path / "out")
    words = ("eval.py", *where, "--split", "val", *QUICK)
    refused = command(*words)
    assert refused.returncode == 2
    assert "--allow-leak" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "out").exists()
    allowed = command(*words, "--allow-leak", "--threshold", "0.2")
    assert allowed.returncode == 0, allowed.stderr
    assert "LEAK" in allowed.stdout
    text = (tmp_path / "out" / "report.html").read_text()
    assert 'class="alarm" role="alert">Leak' in text
    assert "was given by hand (--threshold)" in text


def test_predict_and_export(checkpoint, packed, synthetic_source, command, tmp_path):
    image = next(synthetic_source.rglob("*.jpg"))
    out = tmp_path / "loose"
    done = command("eval.py", "predict", "--checkpoint", checkpoint, "--out", out, image)
    assert done.returncode == 0, done.stderr
    assert list(pd.read_csv(out / "predictions.csv")["image"]) == [str(image)]
    assert (out / "predictions.png").is_file()
    target = tmp_path / "model.onnx"
    done = command(
        *("eval.py", "export", "--checkpoint", checkpoint, "--onnx", target),
        *("--shards", packed, "--images", "5"),
    )
    assert done.returncode == 0, done.stderr
    assert target.is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--checkpoint", "nowhere/best"), "no stored model there"),
        (("--batch-sise", "4"), "--batch-size"),
        (("--threshold", "2"), "must be from 0 to 1"),
        (("compare", "nowhere"), "at least two report folders"),
    ],
)
def test_a_mistake_ends_with_one_message_and_exit_code_2(words, message, command):
    done = command("eval.py", *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


WITHOUT_TORCH = """
import runpy, sys
try:
    runpy.run_path("eval.py", run_name="__main__")
finally:
    heavy = {"torch", "accelerate"} & set(sys.modules)
    assert not heavy, heavy
"""


def test_reports_are_compared_without_importing_torch(judged, command, tmp_path):
    out = tmp_path / "both"
    done = command("-c", WITHOUT_TORCH, "compare", judged, judged, "--out", out, "--resamples", "9")
    assert done.returncode == 0, done.stderr
    assert "ROC-AUC +0.0000, p = 1.0000" in done.stdout
    assert (out / "report.html").is_file()


@pytest.fixture
def suspended():
    """``suspended(out, *words)``: a started command that has OUT and is stopped by SIGSTOP."""
    started = []

    def start(out: Path, *words: str | Path) -> subprocess.Popen[str]:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(list(map(str, words)), cwd=ROOT, **quiet)
        started.append(process)
        while not (out / OWNER).exists():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.005)
        owner = json.loads((out / OWNER).read_text() or "{}").get("pid", process.pid)
        os.kill(owner, signal.SIGSTOP)
        process.owner = owner
        return process

    yield start
    for process in started:
        for pid in (process.owner, process.pid):
            if process.poll() is None:
                os.kill(pid, signal.SIGCONT)
                os.kill(pid, signal.SIGKILL)
        process.communicate()


LAUNCH = (Path(sys.executable).parent / "accelerate", "launch", "--multi_gpu", "--num_processes")


@pytest.mark.parametrize(
    "word",
    [
        "compare",
        pytest.param("judge", marks=pytest.mark.slow),
        pytest.param("predict", marks=pytest.mark.slow),
    ],
)
def test_one_report_has_one_writer(
    word, suspended, command, judged, checkpoint, packed, synthetic_source, tmp_path
):
    out = tmp_path / "out"
    words = {
        "compare": ("eval.py", "compare", judged, judged, "--resamples", "9"),
        "judge": ("eval.py", "--checkpoint", checkpoint, "--shards", packed, *QUICK),
        "predict": ("eval.py", "predict", synthetic_source, "--checkpoint", checkpoint),
    }[word]
    words = (*words, "--out", out)
    start = (sys.executable,) if word == "compare" else (*LAUNCH, "2", "--num_machines", "1")
    first = suspended(out, *start, *words)  # several ranks of one launch are one writer
    before = sorted(path.name for path in out.iterdir())
    refused = command(*words)
    assert refused.returncode == 2, refused.stdout
    assert f"--out {out} is in use by process {first.owner}" in refused.stderr
    assert "started " in refused.stderr and "Traceback" not in refused.stderr
    assert sorted(path.name for path in out.iterdir()) == before
    os.kill(first.owner, signal.SIGCONT)
    assert first.wait(120) == 0, first.stderr.read()
    table = {"compare": "comparison.json"}.get(word, "predictions.csv")
    assert (out / table).is_file() and not (out / OWNER).exists()
    again = suspended(out, *start, *words)
    os.kill(again.owner, signal.SIGKILL)
    again.wait(60)
    done = command(*words)  # the dead are replaced at once
    assert done.returncode == 0, done.stderr
    assert (out / table).is_file() and not (out / OWNER).exists()
