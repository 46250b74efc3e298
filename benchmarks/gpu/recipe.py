"""ResNet-34 from scratch with the recipe of docs/results.md, as many epochs as fit; no torch."""

import time

from benchmarks.gpu.commands import epoch_images, rows
from benchmarks.gpu.plan import Plan
from benchmarks.gpu.worker import Found, attempt
from benchmarks.loader_sources import run_module

NAME = "ResNet-34 from scratch, validation"
START = 45
"""Seconds before the first step and after the last."""
RATE = 2000
"""Images/s that are assumed when the number of epochs is chosen."""
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
    run_module(["train", *map(str, words)])
    history = rows(plan.work / "recipe" / "history.csv")
    best = max(float(row["val_roc_auc"]) for row in history)
    note = f"{epochs} epochs in {time.monotonic() - began:.0f} s"
    return {"value": best, "note": note, "figures": {"epochs": history}}
