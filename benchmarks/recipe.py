"""What training from scratch reaches: one recipe, several seeds; and what a leak flatters.

    python -m pipeline.shards build --source data/ham10000 --out shards/ham10000-64 --image-size 64
    python -m pipeline.shards build --source data/ham10000 --out shards/ham10000-64-by-image \
        --image-size 64 --split-by image --test-fraction 0.15
    python -m benchmarks.recipe --shards shards/ham10000-64 --leaky shards/ham10000-64-by-image

A row is one training and its judgement on the test split. Those of ``--seeds`` are on shards
whose splits share no lesion; "split by image" is the first seed again on shards whose splits do,
with as many images in each. Nothing is chosen on test: recipe, best epoch, calibration and
threshold come from validation. What is done is in the file and is kept, and what was interrupted
resumes: start the same command again. Several processes may fill one file: give each its rows
with ``--only``.
"""

import fcntl
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import tyro
from sklearn.metrics import roc_auc_score

from benchmarks.imbalance import finished
from benchmarks.search import ROOT, Figures, records, run, spread
from pipeline.cli import guard, parse
from pipeline.errors import DataError
from pipeline.files import write_file
from pipeline.shards.dataset import open_shards

RECIPE = (
    *("--weights", "none", "--task", "dx", "--class-weights", "none", "--tta", "dihedral"),
    *("--optimizer", "adamw", "--schedule", "onecycle", "--lr", "1e-3"),
)
"""Learning seven diagnoses, unweighted: the malignant probability is the sum over three of them."""

LEAKY = "split by image"

FIGURES = {
    "val_roc_auc": "validation ROC-AUC",
    "roc_auc": "test ROC-AUC",
    "pr_auc": "PR-AUC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "ece": "ECE",
    "minutes": "minutes",
}
"""Columns, by their name in the file; all but the first and the last are of the test split."""


@dataclass(frozen=True)
class Options:
    """Train the recipe with several seeds, judge each, print mean and standard deviation."""

    fixed: tyro.conf.Positional[tuple[str, ...]] = ()
    """After a lone --: further flags of train.py for every row, as -- --arch resnet50."""
    shards: Path = Path("shards/ham10000")
    """Folder of lesion-disjoint shards."""
    leaky: Path | None = None
    """Folder of shards split by image; without it that row is left out."""
    runs: Path = Path("runs/recipe")
    """Folder that gets one run folder, with its report, for each row."""
    json: Path = Path("runs/recipe/table.json")
    """File of the finished rows."""
    image_size: int = 64
    """Pixels."""
    epochs: int = 10
    """Of each row."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One row each; the first one is also that of the split by image."""
    only: tuple[str, ...] = ()
    """Rows to make now, as --only "seed 0" "split by image"; all when none are named."""

    def __post_init__(self) -> None:
        """Refuse rows that there are not."""
        unknown = [name for name in self.only if name not in self.rows]
        if unknown:
            raise DataError(f"--only {unknown[0]}: no such row; rows are {', '.join(self.rows)}")

    @property
    def rows(self) -> dict[str, tuple[Path, int]]:
        """Shards and seed of each row, by name."""
        rows = {f"seed {seed}": (self.shards, seed) for seed in self.seeds}
        return rows | ({LEAKY: (self.leaky, self.seeds[0])} if self.leaky else {})


def main() -> None:
    """Make the rows that are not in the file yet, and print the table."""
    options = parse(Options, about="A recipe from scratch, with several seeds.")
    check_leaky(options)
    folders = [options.shards, *([options.leaky] if options.leaky else [])]
    setting = {
        **{name: getattr(options, name) for name in ("image_size", "epochs")},
        **{"flags": [*RECIPE, *options.fixed], "seeds": list(options.seeds)},
        "manifests": [open_shards(folder).manifest_sha256 for folder in folders],
    }
    for name in options.only or options.rows:
        if name not in finished(options.json, setting):
            print(f"-- {name}", flush=True)
            keep(options.json, setting, name, judged(options, name))
    rows = finished(options.json, setting)
    print(table(options, rows))
    if options.leaky and LEAKY in rows:
        print(within(open_shards(options.leaky).samples, folder_of(options, LEAKY) / "report"))


