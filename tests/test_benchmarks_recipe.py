"""The seeds of a recipe side by side, and the same on shards that leak."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from benchmarks.recipe import within
from pipeline.shards.dataset import open_shards

TINY = ("--image-size", "32", "--epochs", "1", "--seeds", "3", "4")
SMALL = ("--", "--arch", "shufflenet_v2_x0_5", "--batch-size", "8")


@pytest.fixture(scope="module")
def by_image(tmp_path_factory, command, synthetic_source):
    """Shards of the made-up dataset whose splits share lesions."""
    out = tmp_path_factory.mktemp("by-image") / "shards"
    done = command(
        *("-m", "pipeline.shards", "build", "--source", synthetic_source, "--out", out),
        *("--image-size", "64", "--split-by", "image", "--test-fraction", "0.15"),
    )
    assert done.returncode == 0, done.stderr
    return out


def test_shards_of_the_other_kind_are_refused(command, packed, by_image, tmp_path):
    for flags in (("--shards", by_image), ("--shards", packed, "--leaky", packed)):
        done = command("-m", "benchmarks.recipe", *flags, "--runs", tmp_path, *TINY, *SMALL)
        assert done.returncode == 2 and "expected shards split by" in done.stderr
    unknown = command("-m", "benchmarks.recipe", "--only", "seed 9", *TINY)
    assert unknown.returncode == 2 and "seed 3, seed 4" in unknown.stderr
    assert not list(tmp_path.iterdir())


def test_lesions_that_were_trained_on_are_judged_apart(tmp_path):
    rows = [("a", "x", "train"), ("b", "x", "test"), ("c", "y", "test"), ("d", "y", "test")]
    rows += [("e", "z", "test"), ("f", "w", "train"), ("g", "w", "test"), ("h", "y", "val")]
    samples = pd.DataFrame(rows, columns=["image_id", "lesion_id", "split"])
    test = samples[samples["split"] == "test"].assign(
        label=[1, 1, 0, 0, 0], prob_malignant=[0.9, 0.2, 0.3, 0.1, 0.1]
    )
    test.to_csv(tmp_path / "predictions.csv", index=False)  # b and g leak, e is alone
    said = within(samples, tmp_path)
    assert "1.000 for 2 images whose lesions were trained on" in said
    assert "0.000 for 2 images whose lesions were not" in said


@pytest.mark.slow
def test_rows_add_up_are_kept_and_hold_what_the_reports_say(command, packed, by_image, tmp_path):
    path = tmp_path / "table.json"
    words = ["-m", "benchmarks.recipe", "--shards", packed, "--leaky", by_image]
    words += ["--runs", tmp_path / "runs", "--json", path, *TINY]
    first = command(*words, "--only", "seed 4", "split by image", *SMALL, timeout=300)
    assert first.returncode == 0, first.stdout + first.stderr
    assert set(json.loads(path.read_text())["rows"]) == {"seed 4", "split by image"}
    whole = command(*words, *SMALL, timeout=300)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert "-- seed 3" in whole.stdout and "-- seed 4" not in whole.stdout
    rows = json.loads(path.read_text())["rows"]
    for name, row in rows.items():
        report = tmp_path / "runs" / name.replace(" ", "-") / "report"
        assert row["roc_auc"] == json.loads((report / "metrics.json").read_text())["roc_auc"]
    pair = [rows[name]["roc_auc"] for name in ("seed 3", "seed 4")]
    (mean,) = [line for line in whole.stdout.splitlines() if line.startswith("| mean of 2 |")]
    assert mean.split("|")[3].strip() == f"{np.mean(pair):.3f} ± {np.std(pair, ddof=1):.3f}"
    (line,) = [text for text in whole.stdout.splitlines() if "whose lesions" in text]
    counts = [int(word) for word in re.findall(r"for (\d+) images", line)]
    assert counts[0] > 0 and sum(counts) <= len(open_shards(by_image).split("test").samples)
    refused = command(*words, *SMALL, "--lr", "0.5")
    assert refused.returncode == 2 and "flags differ" in refused.stderr
