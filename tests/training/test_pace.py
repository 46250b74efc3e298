"""What a training says when it waits for data."""

import pandas as pd

from pipeline.training.pace import advice


def test_slow_loader_is_reported_with_what_helps(train, tiny, tmp_path):
    outcome = train(*tiny, "--epochs", 2, "--run-dir", tmp_path, die=[0, "slow", 60])
    assert outcome.codes == [0], outcome.text
    (line,) = [line for line in outcome.text.splitlines() if "waiting for data:" in line]
    for flag in ("--threads", "--image-size", "--backend", "--cache"):
        assert flag in line
    timing = pd.read_csv(tmp_path / "timing.csv")
    assert (timing["waiting_share"] > 0.1).all()
    assert timing["images_per_second"].max() < 6 / 0.06  # 6 images a batch, 60 ms each at least
    assert "images/s" in outcome.text


def test_ten_percent_of_waiting_are_not_reported():
    assert advice(0.1) is None and "11%" in str(advice(0.11))