def folder_of(options: Options, name: str) -> Path:
    """Return the run folder of a row."""
    return options.runs / name.replace(" ", "-")


def check_leaky(options: Options) -> None:
    """Refuse shards whose splits are not those that a row is about."""
    for folder, by in ((options.shards, "lesion"), (options.leaky, "image")):
        if folder and (found := open_shards(folder).manifest.split["by"]) != by:
            flag = "--shards" if by == "lesion" else "--leaky"
            raise DataError(f"{flag} {folder}: split by {found}, expected shards split by {by}")


def judged(options: Options, name: str) -> Figures:
    """Train a row, or go on with it, judge it on the test split, return its figures."""
    shards, seed = options.rows[name]
    into = folder_of(options, name)
    run(
        *(ROOT / "train.py", "--shards", shards, "--run-dir", into, "--seed", seed),
        *("--image-size", options.image_size, "--epochs", options.epochs),
        *("--tracker", "none", *RECIPE, *options.fixed),
    )
    leak = ("--allow-leak",) if name == LEAKY else ()
    run(
        *(ROOT / "eval.py", "--checkpoint", into / "best", "--shards", shards, *leak),
        *("--split", "test", "--out", into / "report"),
    )
    metrics = json.loads((into / "report" / "metrics.json").read_text())
    return {
        "val_roc_auc": json.loads((into / "best" / "model.json").read_text())["val_roc_auc"],
        **{key: metrics[key] for key in FIGURES if key in metrics},
        "minutes": sum(
            epoch["seconds"] + epoch["validation_seconds"] for epoch in records(into / "timing.csv")
        )
        / 60,
    }


def keep(path: Path, setting: dict, name: str, figures: Figures) -> None:
    """Add a row to the file, beside rows that other processes have added."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        rows = finished(path, setting) | {name: figures}
        write_file(path, json.dumps({"setting": setting, "rows": rows}, indent=2) + "\n")


def table(options: Options, rows: dict[str, Figures]) -> str:
    """Return the finished rows as Markdown, and mean and standard deviation over the seeds."""
    lines = [f"| | {' | '.join(FIGURES.values())} |", "| --- |" + " --- |" * len(FIGURES)]
    shown = {name: [rows[name]] for name in options.rows if name in rows}
    seeds = [row for name, (row,) in shown.items() if name != LEAKY]
    if len(seeds) > 1:
        shown[f"mean of {len(seeds)}"] = seeds
    for name, of_row in shown.items():
        cells = [spread([figures[key] for figures in of_row]) for key in FIGURES]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def within(samples: pd.DataFrame, report: Path) -> str:
    """Say whether lesions that were trained on are judged better than others, in one test split.

    Lesions of several images alone: those of a single image cannot leak, and are of another kind.

    Args:
        samples: of the shards split by image: image_id, lesion_id, split.
        report: folder of the report on their test split.
    """
    images = Counter(samples["lesion_id"])
    several = [images[lesion] > 1 for lesion in samples["lesion_id"]]
    trained = samples.loc[samples["split"] == "train", "lesion_id"].to_list()
    table: pd.DataFrame = pd.read_csv(report / "predictions.csv")
    table = table.loc[table["image_id"].isin(samples.loc[several, "image_id"].to_list())]
    seen = table["lesion_id"].isin(trained).to_numpy()
    parts = []
    for kind, rows in (("were trained on", seen), ("were not", ~seen)):
        label = table.loc[rows, "label"].to_numpy()
        score = table.loc[rows, "prob_malignant"].to_numpy()
        area = f"{roc_auc_score(label, score):.3f}" if len(set(label)) == 2 else "undefined"
        parts.append(f"{area} for {len(label)} images whose lesions {kind}")
    return f"\n{LEAKY}, test images of lesions with several: ROC-AUC {', '.join(parts)}"


if __name__ == "__main__":
    guard(main)
