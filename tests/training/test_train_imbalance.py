"""The table of remedies: every row trains, finished rows are kept, other settings are refused."""

import json

import numpy as np
import pytest

from benchmarks.imbalance import REMEDIES, sensitivity_at


def test_sensitivity_is_read_at_the_specificity():

    label = np.array([0] * 20 + [1] * 4)
    probability = np.concatenate([np.linspace(0, 0.95, 20), [0.1, 0.92, 0.96, 0.99]])
    assert sensitivity_at(label, probability, 0.95) == 0.75  # one of 20 may be called: 0.95
    assert sensitivity_at(label, probability, 1.0) == 0.5


@pytest.mark.slow
def test_table_keeps_finished_rows_and_refuses_another_setting(command, packed, tmp_path):
    table = tmp_path / "table.json"
    words = ["-m", "benchmarks.imbalance", "--shards", packed, "--runs", tmp_path / "runs"]
    words += ["--json", table, "--arch", "shufflenet_v2_x0_5", "--epochs", "1"]
    words += ["--batch-size", "8", "--image-size", "32"]
    words += ["--only", "none", "SMOTE refit"]
    done = command(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    first = json.loads(table.read_text())
    assert list(first["rows"]) == ["none", "SMOTE refit"]
    stored = first["rows"].pop("SMOTE refit")
    table.write_text(json.dumps(first))
    again = command(*words)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "-- none" not in again.stdout  # that row was kept
    assert json.loads(table.read_text())["rows"]["SMOTE refit"] == stored
    refused = command(*words, "--seed", "1")
    assert refused.returncode == 2 and "seed differ" in refused.stderr


@pytest.mark.slow
def test_every_row_of_the_table_trains(command, packed, tmp_path):
    words = ["--runs", tmp_path, "--json", tmp_path / "t.json", "--arch", "shufflenet_v2_x0_5"]
    words += ["--shards", packed, "--epochs", "1", "--batch-size", "8", "--image-size", "32"]
    done = command("-m", "benchmarks.imbalance", *words, timeout=550)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(json.loads((tmp_path / "t.json").read_text())["rows"]) == list(REMEDIES)
