"""Judge a checkpoint on held-out shards: figures, predictions, plots, and a report to read.

shards --make_loader--> Batch --model--> logits --> probabilities --> OUT/metrics.json,
predictions.csv, *.png, report.html

python eval.py --checkpoint runs/r34/best --shards shards/ham10000 --split test --out reports/r34
accelerate launch eval.py --checkpoint runs/r34/best             # all GPUs, the same figures
python eval.py compare reports/a reports/b --out reports/a-b     # are they different?
python eval.py predict --checkpoint runs/r34/best --out OUT IMAGE_OR_FOLDER...
python eval.py export --checkpoint runs/r34/best --onnx model.onnx
"""

import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from pipeline.cli import guard, parse
from pipeline.evaluation import flags as options
from pipeline.evaluation import image_files as loose
from pipeline.evaluation import predictions
from pipeline.evaluation.leak import overlap, refuse
from pipeline.evaluation.metrics.summary import summarise
from pipeline.evaluation.report import judgement as report
from pipeline.evaluation.report.comparison import write_comparison
from pipeline.evaluation.report.data_card import Subject
from pipeline.evaluation.report.pictures import image_quality, square
from pipeline.learning.export import export_onnx
from pipeline.learning.gradcam import decision_heat, overlay
from pipeline.learning.inference import predict_logits
from pipeline.learning.probability import class_probabilities, malignant_probability
from pipeline.learning.stored_model import ModelCard, load_stored
from pipeline.loading.batch import Batch
from pipeline.loading.loader import make_loader
from pipeline.loading.portable import decode_rgb, render_eval
from pipeline.loading.samples import Samples
from pipeline.machine import cores, git_revision
from pipeline.shards.dataset import ShardSet, open_shards
from pipeline.shards.intact import ensure_intact
from pipeline.shards.storage.object_store import cached
from pipeline.training.processes import make_accelerator, set_threads


def judge(flags: options.JudgeOptions) -> None:
    """Predict a split on every rank, then write the report on the first."""
    accelerator = make_accelerator(flags.mixed_precision)
    threads = set_threads(flags.threads, accelerator)

    # -- what is judged, and on what: nothing that the checkpoint has seen
    model, card, seen = load_stored(flags.checkpoint)
    with accelerator.local_main_process_first():  # it reads every byte, the others remember
        shards = open_shards(cached(flags.shards, flags.cache))
        ensure_intact(shards, [flags.split], progress=accelerator.is_main_process)
    split = shards.split(flags.split, flags.fold)
    if not flags.allow_leak:
        refuse(split.samples, seen, f"split {flags.split} of {flags.shards}")

    # -- every image once; which images share a batch does not depend on the number of ranks
    tta = card.tta if flags.tta == "stored" else flags.tta
    card = card if flags.threshold is not None else card.at(tta)
    model.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    loader = make_loader(
        split, phase="eval", backend=flags.backend, image_size=card.image_size,
        batch_size=flags.batch_size, rank=accelerator.process_index,
        world_size=accelerator.num_processes, device=accelerator.device, threads=threads,
    )  # fmt: skip
    found = predict_logits(
        model, loader.epoch(0), accelerator=accelerator, tta=tta, progress="predicting",
        total=loader.batches_per_epoch,
    )  # fmt: skip
    loader.close()
    if not accelerator.is_main_process:
        return

    # -- the table (refused unless each image of the manifest is in it exactly once), the figures
    threshold = card.threshold if flags.threshold is None else flags.threshold
    probabilities = scores(found.logits, card)
    frame = predictions.assemble(split.samples, found.image_ids, threshold, **probabilities)
    samples = Samples(split)
    quality = image_quality(samples.read, range(len(frame)), workers=cores())
    frame[["sharpness", "brightness"]] = quality
    metrics = summarise(
        frame, threshold=threshold, temperature=card.temperature, bias=card.bias,
        resamples=flags.resamples, seed=flags.seed,
    )  # fmt: skip

    # -- the report, with pictures of the cases that a person gets to see
    shared = overlap(split.samples, seen)
    about = subject(flags, card, shards, accelerator, leak=shared, seen=len(seen), tta=tta)
    metrics["provenance"] = about.provenance()
    chosen = report.rows_to_show(frame, threshold=threshold, each=flags.cases, seed=flags.seed)
    rows = sorted({int(row) for group in chosen.values() for row in group})
    jpegs, called = [samples.read(row) for row in rows], frame["predicted"].to_numpy()[rows]
    shown = explain(model, card, jpegs, called.tolist(), accelerator.device)
    pictures = dict(zip(rows, shown, strict=True))
    report.write_report(flags.out, frame, metrics, about, pictures, chosen)
    if flags.tracker == "wandb":
        from pipeline.tracking.report import track_report  # W&B takes a second to import

        track_report(
            flags.out, metrics, checkpoint=flags.checkpoint, mode=flags.wandb, group=flags.group
        )
    tell(metrics, flags)


