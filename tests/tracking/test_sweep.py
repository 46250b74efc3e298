"""configs/sweep.yaml as `wandb agent` uses it, with the agent's own code and no server."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from wandb.sdk.launch.sweeps import utils

from pipeline.cli import parse
from pipeline.training.flags import TrainFlags

ROOT = Path(__file__).resolve().parents[2]
SWEEP = ROOT / "configs" / "sweep.yaml"

AGENT = """
import json, sys, time
from wandb.sdk.launch.sweeps.utils import load_sweep_config
from wandb.wandb_agent import Agent

sweep, args, stop_when = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
agent = Agent(api=None, queue=None, sweep_id="s1")
agent._sweep_command = load_sweep_config(sweep)["command"]
command = {"type": "run", "run_id": "run1", "program": load_sweep_config(sweep)["program"]}
answer = agent._process_command({**command, "args": args})
assert "exception" not in answer, answer
run = agent._run_processes["run1"]
if stop_when:
    from pathlib import Path
    while not Path(stop_when).exists():
        assert run.poll() is None
        time.sleep(0.1)
    agent._process_command({"type": "stop", "run_id": "run1"})
run.wait()
"""
"""What `wandb agent` does with a run that the server orders, and with an order to stop it."""


def sweep() -> dict:
    return yaml.safe_load(SWEEP.read_text())


def drawn(**others) -> dict:
    """Parameters as a server would send them: the first of each range, but for ``others``."""
    values = {}
    for name, entry in sweep()["parameters"].items():
        values[name] = entry.get("value", entry.get("values", [entry.get("min")])[0])
    values |= {name.replace("_", "-"): value for name, value in others.items()}
    return {name: {"value": value} for name, value in values.items()}


def test_every_value_is_taken_by_train_py():
    for name, entry in sweep()["parameters"].items():
        ends = [entry[end] for end in ("min", "max") if end in entry]
        for value in [entry["value"]] if "value" in entry else entry.get("values", ends):
            arguments = utils.create_sweep_command_args({"args": {name: {"value": value}}})
            config = parse(TrainFlags, about="", argv=arguments["args"])
            assert str(getattr(config, name.replace("-", "_"))) == str(value)


def start_agent(folder: Path, packed: Path, *, stop_when: str = "", **others) -> str:
    """Let an agent run one training in a copy of the project's folder; return what was printed."""
    for name in ("train.py", "pipeline", "configs", "accelerate_config.yaml"):
        (folder / name).symlink_to(ROOT / name)
    tiny = {"arch": "shufflenet_v2_x0_5", "weights": "none", "image_size": 32, "batch_size": 6}
    args = drawn(shards=str(packed), **tiny, **others)
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {"PATH": beside, "WANDB_MODE": "offline", "WANDB_SWEEP_ID": "s1", "WANDB_SILENT": "true"}
    with (folder / "log").open("w") as log:
        done = subprocess.run(
            [sys.executable, "-c", AGENT, str(SWEEP), json.dumps(args), stop_when],
            cwd=folder,
            env={**os.environ, **env, "PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=log,
            timeout=280,
            check=False,
        )
    said = (folder / "log").read_text()
    assert done.returncode == 0, said
    return said


def test_agents_command_line_trains_and_logs_the_metric_of_the_sweep(packed, tmp_path):
    said = start_agent(tmp_path, packed, epochs=1)
    run = tmp_path / "runs" / "sweep-run1"
    assert (run / "history.csv").exists(), said
    flags = json.loads((run / "config.json").read_text())["flags"]
    for name, entry in drawn(shards=str(packed), epochs=1).items():
        if name not in ("arch", "batch-size"):
            assert flags[name.replace("-", "_")] == entry["value"]
    assert len(pd.read_csv(run / "history.csv")) == 1
    (file,) = run.rglob("run-run1.wandb")  # the agent's run, not one beside it
    assert sweep()["metric"]["name"].encode() in file.read_bytes()


@pytest.mark.slow
def test_run_that_the_sweep_stops_early_saves_and_leaves_nobody_behind(packed, tmp_path):
    mark = "runs/sweep-run1/history.csv"
    said = start_agent(tmp_path, packed, epochs=400, stop_when=mark)
    assert "saved; the same command goes on" in said
    assert list((tmp_path / "runs/sweep-run1/checkpoints").glob("step-*"))
    assert (
        shutil.which("pgrep") is None
        or not subprocess.run(
            ["pgrep", "-f", f"train.py.*{packed}.*--epochs=400"], capture_output=True, check=False
        ).stdout
    )
