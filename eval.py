"""Judge a checkpoint on held-out shards: figures, predictions, plots, and a report to read.

shards --make_loader--> Batch --model--> logits --> probabilities --> OUT/metrics.json,
predictions.csv, *.png, report.html

python eval.py --checkpoint runs/r34/best --shards shards/ham10000 --split test --out reports/r34
accelerate launch eval.py --checkpoint runs/r34/best             # all GPUs, the same figures
python eval.py compare reports/a reports/b --out reports/a-b     # do they differ?
python eval.py predict --checkpoint runs/r34/best --out OUT IMAGE_OR_FOLDER...   # or launched
python eval.py export --checkpoint runs/r34/best --onnx model.onnx
"""

from pipeline.cli import Command, choose, guard
from pipeline.machine import cores, leave_with_launcher

OPTIONS = "pipeline.evaluation.flags"
COMMANDS = {
    "judge": Command("judge a checkpoint on a split and write a report", f"{OPTIONS}:JudgeFlags"),
    "compare": Command("put reports of the same images side by side", f"{OPTIONS}:CompareFlags"),
    "predict": Command("predict images given as files: a CSV, a sheet", f"{OPTIONS}:PredictFlags"),
    "export": Command("write ONNX and check it on real images", f"{OPTIONS}:ExportFlags"),
}

if __name__ == "__main__":  # flags first: --help and a typo answer before torch is imported
    leave_with_launcher()
    WORD, FLAGS = choose(COMMANDS, default="judge")
    if WORD == "compare":
        from pipeline.evaluation.report.comparison import run

        guard(lambda: run(FLAGS))
        raise SystemExit(0)

import shlex
import sys
from collections.abc import Iterable
from dataclasses import asdict

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from torch import nn
from tqdm import tqdm

from pipeline.errors import DataError, warn
from pipeline.evaluation.flags import ExportFlags, JudgeFlags, PredictFlags, SpeedFlags
from pipeline.evaluation.image_files import SKIP, find_images, rendered, write_predictions
from pipeline.evaluation.leak import overlap, refuse
from pipeline.evaluation.metrics.summary import summarise
from pipeline.evaluation.prediction_log import PredictionLog
from pipeline.evaluation.predictions import assemble, scored
from pipeline.evaluation.report.cases import SIDE, Pair, choose_cases
from pipeline.evaluation.report.data_card import DataCard
from pipeline.evaluation.report.judgement import print_headlines, write_report
from pipeline.evaluation.report.pictures import centre_square, image_quality
from pipeline.files import require_writable
from pipeline.folders import printable
from pipeline.ham10000.decoding.jpeg import BadImageError
from pipeline.learning.flags import Tta
from pipeline.learning.gradcam import decision_heat, overlay
from pipeline.learning.inference import Predictions, average_logits, predict_logits
from pipeline.learning.probability import class_probabilities, malignant_probability
from pipeline.learning.stored_model import ModelCard, edits, load_stored
from pipeline.loading.loader import make_loader
from pipeline.loading.portable import decode_rgb, render_eval
from pipeline.loading.samples import Samples
from pipeline.shards.dataset import Split, open_shards
from pipeline.shards.intact import ensure_intact
from pipeline.shards.storage.object_store import cached
from pipeline.training.processes import make_accelerator, set_threads


