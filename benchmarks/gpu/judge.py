"""Judging on the GPU: eval.py once, then the same model in other precisions and from portable.

whole/best of ``commands`` -> eval.py -> metrics.json
                           -> logits in float32, TF32, bf16, from either backend -> differences
"""

import contextlib
import json
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from benchmarks.gpu.plan import Plan
from benchmarks.gpu.worker import Found, attempt, emit
from benchmarks.loader_sources import run_module
from pipeline.learning.inference import predict_logits
from pipeline.learning.probability import malignant_probability
from pipeline.learning.stored_model import load_stored
from pipeline.loading.flags import Backend
from pipeline.loading.loader import make_loader
from pipeline.shards.dataset import open_shards
from pipeline.training.processes import make_accelerator, set_threads


def run(plan: Plan) -> None:
    """Judge the model of the uninterrupted training on the test split."""
    attempt("eval.py: ROC-AUC in float32", partial(judged, plan))
    judge = Judge(plan)
    reference = judge.logits()
    attempt("bf16 against float32", lambda: judge.compared(reference, judge.logits(bf16=True)))
    portable = partial(judge.logits, backend="portable")
    attempt("DALI against portable", lambda: judge.moved(reference, portable()))
    if plan.dry:
        emit("TF32 against float32", status="needs CUDA")
        return
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    attempt("TF32 against float32", lambda: judge.compared(reference, judge.logits()))


def judged(plan: Plan) -> Found:
    """Run eval.py as a user would."""
    out = plan.work / "report"
    words = ["--checkpoint", plan.work / "whole" / "best", "--shards", plan.training_shards]
    words += ["--out", out, "--resamples", 50, "--cases", 1, "--backend", "dali"]
    run_module(["eval", *map(str, words)])
    metrics = json.loads(Path(out / "metrics.json").read_text())
    return {"value": metrics["roc_auc"], "note": f"{metrics['n']} images"}


class Judge:
    """The model, and the images of the test split."""

    def __init__(self, plan: Plan) -> None:
        """Load both; float32 is float32 from here on."""
        self.accelerator = make_accelerator("no")
        self.threads = set_threads(1 if plan.dry else 0, self.accelerator)
        self.model, self.card, _ = load_stored(plan.work / "whole" / "best")
        self.model.to(self.accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.split = open_shards(plan.training_shards).split("test")
        self.label = self.split.samples["label"].to_numpy()

    def logits(self, *, backend: Backend = "dali", bf16: bool = False) -> np.ndarray:
        """Return the logits of every image, float32 [N, K]."""
        device = self.accelerator.device
        loader = make_loader(
            self.split,
            phase="eval",
            image_size=self.card.image_size,
            batch_size=64,
            device=device,
            threads=self.threads,
            backend=backend,
        )
        precision = torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)
        with contextlib.closing(loader), precision:
            found = predict_logits(self.model, loader.epoch(0), accelerator=self.accelerator)
        return found.logits

    def compared(self, reference: np.ndarray, other: np.ndarray) -> Found:
        """Return the change of ROC-AUC, and the largest one of a logit."""
        areas = [roc_auc_score(self.label, self.malignant(each)) for each in (reference, other)]
        largest = float(np.abs(other - reference).max())
        figures = {"float32": areas[0], "other": areas[1], "largest change of a logit": largest}
        note = f"a logit moves by {largest:.2g} at most"
        return {"value": abs(areas[1] - areas[0]), "note": note, "figures": figures}

    def moved(self, reference: np.ndarray, other: np.ndarray) -> Found:
        """Return the mean change of the malignant probability."""
        change = np.abs(self.malignant(other) - self.malignant(reference))
        note = f"{change.max():.2g} at most"
        return {"value": float(change.mean()), "note": note}

    def malignant(self, logits: np.ndarray) -> np.ndarray:
        """Return the probability of malignant, [N], not calibrated."""
        return malignant_probability(logits, self.card.outputs)
