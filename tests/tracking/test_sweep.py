"""configs/sweep.yaml: the command that `wandb agent` would run, expanded as W&B documents it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from pipeline.cli import parse
from pipeline.training.flags import TrainFlags

ROOT = Path(__file__).resolve().parents[2]
SWEEP = yaml.safe_load((ROOT / "configs" / "sweep.yaml").read_text())


def drawn(**others) -> dict:
    """Parameters as a server draws them: the first of each range, but for ``others``."""
    values = {}
    for name, entry in SWEEP["parameters"].items():
        values[name] = entry.get("value", entry.get("values", [entry.get("min")])[0])
    return values | {name.replace("_", "-"): value for name, value in others.items()}


def arguments(parameters: dict) -> list[str]:
    """``${args}``."""
    return [f"--{name}={value}" for name, value in parameters.items()]


def test_every_value_is_taken_by_train_py():
    for name, entry in SWEEP["parameters"].items():
        ends = [entry[end] for end in ("min", "max") if end in entry]
        for value in [entry["value"]] if "value" in entry else entry.get("values", ends):
            flags = parse(TrainFlags, argv=arguments({name: value})).flat()
            assert str(flags[name.replace("-", "_")]) == str(value)


@pytest.fixture
def start(packed, tmp_path):
    """``start(**parameters)``: the sweep's command in a copy of the project's folder."""
    for name in ("train.py", "pipeline", "configs", "accelerate_config.yaml"):
        (tmp_path / name).symlink_to(ROOT / name)
    tiny = {"arch": "shufflenet_v2_x0_5", "weights": "none", "image_size": 32, "batch_size": 6}

    def begin(**others) -> subprocess.Popen:
        words: list[str] = []
        for word in SWEEP["command"]:
            parameters = drawn(shards=str(packed), **tiny, **others)
            filled = {"${program}": [SWEEP["program"]], "${args}": arguments(parameters)}
            words += filled.get(word, [word])
        beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        env = {"WANDB_MODE": "offline", "WANDB_SWEEP_ID": "s1", "WANDB_RUN_ID": "run1"}
        return subprocess.Popen(
            words,
            cwd=tmp_path,
            env={**os.environ, **env, "PATH": beside},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return begin


@pytest.mark.slow
def test_the_sweeps_command_trains_with_the_drawn_flags_and_logs_its_metric(
    start, packed, tmp_path
):
    process = start(epochs=1)
    text, _ = process.communicate(timeout=280)
    run = tmp_path / "runs" / "sweep-run1"
    assert process.returncode == 0 and (run / "history.csv").exists(), text
    flags = json.loads((run / "config.json").read_text())["flags"]
    for name, value in drawn(shards=str(packed), epochs=1).items():
        if name not in ("arch", "batch-size"):
            assert flags[name.replace("-", "_")] == value
    assert len(pd.read_csv(run / "history.csv")) == 1
    (file,) = run.rglob("run-run1.wandb")  # the sweep's run, not another one
    assert SWEEP["metric"]["name"].encode() in file.read_bytes()


@pytest.mark.slow
def test_run_that_the_sweep_stops_early_saves_and_leaves_no_process(start, packed, tmp_path):
    process, run = start(epochs=400), tmp_path / "runs" / "sweep-run1"
    give_up = time.monotonic() + 200
    while not (run / "history.csv").exists():
        assert process.poll() is None and time.monotonic() < give_up
        time.sleep(0.1)
    process.terminate()  # as the agent does
    text, _ = process.communicate(timeout=80)  # until nobody holds the pipe any more
    assert "saved; the same command" in text
    assert list((run / "checkpoints").glob("step-*"))
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        assert not (b"--epochs=400" in words and str(packed).encode() in words)
