"""What a search is worth: its best flags against the defaults, trained again with fresh seeds.

    python -m benchmarks.search --shards shards/ham10000-64 --json runs/search-worth/table.json
    python -m benchmarks.search --shards shards/ham10000-64 -- --arch resnet18

One search in RUNS/study, then for each of these rows and each seed a training and a judgement:

    defaults   train.py as it comes
    recipe     the optimiser, schedule and rate of the README, which the search was given too
    searched   what the search found best on validation

All have the same epochs and image size, start from random weights, and have the flags after `--`.
The search knows the validation split only, and with one seed that none of the rows has; the test
split is looked at here, once everything is chosen. What is done is in the file and is kept, and
what was interrupted resumes: start the same command again.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import tyro

from benchmarks.imbalance import finished
from pipeline.cli import guard, parse
from pipeline.errors import DataError
from pipeline.files import write_file
from pipeline.shards.dataset import open_shards

ROOT = Path(__file__).resolve().parent.parent

ALIKE = ("--weights", "none", "--tracker", "none")
"""Flags of everything that is trained here."""

RECIPE = ("--optimizer", "adamw", "--schedule", "onecycle")
"""Flags of the search's trials and of all rows but the defaults."""

RATE = ("--lr", "1e-3")
"""Of the recipe, beside those."""

ROWS = ("defaults", "recipe", "searched")

Figures = dict[str, float]


@dataclass(frozen=True)
class Options:
    """Search, then compare what was found with the defaults."""

    fixed: tyro.conf.Positional[tuple[str, ...]] = ()
    """After a lone --: further flags of train.py for everything, as -- --arch resnet18."""
    shards: Path = Path("shards/ham10000")
    """Folder of the shards."""
    runs: Path = Path("runs/search-worth")
    """Folder that gets the study and one run folder for each row and seed."""
    json: Path = Path("runs/search-worth/table.json")
    """File of what is done."""
    trials: int = 12
    """Of the search."""
    epochs: int = 4
    """Of each trial and each row."""
    image_size: int = 64
    """Pixels."""
    only: tuple[str, ...] = ()
    """Parameters to search, as in pipeline.search; all when none are named."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Of the rows; the search's trials have seed 0."""
    rows: tuple[str, ...] = ROWS
    """Rows to make."""

    def __post_init__(self) -> None:
        """Refuse what would spoil the comparison."""
        unknown = [name for name in self.rows if name not in ROWS]
        if unknown:
            raise DataError(f"--rows {unknown[0]}: there is no such row; rows are {ROWS}")
        if 0 in self.seeds:
            raise DataError("--seeds 0 is the search's own: its best trial was chosen with it")

    @property
    def alike(self) -> list[str]:
        """The flags of everything."""
        return ["--image-size", str(self.image_size), *ALIKE, *self.fixed]


def main() -> None:
    """Search, train and judge what is not in the file yet, and print the table."""
    options = parse(Options, about="A search's best flags against the defaults.")
    names = ("trials", "epochs", "image_size")
    setting = {
        **{name: getattr(options, name) for name in names},
        **{"only": list(options.only), "fixed": list(options.fixed)},
        "manifest_sha256": open_shards(options.shards).manifest_sha256,
    }
    done = finished(options.json, setting)
    if "search" not in done:
        done["search"] = search(options)
        keep(options, setting, done)
    for row in options.rows:
        for seed in options.seeds:
            name = f"{row}, seed {seed}"
            if name not in done:
                done[name] = judged(options, row, seed)
                keep(options, setting, done)
    print(table(options, done))


def keep(options: Options, setting: dict, done: dict[str, Figures]) -> None:
    """Write what is done so far."""
    options.json.parent.mkdir(parents=True, exist_ok=True)
    write_file(options.json, json.dumps({"setting": setting, "rows": done}, indent=2) + "\n")


def search(options: Options) -> Figures:
    """Run the search, or continue it; return what it cost."""
    only = ["--only", *options.only] if options.only else []
    study = options.runs / "study"
    run(
        *("-m", "pipeline.search", "--shards", options.shards, "--out", study),
        *("--trials", options.trials, "--epochs", options.epochs, *only),
        *("--command", "python train.py", "--", *options.alike, *RECIPE),
    )
    trials = records(study / "trials.csv")
    states = [trial["state"] for trial in trials]
    return {
        "minutes": sum(trial["minutes"] for trial in trials),
        **{state: states.count(state) for state in ("complete", "pruned", "failed")},
        "best_roc_auc": max(t["roc_auc"] for t in trials if t["state"] == "complete"),
    }


def records(path: Path) -> list[dict]:
    """Return the rows of a CSV file."""
    return pd.read_csv(path).to_dict("records")


def flags_of(options: Options, row: str) -> Sequence[str]:
    """Return the flags that a row is about."""
    if row == "defaults":
        return ()
    if row == "recipe":
        return (*RECIPE, *RATE)
    best = json.loads((options.runs / "study" / "best.json").read_text())
    return (*RECIPE, *best["flags"])


def judged(options: Options, row: str, seed: int) -> Figures:
    """Train a row with a seed, judge it on the test split, return its figures."""
    into = options.runs / f"{row}-{seed}"
    print(f"-- {row}, seed {seed}", flush=True)
    run(
        *(ROOT / "train.py", "--shards", options.shards, "--run-dir", into, "--seed", seed),
        *("--epochs", options.epochs, *options.alike, *flags_of(options, row)),
    )
    run(
        *(ROOT / "eval.py", "--checkpoint", into / "best", "--shards", options.shards),
        *("--split", "test", "--out", into / "report", "--cases", 1, "--resamples", 100),
    )
    return {
        "val_roc_auc": max(epoch["val_roc_auc"] for epoch in records(into / "history.csv")),
        "test_roc_auc": json.loads((into / "report" / "metrics.json").read_text())["roc_auc"],
        "minutes": sum(
            epoch["seconds"] + epoch["validation_seconds"] for epoch in records(into / "timing.csv")
        )
        / 60,
    }


def run(*words: object) -> None:
    """Run this interpreter with ``words``; its output is shown, its failure is ours."""
    command = [sys.executable, *map(str, words)]
    code = subprocess.run(command, check=False).returncode
    if code in (130, 143):  # asked to leave: the same command goes on
        raise SystemExit(code)
    if code:
        raise DataError(f"{' '.join(command)}: left with exit code {code}; its message is above")


def table(options: Options, done: dict[str, Figures]) -> str:
    """Return the rows as Markdown: mean and standard deviation over the seeds, and the cost."""
    lines = [
        f"| flags, {len(options.seeds)} seeds | validation ROC-AUC | test ROC-AUC | minutes each |",
        "| --- | --- | --- | --- |",
    ]
    for row in options.rows:
        of_row = [done[f"{row}, seed {seed}"] for seed in options.seeds]
        cells = [spread([figures[name] for figures in of_row]) for name in of_row[0]]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    cost = done["search"]
    lines.append(
        f"\nThe search: {cost['minutes']:.1f} minutes of training, {cost['complete']} trials "
        f"complete, {cost['pruned']} pruned, {cost['failed']} failed; its best trial had a "
        f"validation ROC-AUC of {cost['best_roc_auc']:.4f}."
    )
    if "searched" in options.rows:
        lines.append(f"Searched flags: {' '.join(flags_of(options, 'searched'))}")
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    """Return mean and standard deviation (of a sample; none of a single value)."""
    mean = f"{np.mean(values):.3f}"
    return f"{mean} ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else mean


if __name__ == "__main__":
    guard(main)