def judge(flags: JudgeFlags) -> None:
    """Predict a split on every rank, then write the report on the first."""
    data, method, speed = flags.data, flags.method, flags.speed
    accelerator = make_accelerator(speed.mixed_precision)
    device, on_main = accelerator.device, accelerator.is_main_process
    if on_main:
        require_writable(data.out, "--out")
    threads = set_threads(speed.threads, accelerator)

    # -- model and shards; a split that the checkpoint was trained on is refused
    model, card, training = load_stored(data.checkpoint, allow_edited=data.allow_edited)
    with accelerator.local_main_process_first():  # one process a machine fetches and verifies
        shards = open_shards(cached(data.shards, data.cache))
        ensure_intact(shards, [data.split], progress=on_main)
    split = shards.split(data.split, data.fold)
    if not data.allow_leak:
        refuse(split.samples, training, f"split {data.split} of {data.shards}")

    # -- every image once
    tta = card.tta if method.tta == "stored" else method.tta
    card = card if method.threshold is not None else card.at(tta)
    threshold = card.threshold if method.threshold is None else method.threshold
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    found = logits_of(
        model, split, speed, accelerator, image_size=card.image_size, threads=threads, tta=tta
    )
    if not on_main:
        return

    # -- the table (refused unless every image is in it exactly once) and its metrics
    samples = Samples(split)
    frame = assemble(split.samples, found.image_ids, scores(found.logits, card, threshold))
    frame[["sharpness", "brightness"]] = image_quality(samples.read, len(frame), workers=cores())
    metrics = summarise(
        frame,
        threshold=threshold,
        temperature=card.temperature,
        bias=card.bias,
        resamples=method.resamples,
        seed=method.seed,
    )
    ranks = accelerator.num_processes
    launcher = f"accelerate launch --multi_gpu --num_processes {ranks}" if ranks > 1 else "python"
    facts = DataCard(
        flags,
        model=asdict(card),
        manifest=asdict(shards.manifest),
        manifest_sha256=shards.manifest_sha256,
        leak=overlap(split.samples, training),
        edited=edits(data.checkpoint),
        num_training=len(training),
        tta=tta,
        backend=f"{speed.backend} backend on {device.type}",
        command=f"{launcher} {shlex.join(sys.argv)}",
    )
    metrics["provenance"] = facts.provenance()

    # -- the report, with pictures of chosen cases
    chosen = choose_cases(frame, threshold=threshold, each=method.cases, seed=method.seed)
    rows = np.unique(np.concatenate(list(chosen.values()))).tolist()
    images = [decode_rgb(samples.read(row)) for row in rows]
    decided = frame["predicted"].to_numpy()[rows].tolist()
    pictures = explain(model, card, images, decided, device)
    write_report(data.out, frame, metrics, facts, dict(zip(rows, pictures, strict=True)), chosen)
    if flags.tracking.tracker == "wandb":
        from pipeline.tracking.report import track_report  # W&B takes a second to import

        track_report(data.out, metrics, checkpoint=data.checkpoint, group=flags.tracking.group)
    print_headlines(metrics)
    print(f"{metrics['n']:,} images; report: {data.out / 'report.html'}")


def logits_of(
    model: nn.Module,
    split: Split,
    speed: SpeedFlags,
    accelerator: Accelerator,
    *,
    image_size: int,
    threads: int,
    tta: Tta,
) -> Predictions:
    """Predict every image once; which share a batch does not depend on the number of ranks."""
    loader = make_loader(
        split,
        phase="eval",
        backend=speed.backend,
        image_size=image_size,
        batch_size=speed.batch_size,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        device=accelerator.device,
        threads=threads,
    )
    batches, total = loader.epoch(0), loader.batches_per_epoch
    found = predict_logits(
        model, batches, accelerator=accelerator, tta=tta, progress="predicting", total=total
    )
    loader.close()
    return found


def scores(logits: np.ndarray, card: ModelCard, threshold: float) -> pd.DataFrame:
    """Turn logits [N, K] into calibrated probabilities and decisions."""
    fitted = (card.task, card.temperature, card.bias)
    return scored(
        threshold,
        prob_malignant=malignant_probability(logits, *fitted),
        prob_uncalibrated=malignant_probability(logits, card.task),
        dx_probabilities=class_probabilities(logits, *fitted) if card.task == "dx" else None,
    )


def preprocess(images: Iterable[np.ndarray], card: ModelCard) -> torch.Tensor:
    """Images [H, W, 3] uint8 of any size to [N, 3, S, S] float32, as the eval loader does."""
    squares = []
    for image in images:
        squares.append(np.empty((card.image_size, card.image_size, 3), np.float32))
        render_eval(image, squares[-1])
    return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)


def explain(
    model: nn.Module,
    card: ModelCard,
    images: list[np.ndarray],
    decided: list[int],
    device: torch.device,
) -> list[Pair]:
    """Return each image as the model sees it, and the same with the Grad-CAM of its decision."""
    maps = decision_heat(model, preprocess(images, card).to(device), decided, card.task)
    pictures = [centre_square(image, SIDE) for image in images]
    return [(picture, overlay(picture, heat)) for picture, heat in zip(pictures, maps, strict=True)]


