"""Remedies for imbalance side by side: the same shards, network, epochs and seed.

    python -m benchmarks.imbalance --shards shards/ham10000-64 --json runs/imbalance/table.json

Each row is one `train.py` in RUNS/NAME, judged on the validation split. A row that is in the file
is kept, an interrupted training resumes: start the same command again. What the figures mean:

    roc_auc             of the malignant probability; no threshold
    sensitivity_at_95   sensitivity where the specificity is 95 %
    balanced_at_half    balanced accuracy at probability 0.5: what the remedy does to the boundary
    balanced_at_fitted  the same at the threshold that train.py has fitted on this split
"""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score, roc_curve

from pipeline.cli import guard, parse
from pipeline.errors import DataError
from pipeline.files import write_file
from pipeline.learning.inference import predict_logits
from pipeline.learning.probability import malignant_probability
from pipeline.learning.stored_model import load_stored
from pipeline.loading.loader import make_loader
from pipeline.search import space as search_space
from pipeline.shards.dataset import open_shards
from pipeline.training.processes import make_accelerator, set_threads

REMEDIES: dict[str, tuple[str, ...]] = {
    **search_space.REMEDIES,
    "SMOTE refit": ("--class-weights", "none", "--refit-head", "smote"),
}
"""The flags of each row. The last one is the first, "none", with another last layer."""

RECIPE = (
    "--optimizer",
    "adamw",
    "--schedule",
    "onecycle",
    "--weights",
    "none",
    "--tracker",
    "none",
)


@dataclass(frozen=True)
class Options:
    """Train one network for each remedy and print the table."""

    shards: Path = Path("shards/ham10000")
    """Folder of the shards."""
    runs: Path = Path("runs/imbalance")
    """Folder that gets one run folder for each row."""
    json: Path = Path("runs/imbalance/table.json")
    """File of the finished rows."""
    arch: str = "resnet34"
    """A torchvision classification model by name."""
    image_size: int = 64
    """Pixels."""
    epochs: int = 8
    """Epochs of each row."""
    batch_size: int = 64
    """Images per step."""
    lr: float = 1e-3
    """Peak learning rate."""
    seed: int = 0
    """Of each row."""
    only: tuple[str, ...] = ()
    """Rows to make, by name; all when none are named."""

    def __post_init__(self) -> None:
        """Refuse rows that there are not."""
        unknown = [name for name in self.only if name not in REMEDIES]
        if unknown:
            raise DataError(f"--only {unknown[0]}: no such row; rows are {', '.join(REMEDIES)}")


def main() -> None:
    """Fill the table row by row."""
    options = parse(Options, about="Remedies for imbalance side by side.")
    manifest = open_shards(options.shards).manifest_sha256
    setting = {
        **{name: getattr(options, name) for name in ("arch", "image_size", "epochs", "batch_size")},
        **{"lr": options.lr, "seed": options.seed, "manifest_sha256": manifest},
    }
    rows = finished(options.json, setting)
    for name in options.only or REMEDIES:
        if name not in rows:
            rows[name] = judge(options, train(options, name))
            options.json.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"setting": setting, "rows": rows}, indent=2)
            write_file(options.json, text + "\n")
        print(line(name, rows[name]), flush=True)


def finished(path: Path, setting: dict) -> dict[str, dict[str, float]]:
    """Return the rows in the file; refuse rows of another setting."""
    if not path.is_file():
        return {}
    stored = json.loads(path.read_text())
    if stored["setting"] != setting:
        changed = [k for k in setting if stored["setting"].get(k) != setting[k]]
        raise DataError(
            f"{path} holds rows of another setting ({', '.join(changed)} differ): give another "
            "--json and --runs, or remove the file"
        )
    return stored["rows"]


def train(options: Options, name: str) -> Path:
    """Train a row, or go on with it, and return its run folder."""
    run = options.runs / name.replace(" ", "-").lower()
    if name == "SMOTE refit" and not run.exists():  # its network is that of the first row
        shutil.copytree(train(options, "none"), run, symlinks=True)
    words = [
        *("--shards", options.shards, "--run-dir", run, "--arch", options.arch),
        *("--image-size", options.image_size, "--epochs", options.epochs),
        *("--batch-size", options.batch_size, "--lr", options.lr, "--seed", options.seed),
    ]
    print(f"-- {name}", flush=True)
    script = Path(__file__).resolve().parent.parent / "train.py"
    command = [sys.executable, str(script), *map(str, words), *RECIPE, *REMEDIES[name]]
    code = subprocess.run(command, check=False).returncode
    if code:
        raise DataError(f"{' '.join(command)}: left with exit code {code}; its message is above")
    return run


def judge(options: Options, run: Path) -> dict[str, float]:
    """Return the figures of a trained row on the validation split."""
    accelerator = make_accelerator()
    threads = set_threads(0, accelerator)
    model, card, _ = load_stored(run / "best")
    model = model.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    split = open_shards(options.shards).split("val")
    loader = make_loader(
        split,
        phase="eval",
        image_size=card.image_size,
        batch_size=options.batch_size,
        device=accelerator.device,
        threads=threads,
    )
    found = predict_logits(model, loader.epoch(0), accelerator=accelerator, tta=card.tta)
    loader.close()
    label = split.samples.set_index("image_id")["label"].loc[list(found.image_ids)].to_numpy()
    plain = malignant_probability(found.logits, card.outputs)
    calibrated = malignant_probability(found.logits, card.outputs, card.temperature, card.bias)
    return {
        "roc_auc": float(roc_auc_score(label, plain)),
        "sensitivity_at_95": sensitivity_at(label, plain, 0.95),
        "balanced_at_half": float(balanced_accuracy_score(label, plain >= 0.5)),
        "balanced_at_fitted": float(balanced_accuracy_score(label, calibrated >= card.threshold)),
    }


def sensitivity_at(label: np.ndarray, probability: np.ndarray, specificity: float) -> float:
    """Return the highest sensitivity with at least that specificity."""
    false_positives, sensitivity, _ = roc_curve(label, probability, drop_intermediate=False)
    return float(sensitivity[1 - false_positives >= specificity - 1e-12].max())


def line(name: str, row: dict[str, float]) -> str:
    """Return a row of a Markdown table."""
    return f"| {name:<16} | " + " | ".join(f"{value:.3f}" for value in row.values()) + " |"


if __name__ == "__main__":
    guard(main)
