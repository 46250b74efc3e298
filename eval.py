"""Judge a checkpoint on held-out shards: figures, predictions, plots, and a report to read.

shards --make_loader--> Batch --model--> logits --> probabilities --> OUT/metrics.json,
predictions.csv, *.png, report.html

python eval.py --checkpoint runs/r34/best --shards shards/ham10000 --split test --out reports/r34
accelerate launch eval.py --checkpoint runs/r34/best             # all GPUs, the same figures
python eval.py compare reports/a reports/b --out reports/a-b     # do they differ?
python eval.py predict --checkpoint runs/r34/best --out OUT IMAGE_OR_FOLDER...   # or launched
python eval.py export --checkpoint runs/r34/best --onnx model.onnx
python eval.py submit --checkpoint runs/dx/best --out submission.csv    # an ISIC challenge's form
"""

from pipeline.cli import Command, choose, guard
from pipeline.machine import cores, leave_with_launcher

OPTIONS = "pipeline.evaluation.flags"
COMMANDS = {
    "judge": Command("judge a checkpoint on a split and write a report", f"{OPTIONS}:JudgeFlags"),
    "compare": Command(
        "put reports of the same images side by side",
        f"{OPTIONS}:CompareFlags",
        "pipeline.evaluation.report.comparison:run",
    ),
    "predict": Command(
        "predict images given as files: a CSV, a sheet",
        f"{OPTIONS}:PredictFlags",
        "pipeline.judging.predict:predict",
    ),
    "export": Command(
        "write ONNX and check it on real images",
        f"{OPTIONS}:ExportFlags",
        "pipeline.judging.export:export",
    ),
    "folds": Command(
        "join the runs of a cross-validation; make an ensemble of runs",
        f"{OPTIONS}:FoldsFlags",
        "pipeline.judging.folds:run",
    ),
    "features": Command(
        "write the features of all images before the last layer",
        f"{OPTIONS}:FeaturesFlags",
        "pipeline.judging.features:run",
    ),
    "baseline": Command(
        "judge a linear probe on features, or on age, sex and site",
        f"{OPTIONS}:BaselineFlags",
        "pipeline.judging.baseline:run",
    ),
    "submit": Command(
        "write predictions in the form of an ISIC challenge",
        f"{OPTIONS}:SubmitFlags",
        "pipeline.judging.submit:submit",
    ),
}

if __name__ == "__main__":  # flags first: --help and a typo answer before torch is imported
    leave_with_launcher()
    WORD, FLAGS = choose(COMMANDS, default="judge")
    if WORD != "judge":
        guard(lambda: COMMANDS[WORD].call(FLAGS))
        raise SystemExit(0)

import shlex
import sys
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from torch import nn

from pipeline.evaluation.flags import JudgeFlags
from pipeline.evaluation.leak import overlap
from pipeline.evaluation.metrics.summary import summarise
from pipeline.evaluation.predictions import assemble
from pipeline.evaluation.report.cases import SIDE, Pair, choose_cases
from pipeline.evaluation.report.data_card import DataCard
from pipeline.evaluation.report.judgement import print_headlines, write_report
from pipeline.evaluation.report.pictures import centre_square, image_quality
from pipeline.ham10000.layouts.data_card import card_of
from pipeline.judging.baseline import beside
from pipeline.judging.outside import drop, recalibration, validation_of
from pipeline.judging.scoring import Opened, classes_judged, logits_of, open_both, preprocess
from pipeline.learning.flags import Tta
from pipeline.learning.gradcam import decision_heat, overlay
from pipeline.learning.inference import Predictions
from pipeline.learning.model import networks_of
from pipeline.learning.stored_model import ModelCard, edits
from pipeline.loading.flags import resolved
from pipeline.loading.portable import decode_rgb
from pipeline.loading.samples import Samples
from pipeline.training.processes import make_accelerator, one_writer, set_threads


def judge(flags: JudgeFlags) -> None:
    """Judge; OUT is this launch's alone."""
    accelerator = make_accelerator(flags.speed.mixed_precision)
    with one_writer(flags.data.out, "--out", accelerator):
        judging(flags, accelerator)


def judging(flags: JudgeFlags, accelerator: Accelerator) -> None:
    """Predict a split on every rank, then write the report on the first."""
    method, threads = flags.method, set_threads(flags.speed.threads, accelerator)

    # -- model and shards; a split that the checkpoint was trained on is refused
    opened = open_both(flags.data, accelerator)

    # -- every image once
    tta = opened.card.tta if method.tta == "stored" else method.tta
    card = opened.card if method.threshold is not None else opened.card.at(tta)
    images = (opened.model, opened.split, flags.speed, accelerator)
    found = logits_of(*images, image_size=card.image_size, threads=threads, tta=tta)
    if accelerator.is_main_process:
        report(flags, opened, card, found, tta=tta, accelerator=accelerator)


