"""The table of remedies: every row trains, finished rows are kept, other settings are refused."""

import json

from benchmarks.imbalance import REMEDIES, sensitivity_at


def test_sensitivity_is_read_at_the_specificity():
    import numpy as np

    label = np.array([0] * 20 + [1] * 4)
    probability = np.concatenate([np.linspace(0, 0.95, 20), [0.1, 0.92, 0.96, 0.99]])
    assert sensitivity_at(label, probability, 0.95) == 0.75  # one of 20 may be called: 0.95
    assert sensitivity_at(label, probability, 1.0) == 0.5


def test_table_keeps_finished_rows_and_refuses_another_setting(command, packed, tmp_path):
    table = tmp_path / "table.json"
    words = ["-m", "benchmarks.imbalance", "--shards", packed, "--runs", tmp_path / "runs"]
    words += ["--json", table, "--arch", "shufflenet_v2_x0_5", "--epochs", "1"]
    words += ["--batch-size", "8", "--image-size", "32"]
    done = command(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    first = json.loads(table.read_text())
    assert list(first["rows"]) == list(REMEDIES)
    stored = first["rows"].pop("SMOTE refit")
    table.write_text(json.dumps(first))
    again = command(*words)
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.count("-- ") == 1  # that row alone was made again
    assert json.loads(table.read_text())["rows"]["SMOTE refit"] == stored
    refused = command(*words, "--seed", "1")
    assert refused.returncode == 2 and "seed differ" in refused.stderr