def predict(flags: PredictFlags) -> None:
    """Predict images given as files, preprocessed as the eval loader does; resumes after a kill."""
    accelerator = make_accelerator("no")
    device, rank, ranks = accelerator.device, accelerator.process_index, accelerator.num_processes
    workers = set_threads(flags.workers, accelerator)
    require_writable(flags.out, "--out")
    skip = flags.on_bad_image == "skip"
    paths, notes = find_images(flags.images, skip=skip)
    model, card, _ = load_stored(flags.checkpoint, allow_edited=flags.allow_edited)
    model.to(device)

    # -- what is left to do, the same on every rank; batches do not depend on the number of ranks
    facts = (card.weights_sha256, card.tta)
    log = PredictionLog(flags.out, paths, batch_size=flags.batch_size, facts=facts)
    if accelerator.is_main_process:
        log.prepare()
        for note in notes:
            warn(note)
    accelerator.wait_for_everyone()
    missing = log.missing()
    accelerator.wait_for_everyone()  # all ranks have read the log before one appends to it
    mine = missing[rank::ranks]

    # -- read in threads; on a CPU not beside the model, which waits for each of its own threads
    batches = rendered(
        map(log.batch, mine),
        lambda image: preprocess([image], card)[0].numpy(),
        workers=workers,
        ahead=0 if device.type == "cpu" else 2,
    )
    bar = tqdm(zip(mine, batches, strict=True), "predicting", len(mine), disable=None, leave=False)
    with log.appending(rank) as append:
        for number, images in bar:
            rejected = {i: str(e) for i, e in enumerate(images) if isinstance(e, BadImageError)}
            if rejected and not skip:
                place, reason = next(iter(rejected.items()))
                where = printable(log.batch(number)[place])
                raise DataError(f"bad image {where}: {reason}; repair or remove it, or {SKIP}")
            good = [image for image in images if not isinstance(image, BadImageError)]
            logits = np.zeros((0, len(card.classes)), np.float32)
            if good:
                tensor = torch.from_numpy(np.stack(good)).to(device)
                logits = average_logits(model, tensor, accelerator=accelerator, tta=card.tta)
                logits = logits.cpu().numpy()
            append(number, logits, rejected)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        finish_predict(flags, card, log)


def finish_predict(flags: PredictFlags, card: ModelCard, log: PredictionLog) -> None:
    """Write the files of ``predict`` and print what is in them."""
    logits, reasons = log.results(len(card.classes))
    threshold = card.threshold if flags.threshold is None else flags.threshold
    table = scores(logits, card, threshold)
    paths = [path for row, path in enumerate(log.paths) if row not in reasons]
    rejected = {log.paths[row]: reason for row, reason in reasons.items()}
    write_predictions(flags.out, paths, table, rejected, threshold=threshold, most=flags.sheet)
    log.remove()
    malignant = int(table["predicted"].to_numpy().sum())
    print(f"{len(table):,} images, {malignant:,} malignant at {threshold:.3f}: {flags.out}")
    for path, reason in [*rejected.items()][:3]:
        print(f"left out: {printable(path)}: {reason}")
    if rejected:
        print(f"{len(rejected):,} images are left out: {flags.out / 'rejected.csv'}")
    print("Not a medical device; no diagnosis may rest on it.")


def export(flags: ExportFlags) -> None:
    """Write ONNX and compare it with PyTorch on real images."""
    from pipeline.learning.export import export_onnx  # onnxruntime takes a second to import

    require_writable(flags.onnx, "--onnx", file=True)
    model, card, _ = load_stored(flags.checkpoint, allow_edited=flags.allow_edited)
    samples = Samples(open_shards(flags.shards).split(flags.split))
    rows = np.linspace(0, len(samples) - 1, min(flags.images, len(samples))).astype(int)
    images = preprocess((decode_rgb(samples.read(int(row))) for row in rows), card)
    worst = export_onnx(flags.onnx, model, card, images)
    print(
        f"{flags.onnx}: {flags.onnx.stat().st_size / 1e6:.1f} MB; on {len(images)} images of "
        f"{flags.shards} onnxruntime differs from PyTorch by at most {worst['logits']:.1e} in the "
        f"logits and {worst['prob_malignant']:.1e} in the probability"
    )


if __name__ == "__main__":
    guard(lambda: {"judge": judge, "predict": predict, "export": export}[WORD](FLAGS))
