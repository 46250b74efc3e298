"""Duration of a judgement without inference: metrics, intervals, plots, pictures, report.

    python -m benchmarks.evaluation [--images 10000] [--json out.json]

Predictions and JPEGs are synthetic; each stage is timed once, in seconds.
"""

import io
import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from pipeline.cli import guard, parse
from pipeline.evaluation.flags import JudgeFlags
from pipeline.evaluation.metrics.binary import binary_metrics
from pipeline.evaluation.metrics.bootstrap import resample
from pipeline.evaluation.metrics.summary import summarise
from pipeline.evaluation.report.cases import SIDE, choose_cases
from pipeline.evaluation.report.data_card import DataCard
from pipeline.evaluation.report.judgement import write_report
from pipeline.evaluation.report.pictures import centre_square, image_quality
from pipeline.files import write_file
from pipeline.ham10000.taxonomy import HAM10000

SHARES = (0.033, 0.051, 0.110, 0.011, 0.111, 0.670, 0.014)
"""HAM10000's diagnoses, about."""


@dataclass(frozen=True)
class Options:
    """What to time."""

    images: int = 10_000
    """Predictions to judge."""
    resamples: int = 2000
    """Bootstrap resamples of lesions."""
    json: Path | None = None
    """File for the seconds as JSON."""


def synthetic(n: int) -> pd.DataFrame:
    """Return seven-class predictions with HAM10000's class shares, four images to three lesions."""
    rng = np.random.default_rng(0)
    lesion = np.arange(n) * 3 // 4
    dx = rng.choice(len(HAM10000.classes), n, p=SHARES)[lesion]
    label = HAM10000.is_malignant[dx]
    prob = 1 / (1 + np.exp(-(rng.normal(size=n) + 1.8 * label - 1.4)))
    names = [f"HAM_{k:07d}" for k in lesion]
    frame = pd.DataFrame(
        {
            "image_id": [f"ISIC_{k:07d}" for k in range(n)],
            "lesion_id": names,
            "group": names,
            "dx": np.array(HAM10000.classes)[dx],
            "label": label,
            "prob_malignant": prob,
            "predicted": (prob >= 0.4).astype(int),
            "prob_uncalibrated": prob,
            "age": rng.choice([20.0, 35.0, 50.0, 65.0, 80.0], n),
            "sex": rng.choice(["male", "female"], n),
            "localization": rng.choice([f"site {k}" for k in range(15)], n),
            "dx_type": rng.choice(["histo", "follow_up", "consensus", "confocal"], n),
        }
    )
    names = [f"prob_{name}" for name in HAM10000.classes]
    frame[names] = rng.dirichlet(np.ones(len(names)), n)
    return frame


def jpeg() -> bytes:
    """Return a JPEG of 341 x 256 pixels, as shards of --image-size 256 hold them."""
    noise = np.random.default_rng(0).integers(0, 255, (16, 22, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).resize((341, 256)).save(out, "JPEG", quality=95)
    return out.getvalue()


def data_card() -> DataCard:
    """Return facts to fill the card with."""
    model = {
        **{"arch": "resnet34", "task": "dx", "dropout": 0.0, "image_size": 224, "epoch": 1},
        **{"step": 1, "seed": 0, "weights_sha256": "", "git_revision": "", "val_roc_auc": None},
        **{"threshold": 0.4, "temperature": 1.0, "bias": 0.0, "target_sensitivity": None},
        "manifest_sha256": "",
    }
    manifest = {
        "source": {},
        "split": {"by": "lesion", "val_fraction": 0.2, "test_fraction": 0.15, "seed": 0},
        "encode": {},
        "labels": "dx",
        "counts": {"train": 0, "val": 0, "test": 0},
    }
    return DataCard(
        JudgeFlags(),
        model=model,
        manifest=manifest,
        manifest_sha256="",
        leak={"images": 0},
        edited=[],
        num_training=0,
        tta="none",
        backend="none",
        command="",
    )


def timed(options: Options) -> dict[str, float]:
    """Run each stage once and return {stage: seconds}."""
    frame, data, seconds = synthetic(options.images), jpeg(), {}
    start = time.perf_counter()

    def lap(stage: str) -> None:
        nonlocal start
        seconds[stage] = round(time.perf_counter() - start, 3)
        start = time.perf_counter()

    few = frame.iloc[:2000]
    label, prob, predicted = (few[c].to_numpy() for c in ("label", "prob_malignant", "predicted"))
    resample(
        lambda weights: binary_metrics(label, prob, predicted, weights),
        few["group"].to_numpy(),
        resamples=options.resamples,
        seed=0,
    )
    lap("bootstrap of the headlines of 2,000 images (not in the total)")
    quality = image_quality(lambda _: data, len(frame), workers=os.cpu_count() or 1)
    frame[["sharpness", "brightness"]] = quality
    lap("sharpness and brightness")
    metrics = summarise(frame, threshold=0.4, resamples=options.resamples)
    card = data_card()
    metrics["provenance"] = card.provenance()
    lap("figures and intervals")
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    chosen = choose_cases(frame, threshold=0.4, each=16, seed=0)
    rows = {int(row) for group in chosen.values() for row in group}
    pictures = {row: (centre_square(pixels, SIDE), centre_square(pixels, SIDE)) for row in rows}
    lap("pictures")
    with tempfile.TemporaryDirectory() as folder:
        write_report(Path(folder) / "report", frame, metrics, card, pictures, chosen)
        lap("plots, sheets, report")
    seconds["total"] = round(sum(list(seconds.values())[1:]), 3)
    return seconds


def main() -> None:
    """Time every stage and print a table."""
    options = parse(Options, about="Time a judgement without inference.")
    seconds = timed(options)
    for stage, value in seconds.items():
        print(f"{value:8.2f} s  {stage}")
    if options.json:
        content = {"images": options.images, "cores": os.cpu_count(), "seconds": seconds}
        write_file(options.json, json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    guard(main)
