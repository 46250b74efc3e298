"""What a search came to: one table, plots, one page that opens offline, the best flags.

STUDY/trials.csv     a row a trial, the best first
STUDY/*.png          history, curves, parallel coordinates, importance
STUDY/search.html    all of it in one file
STUDY/best.json      trial, ROC-AUC and flags of the best
"""

import base64
import datetime
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import optuna
import pandas as pd
from matplotlib.figure import Figure
from optuna.trial import FrozenTrial, TrialState

import pipeline.evaluation
from pipeline.files import write_file
from pipeline.search import plots as search_plots
from pipeline.search.lease import lease_of
from pipeline.search.plots import best_of, roc_auc, short
from pipeline.search.space import Space, flags

STATES = {
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "pruned",
    TrialState.RUNNING: "running",
    TrialState.FAIL: "failed",
    TrialState.WAITING: "waiting",
}
"""In the order of the table."""

DPI = 110


def rows(trials: Sequence[FrozenTrial], space: Space) -> list[dict[str, Any]]:
    """Return a row for each trial: those that were done first, the best of each kind first."""
    order, failed = list(STATES), any("reason" in trial.user_attrs for trial in trials)

    def key(trial: FrozenTrial) -> tuple:
        value = roc_auc(trial)
        return order.index(trial.state), -value if value == value else 1.0, trial.number

    table = [row(trial, space) for trial in sorted(trials, key=key)]
    if not failed:
        for entry in table:
            del entry["reason"]
    return table


def row(trial: FrozenTrial, space: Space) -> dict[str, Any]:
    """Return what the table says of a trial; ROC-AUC is that of its best epoch, on validation."""
    lease, seen = lease_of(trial), trial.intermediate_values
    return {
        "trial": trial.number,
        "state": STATES[trial.state],
        "roc_auc": roc_auc(trial),
        "best_epoch": max(seen, key=lambda e: (seen[e], -e), default=0),
        "epochs": max(seen, default=0),
        "minutes": round(lease.seconds / 60, 2) if lease else 0.0,
        **{
            "max_epochs" if name == "epochs" else name: trial.params.get(name, "") for name in space
        },
        "reason": trial.user_attrs.get("reason", ""),
    }


def as_text(trials: Sequence[FrozenTrial], space: Space) -> str:
    """Return the table for a terminal."""
    table = [
        {name: cell(name, value) for name, value in entry.items() if name != "reason"}
        for entry in rows(trials, space)
    ]
    return pd.DataFrame(table).to_string(index=False) if table else "no trial yet"


def cell(name: str, value: Any) -> str:
    """Return a value of the table as a person reads it."""
    if name == "roc_auc":
        return "" if value != value else f"{value:.4f}"
    return f"{value:.1f}" if name == "minutes" else short(value)


def write_table(out: Path, trials: Sequence[FrozenTrial], space: Space) -> None:
    """Write STUDY/trials.csv and, where a trial was done, STUDY/best.json."""
    table = pd.DataFrame(rows(trials, space))
    write_file(out / "trials.csv", table.to_csv(index=False, lineterminator="\n"))
    best = best_of(trials)
    if best is not None:
        found = {"trial": best.number, "roc_auc": best.value, "flags": flags(best.params)}
        write_file(out / "best.json", json.dumps(found, indent=2) + "\n")


def write_page(
    out: Path,
    study: optuna.Study,
    trials: Sequence[FrozenTrial],
    *,
    space: Space,
    command: Sequence[str],
    every: Sequence[str],
) -> None:
    """Write the plots and the page into STUDY; each file appears whole.

    Args:
        out: STUDY.
        study: for the importances.
        trials: those that count.
        space: what was searched.
        command: the words that train with the best flags; none where no trial was done.
        every: the flags that all trials had.
    """
    table, best = rows(trials, space), best_of(trials)
    figures = {
        "history": search_plots.history(trials),
        "curves": search_plots.curves(trials),
        "parallel": search_plots.parallel(trials, space),
        "importance": search_plots.importance(study, trials),
    }
    for name, figure in figures.items():
        save(figure, out / f"{name}.png")
    page = template().render(
        name=study.study_name,
        rows=[{k: cell(k, v) for k, v in entry.items()} for entry in table],
        best=row(best, space) if best else None,
        counts={s: sum(entry["state"] == s for entry in table) for s in STATES.values()},
        minutes=sum(entry["minutes"] for entry in table),
        command=shlex.join(command),
        every=shlex.join(every),
        ranges={name: said(values) for name, values in space.items()},
        manifest=study.user_attrs.get("manifest_sha256", ""),
        images={name: picture(out / f"{name}.png") for name in figures},
        today=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )
    write_file(out / "search.html", page)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, in one rename."""
    beside = path.with_name(f".{path.name}.partial")
    figure.savefig(beside, format="png", dpi=DPI, metadata={"Software": None})
    beside.replace(path)


def picture(path: Path) -> str:
    """Return a PNG as an address that needs no file beside the page."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def said(values: Any) -> str:
    """Return a distribution in words."""
    if hasattr(values, "choices"):
        return ", ".join(map(str, values.choices))
    return f"{short(values.low)} to {short(values.high)}{', logarithmic' if values.log else ''}"


def template() -> jinja2.Template:
    """Return the page; it looks like the reports, whose template it extends."""
    folders = [
        Path(__file__).parent,
        *(Path(p) / "templates" for p in pipeline.evaluation.__path__),
    ]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("search.html.j2")
