"""ResNet-34 from scratch with the recipe of docs/results.md, as many epochs as fit; no torch."""

import subprocess
import sys
import time

from benchmarks.gpu.commands import ROOT, epoch_images, rows
from benchmarks.gpu.plan import Plan
from benchmarks.gpu.worker import Found, attempt

NAME = "ResNet-34 from scratch, validation"
START = 45
"""Seconds before the first step and after the last."""
RATE = 2000
"""Images/s that a training surely reaches."""
MOST = 10
"""Epochs of the recipe."""
RECIPE = (
    *("--task", "dx", "--class-weights", "none", "--optimizer", "adamw", "--schedule", "onecycle"),
    *("--lr", "1e-3", "--weights", "none", "--tracker", "none"),
)


def run(plan: Plan) -> None:
    """Train on the user's shards."""
    attempt(NAME, lambda: trained(plan))


def trained(plan: Plan) -> Found:
    """Return the best validation ROC-AUC of the epochs that fit."""
    if plan.shards is None and not plan.dry:
        return {"status": "not available", "note": "give real shards (--shards DIR)"}
    epochs = 1 if plan.dry else int((plan.seconds - START) * RATE / epoch_images(plan))
    if epochs < 1:
        return {"status": "no time left"}
    epochs, began = min(epochs, MOST), time.monotonic()
    words = ["--shards", plan.training_shards, "--run-dir", plan.work / "recipe"]
    words += ["--epochs", epochs, "--image-size", plan.scale.image_size]
    words += ["--arch", plan.scale.arch, "--threads", 1 if plan.dry else 0]
    words += ["--batch-size", 8 if plan.dry else 64, *RECIPE]
    command = [sys.executable, "train.py", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-250:])
    history = rows(plan.work / "recipe" / "history.csv")
    best = max(float(row["val_roc_auc"]) for row in history)
    note = f"{epochs} epochs in {time.monotonic() - began:.0f} s"
    return {"value": best, "note": note, "figures": {"epochs": history}}