def report(
    flags: JudgeFlags,
    opened: Opened,
    card: ModelCard,
    found: Predictions,
    *,
    tta: Tta,
    accelerator: Accelerator,
) -> None:
    """Turn the predictions of a split into figures, plots and a page.

    ``card`` is the checkpoint's, with the threshold that belongs to ``tta``.
    """
    data, method, split = flags.data, flags.method, opened.split

    # -- the table (refused unless every image is in it exactly once) and its metrics
    leak = overlap(opened.samples, opened.training)
    if data.check_content is not None:
        from pipeline.judging.content import check_content  # scikit-learn's models take a second

        leak["photographs"] = check_content(opened, data.check_content, allowed=data.allow_leak)
    threshold = card.threshold if method.threshold is None else method.threshold
    classes = classes_judged(card, opened.shards)
    table = card.scores(found.logits, threshold, classes)
    frame = assemble(opened.samples, found.image_ids, table, split.taxonomy)
    samples = Samples(split)
    frame[["sharpness", "brightness"]] = image_quality(samples.read, len(frame), workers=cores())
    ranks = accelerator.num_processes
    launcher = f"accelerate launch --multi_gpu --num_processes {ranks}" if ranks > 1 else "python"
    manifest, device = asdict(opened.shards.manifest), accelerator.device.type
    facts = DataCard(
        flags,
        model=asdict(card),
        manifest=manifest,
        manifest_sha256=opened.shards.manifest_sha256,
        leak=leak,
        edited=edits(data.checkpoint),
        num_training=len(opened.training),
        tta=tta,
        backend=f"{resolved(flags.speed.backend, device)} on {device}",
        command=f"{launcher} {shlex.join(sys.argv)}",
        data=card_of(manifest, opened.samples["lesion_id"]),
        classes=classes,
    )
    metrics = measure(flags, opened, card, frame, facts, threshold=threshold)

    # -- the report, with pictures of chosen cases
    chosen = choose_cases(frame, threshold=threshold, each=method.cases, seed=method.seed)
    rows = np.unique(np.concatenate(list(chosen.values()))).tolist()
    images = [decode_rgb(samples.read(row)) for row in rows]
    decided = frame["predicted"].to_numpy()[rows].tolist()
    pictures = explain(opened.model, card, images, decided, accelerator.device)
    write_report(data.out, frame, metrics, facts, dict(zip(rows, pictures, strict=True)), chosen)
    if flags.tracking.tracker == "wandb":
        from pipeline.tracking.report import track_report  # W&B takes a second to import

        track_report(data.out, metrics, checkpoint=data.checkpoint, group=flags.tracking.group)
    print_headlines(metrics)
    print(f"{metrics['n']:,} images; report: {data.out / 'report.html'}")


def measure(
    flags: JudgeFlags,
    opened: Opened,
    card: ModelCard,
    frame: pd.DataFrame,
    facts: DataCard,
    *,
    threshold: float,
) -> dict[str, Any]:
    """Return the content of metrics.json: figures, baselines, the drop against validation."""
    boot = {"resamples": flags.method.resamples, "seed": flags.method.seed}
    metrics = summarise(
        frame,
        opened.split.taxonomy,
        threshold=threshold,
        temperature=card.temperature,
        bias=card.bias,
        decide=card.decide,
        labels=opened.shards.manifest.labels,
        **boot,
    )
    metrics["baselines"] = beside(frame, opened.shards, opened.samples, **boot)
    validation = validation_of(flags.data.checkpoint, threshold, card.taxonomy)
    if validation is not None and facts.tta == opened.card.tta:
        metrics["drop"] = drop(frame, validation, **boot)
        if not facts.own_test:
            metrics["recalibration"] = recalibration(frame, seed=flags.method.seed)
    metrics["provenance"] = facts.provenance()
    return metrics


def explain(
    model: nn.Module,
    card: ModelCard,
    images: list[np.ndarray],
    decided: list[int],
    device: torch.device,
) -> list[Pair]:
    """Return each image as the model sees it, and the same with the Grad-CAM of its decision.

    Of an ensemble it is the mean of its members' maps.
    """
    inputs, outputs = preprocess(images, card).to(device), card.outputs
    each = [decision_heat(network, inputs, decided, outputs) for network in networks_of(model)]
    maps = np.mean(each, axis=0)
    pictures = [centre_square(image, SIDE) for image in images]
    return [(picture, overlay(picture, heat)) for picture, heat in zip(pictures, maps, strict=True)]


if __name__ == "__main__":
    guard(lambda: judge(FLAGS))