def scores(logits: np.ndarray, card: ModelCard) -> dict[str, np.ndarray]:
    """Turn logits [N, K] into the probabilities of a predictions table, float64."""
    values = {
        "prob_malignant": malignant_probability(logits, card.task, card.temperature, card.bias),
        "prob_uncalibrated": malignant_probability(logits, card.task),
    }
    if card.task == "dx":
        values["dx_probabilities"] = class_probabilities(
            logits, card.task, card.temperature, card.bias
        )
    return values


def explain(
    model: nn.Module, card: ModelCard, jpegs: list[bytes], called: list[int], device: torch.device
) -> list[report.Shown]:
    """Return the picture of each JPEG and the same with its Grad-CAM."""
    side = report.SHOWN_SIDE
    pictures = [square(jpeg, side) for jpeg in jpegs]
    if not jpegs:
        return []
    images = preprocess((decode_rgb(jpeg) for jpeg in jpegs), card).to(device)
    maps = decision_heat(model, images, called, card.task)
    pairs = zip(pictures, maps, strict=True)
    return [report.Shown(picture, overlay(picture, heat)) for picture, heat in pairs]


def preprocess(images: Iterable[np.ndarray], card: ModelCard) -> torch.Tensor:
    """Images [H, W, 3] uint8 of any size to [N, 3, S, S] float32, as the eval loader does."""
    squares = []
    for image in images:
        squares.append(np.empty((card.image_size, card.image_size, 3), np.float32))
        render_eval(image, squares[-1])
    return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)


def subject(
    flags: options.JudgeOptions, card: ModelCard, shards: ShardSet, accelerator: Accelerator,
    **rest: Any,
) -> Subject:  # fmt: skip
    """Say what was judged and how, for the report and metrics.json."""
    ranks, manifest = accelerator.num_processes, shards.manifest
    launcher = f"accelerate launch --multi_gpu --num_processes {ranks}" if ranks > 1 else "python"
    told = ("source", "split", "encode", "labels", "counts")
    return Subject(
        checkpoint=str(flags.checkpoint),
        card=asdict(card),
        shards=str(flags.shards),
        split=flags.split if flags.fold is None else f"{flags.split} (fold {flags.fold})",
        manifest={name: getattr(manifest, name) for name in told},
        manifest_sha256=shards.manifest_sha256,
        threshold_given=flags.threshold is not None,
        precision="float32" if flags.mixed_precision == "no" else flags.mixed_precision,
        backend=f"{flags.backend} backend on {accelerator.device.type}",
        command=f"{launcher} {shlex.join(sys.argv)}",
        revision=git_revision(),
        versions={name: version(name) for name in ("torch", "torchvision", "numpy")},
        **rest,
    )


def tell(metrics: dict, flags: options.JudgeOptions) -> None:
    """Print the headlines and where the report lies."""
    if metrics["provenance"]["leak"]["found"]:
        print("LEAK: the checkpoint has seen samples of this split; the figures flatter it")
    for name in ("roc_auc", "pr_auc", "sensitivity", "specificity", "accuracy"):
        low, high = metrics["ci95"][name] or (float("nan"), float("nan"))
        print(f"{name:12s} {metrics[name]:.4f}  (95 %: {low:.4f} to {high:.4f})")
    print(f"{'':12s} {metrics['majority_accuracy']:.4f}  accuracy of always the commoner class")
    print(f"{metrics['n']:,} images; report: {flags.out / 'report.html'}")


