"""Results of a search: a table, plots, one page that opens offline, the best flags.

STUDY/trials.csv     a row a trial, the best first
STUDY/*.png          history, curves, parallel coordinates, importance: Optuna's plots
STUDY/search.html    all of it in one file
STUDY/best.json      trial, ROC-AUC and flags of the best
"""

import json
import math
import shlex
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from pipeline import figures
from pipeline.evaluation.report.page import template
from pipeline.files import write_file
from pipeline.search.flags import SearchFlags
from pipeline.search.space import Space, choices_of, words_of
from pipeline.search.study import REASON, SECONDS, SETTING, run_of

STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "running",
    TrialState.FAIL: "failed",
}
"""In the order of the table. A trial that waits was interrupted, and will be continued."""

PLOTS = {
    "history": ("plot_optimization_history", (8.0, 4.5), {"target_name": "ROC-AUC"}),
    "curves": ("plot_intermediate_values", (8.0, 4.5), {}),
    "parallel": ("plot_parallel_coordinate", (12.0, 5.0), {"target_name": "ROC-AUC"}),
    "importance": ("plot_param_importances", (8.0, 4.0), {"target_name": "ROC-AUC"}),
}
"""By file: function of optuna.visualization.matplotlib, inches, arguments."""


def best_of(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """Return the complete trial with the highest value, the first in a tie."""
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return max(done, key=lambda trial: (trial.value, -run_of(trial)), default=None)


def make_table(trials: Sequence[FrozenTrial], space: Space) -> pd.DataFrame:
    """Return a row for each trial: by state, the best of each state first.

    The first row is ``best_of``, in a tie too.
    """
    rows = []
    for trial in sorted(trials, key=run_of):
        values, complete = trial.intermediate_values, trial.state == TrialState.COMPLETE
        row = {
            "trial": run_of(trial),
            "state": STATES[trial.state],
            "roc_auc": trial.value if complete else max(values.values(), default=math.nan),
            "best_epoch": max(values, key=lambda epoch: (values[epoch], -epoch), default=0),
            "epochs": max(values, default=0),
            "minutes": round(trial.user_attrs.get(SECONDS, 0.0) / 60, 2),
        }
        for name in space:
            row["max_epochs" if name == "epochs" else name] = trial.params.get(name, "")
        rows.append(row | {"reason": trial.user_attrs.get(REASON, "")})
    table = pd.DataFrame(rows, columns=None if rows else ["state", "roc_auc", "minutes", "reason"])
    table["state"] = pd.Categorical(table["state"], list(dict.fromkeys(STATES.values())))
    table = table.sort_values(["state", "roc_auc"], ascending=[True, False], kind="stable")
    return table if any(table["reason"]) else table.drop(columns="reason")


def short(value: Any) -> str:
    """Return a value of the table with four digits at most; nothing for nan."""
    if not isinstance(value, float):
        return str(value)
    return "" if math.isnan(value) else f"{value:.4g}"


def write_table(out: Path, trials: Sequence[FrozenTrial], space: Space) -> str:
    """Write STUDY/trials.csv and, where a trial is complete, STUDY/best.json; return the table."""
    table = make_table(trials, space)
    write_file(out / "trials.csv", table.to_csv(index=False, lineterminator="\n"))
    if best := best_of(trials):
        found = {"trial": run_of(best), "roc_auc": best.value, "flags": words_of(best.params)}
        write_file(out / "best.json", json.dumps(found, indent=2) + "\n")
    return table.drop(columns="reason", errors="ignore").map(short).to_string(index=False)


def draw(study: optuna.Study, out: Path) -> dict[str, str]:
    """Write Optuna's plots into ``out``; return them as data URLs, those that can be drawn."""
    matplotlib.use("Agg")
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as visualization

    images = {}
    for name, (function, inches, arguments) in PLOTS.items():
        # Optuna sets a style for the whole process, and leaves no room for long labels
        with matplotlib.rc_context({"savefig.bbox": "tight"}), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about few trials, equal values
            try:
                axes = getattr(visualization, function)(study, **arguments)
            except (ValueError, RuntimeError):  # too few trials for an importance
                continue
            axes.figure.set_size_inches(*inches)
            data = figures.png(axes.figure)
            pyplot.close(axes.figure)
        write_file(out / f"{name}.png", data)
        images[name] = figures.data_url(figures.smaller_png(data), "png")
    return images


def write_page(
    flags: SearchFlags, study: optuna.Study, trials: Sequence[FrozenTrial], space: Space
) -> None:
    """Write the plots and the page of ``trials`` into STUDY."""
    rows, best = make_table(trials, space), best_of(trials)
    page = template("search.html.j2", Path(__file__).parent / "templates").render(
        name=study.study_name,
        rows=rows.map(short).to_dict("records"),
        best=rows.iloc[0].to_dict() if best else None,
        counts=rows["state"].value_counts(sort=False).to_dict(),
        minutes=rows["minutes"].sum(),
        command=best_command(flags, best) if best else "",
        every=shlex.join(flags.every),
        ranges={name: describe(values) for name, values in space.items()},
        manifest=study.user_attrs[SETTING]["manifest_sha256"],
        images=draw(study, flags.out),
    )
    write_file(flags.out / "search.html", page)


def best_command(flags: SearchFlags, best: FrozenTrial) -> str:
    """Return the command that trains with a trial's flags, through the launcher."""
    run = flags.out.with_name(f"{flags.out.name}-best")
    words = flags.training(run, words_of(best.params))
    launcher = words[:1] if words[0] == "accelerate" else ["accelerate", "launch"]
    return shlex.join([*launcher, *words[1:]])


def describe(values: Any) -> str:
    """Return a distribution in words."""
    choices = [short(value) for value in choices_of(values)]
    if hasattr(values, "choices"):
        return ", ".join(choices)
    return f"{' to '.join(choices)}{', logarithmic' if values.log else ''}"
