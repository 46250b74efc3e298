"""train.py as a user starts it: uninterrupted, killed by SIGTERM and resumed, in fp16; no torch.

whole, in bf16, compiled -> RUN/history.csv, images of each step   |  compared with
the same by accelerate launch, SIGTERM in its first epoch, the same command again
"""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.gpu.plan import ROOT, Plan
from benchmarks.gpu.worker import Found, attempt, emit
from pipeline.shards.dataset import open_shards

IMAGES, LOSS = "train.py killed and resumed: other images", "train.py killed and resumed: last loss"
WAITING, FP16 = (
    "train.py: waiting for data in an epoch",
    "train.py --mixed-precision fp16: last loss",
)
EPOCHS = 2
TERMINATED = 143
"""What RUN/exit.json says after SIGTERM."""


def run(plan: Plan) -> None:
    """Train four times and print what came of it."""
    more = ["--compile", *([] if plan.dry else ["--cuda-graphs"])]
    attempt(WAITING, lambda: whole(plan, more))
    if (plan.work / "whole" / "best").exists():
        killed(plan, more)
    if plan.dry:
        emit(FP16, status="needs CUDA")
    else:
        attempt(FP16, lambda: fp16(plan))


def flags(plan: Plan, name: str, *more: str) -> list[str]:
    """Return the flags of a training in the folder ``name``."""
    words = {
        "--shards": plan.training_shards,
        "--run-dir": plan.work / name,
        "--arch": plan.scale.arch,
        "--image-size": plan.scale.image_size,
        "--batch-size": 8 if plan.dry else 64,
        "--threads": 1 if plan.dry else 0,
        **{"--epochs": EPOCHS, "--weights": "none", "--tracker": "none", "--backend": "dali"},
        **{"--optimizer": "adamw", "--lr": 1e-3, "--ema-decay": 0.99, "--clip-norm": 1},
    }
    return [str(word) for pair in words.items() for word in pair] + list(more)


def start(plan: Plan, name: str, words: list[str], *more: str) -> "subprocess.Popen[str]":
    """Start a training whose output goes to a file beside its folder."""
    env = {**os.environ, "RECORD": str(plan.work / f"{name}.jsonl")}
    with (plan.work / f"{name}.log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, *words, "-m", "benchmarks.gpu.recorded", *flags(plan, name, *more)],
            cwd=ROOT,
            env=env,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )


def trained(plan: Plan, name: str, words: list[str], *more: str) -> float:
    """Train to the end and return the seconds.

    Raises:
        RuntimeError: it failed; the message is its last line.
    """
    began = time.monotonic()
    code = start(plan, name, words, *more).wait()
    if code:
        last = (plan.work / f"{name}.log").read_text().strip().splitlines()[-1:]
        raise RuntimeError(f"exit code {code}: {' '.join(last)[-250:]}")
    return time.monotonic() - began


def whole(plan: Plan, more: list[str]) -> Found:
    """Train uninterrupted; return the share of the last epoch spent waiting for data.

    Where ``--compile`` fails, the rest is done without it: it is taken out of ``more``.
    """
    compiled = "torch.compile switched off" if plan.dry else "compiled"
    try:
        seconds = trained(plan, "whole", [], *more)
    except RuntimeError as error:
        compiled = f"NOT compiled: {error}"
        more.clear()
        (plan.work / "whole.jsonl").unlink(missing_ok=True)
        seconds = trained(plan, "whole", [], "--resume", "never")
    row = rows(plan.work / "whole" / "timing.csv")[-1]
    figures = {
        **row,
        "seconds of the command": round(seconds, 1),
        "steps": len(steps(plan, "whole")),
    }
    note = (
        f"{float(row['seconds']):.1f} s, {float(row['images_per_second']):.0f} images/s, {compiled}"
    )
    return {"value": float(row["waiting_share"]), "note": note, "figures": figures}


def killed(plan: Plan, more: list[str]) -> None:
    """Train by the launcher, end it in the first epoch, resume; print both rows."""
    config = f"configs/{'one_cpu' if plan.dry else 'one_gpu'}.yaml"
    launcher = ["-m", "accelerate.commands.launch", "--config_file", config]
    try:
        interrupt(plan, launcher, more)
        trained(plan, "killed", launcher, *more)
    except (RuntimeError, OSError, ValueError) as error:
        emit(IMAGES, status="FAIL", note=str(error)[:300])
        emit(LOSS, status="FAIL", note="not resumed")
        return
    attempt(IMAGES, lambda: other_images(plan))
    attempt(LOSS, lambda: compared(plan, "killed"))


def interrupt(plan: Plan, launcher: list[str], more: list[str]) -> None:
    """Send SIGTERM to the launcher at a quarter of the first epoch's steps; wait for the save.

    Raises:
        RuntimeError: the training had ended before, or did not say that it was terminated.
    """
    at = max(1, len(steps(plan, "whole")) // (4 * EPOCHS))
    process = start(plan, "killed", launcher, *more)
    while process.poll() is None and len(steps(plan, "killed")) < at:
        time.sleep(0.02)
    process.terminate()
    process.wait()
    said = plan.work / "killed" / "exit.json"
    until = time.monotonic() + 30
    while not said.is_file() and time.monotonic() < until:  # a launcher does not wait for its rank
        time.sleep(0.1)
    code = json.loads(said.read_text())["code"] if said.is_file() else None
    if code != TERMINATED:
        raise RuntimeError(f"RUN/exit.json after SIGTERM says {code}, not {TERMINATED}")


def other_images(plan: Plan) -> Found:
    """Return how many steps took other images than those of the uninterrupted training."""
    expected, found = steps(plan, "whole"), steps(plan, "killed")
    differing = {at for at in {*expected, *found} if expected.get(at) != found.get(at)}
    lines = (plan.work / "killed.jsonl").read_text().splitlines()
    numbers = [json.loads(line)["step"] for line in lines]
    note = f"of {len(expected)}; killed once, {len(numbers) - len(set(numbers))} steps taken twice"
    return {"value": len(differing), "note": note}


def compared(plan: Plan, name: str) -> Found:
    """Return the relative difference between the last training losses of two runs."""
    losses = [
        float(rows(plan.work / each / "history.csv")[-1]["train_loss"]) for each in ("whole", name)
    ]
    change = abs(losses[1] - losses[0]) / losses[0]
    return {"value": round(change, 6), "figures": {"whole": losses[0], name: losses[1]}}


def fp16(plan: Plan) -> Found:
    """Train in fp16, whose gradients are scaled, and compare the loss with that in bf16."""
    trained(plan, "fp16", [], "--mixed-precision", "fp16")
    return compared(plan, "fp16")


def steps(plan: Plan, name: str) -> dict[int, str]:
    """Return the images of each step; of a step taken twice the last ones."""
    path = plan.work / f"{name}.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    whole_lines = [json.loads(line) for line in lines if line.endswith("\n")]
    return {line["step"]: line["images"] for line in whole_lines}


def rows(path: Path) -> list[dict[str, str]]:
    """Return the lines of a table."""
    with path.open() as file:
        return list(csv.DictReader(file))


def epoch_images(plan: Plan) -> int:
    """Return the number of images that an epoch trains on."""
    return len(open_shards(plan.training_shards).split("train").samples)