def predict(flags: options.PredictOptions) -> None:
    """Predict loose images through the eval preprocessing."""
    accelerator = make_accelerator("no")
    paths = loose.find_images(flags.images)
    model, card, _ = load_stored(flags.checkpoint)
    model.to(accelerator.device)
    pictures: list[np.ndarray] = []

    def batches() -> Iterator[Batch]:
        for start in range(0, len(paths), flags.batch_size):
            chunk = paths[start : start + flags.batch_size]
            images = [loose.read_image(path) for path in chunk]
            pictures.extend(loose.thumbnail(image) for image in images)
            labels = torch.zeros(len(chunk), dtype=torch.int64)  # not known, not used
            tensor = preprocess(images, card).to(accelerator.device)
            yield Batch(tensor, labels, tuple(map(str, chunk)))

    found = predict_logits(
        model, batches(), accelerator=accelerator, tta=card.tta, progress="predicting",
        total=-(-len(paths) // flags.batch_size),
    )  # fmt: skip
    threshold = card.threshold if flags.threshold is None else flags.threshold
    frame = loose.table(paths, threshold, **scores(found.logits, card))
    loose.write_loose(flags.out, frame, pictures, threshold, most=flags.sheet)
    called = int(frame["predicted"].to_numpy().sum())
    print(f"{len(frame):,} images, {called:,} called malignant at {threshold:.3f}: {flags.out}")
    print("Not a medical device; no diagnosis may rest on it.")


def export(flags: options.ExportOptions) -> None:
    """Write ONNX and compare it with PyTorch on real images."""
    model, card, _ = load_stored(flags.checkpoint)
    samples = Samples(open_shards(flags.shards).split(flags.split))
    rows = np.linspace(0, len(samples) - 1, min(flags.images, len(samples))).astype(int)
    images = preprocess((decode_rgb(samples.read(int(row))) for row in rows), card)
    worst = export_onnx(flags.onnx, model, card, images)
    size = flags.onnx.stat().st_size / 1e6
    print(f"{flags.onnx}: {size:.1f} MB; on {len(images)} images of {flags.shards} onnxruntime "
          f"differs from PyTorch by at most {worst['logits']:.1e} in the logits and "
          f"{worst['prob_malignant']:.1e} in the probability")  # fmt: skip


def compare(flags: options.CompareOptions) -> None:
    """Compare reports of the same images."""
    found = write_comparison(
        flags.out, flags.reports, resamples=flags.resamples, seed=flags.seed
    )  # fmt: skip
    for pair in found["comparisons"]:
        auc = pair["metrics"]["roc_auc"]
        print(f"{pair['second']} - {pair['first']}: ROC-AUC {auc['difference']:+.4f}, p = "
              f"{auc['p']:.4f} (DeLong {pair['delong']['p']:.4f}, McNemar "
              f"{pair['mcnemar']['p']:.4f})")  # fmt: skip
    print(f"report: {flags.out / 'report.html'}")


COMMANDS: dict[str, tuple[type, Callable]] = {
    "compare": (options.CompareOptions, compare),
    "predict": (options.PredictOptions, predict),
    "export": (options.ExportOptions, export),
}
"""What may stand before the flags; without any of them a checkpoint is judged."""


def main() -> None:
    """Find out which of the four things is wanted, and do it."""
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    kind, action = COMMANDS.get(word, (options.JudgeOptions, judge))
    text = kind.__doc__ or ""
    if kind is options.JudgeOptions:
        text += f" Other uses: eval.py {'|'.join(COMMANDS)} --help"
    action(parse(kind, about=text, argv=sys.argv[2 if word in COMMANDS else 1 :]))


if __name__ == "__main__":
    guard(main)
