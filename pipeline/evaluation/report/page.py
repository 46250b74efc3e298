"""What all pages share: templates, filters, names of metrics; and how their folder is written.

    text = template("comparison.html.j2").render(summary=summary)
    write_files(Path("reports/a-b"), {"report.html": text, "comparison.json": as_json(summary)})

Every page extends ``templates/base.html.j2`` and opens offline.
"""

import datetime
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import jinja2

from pipeline.files import forget, staged_folder, write_file, writing
from pipeline.ham10000.taxonomy import Taxonomy

TEMPLATES = Path(__file__).parent.parent / "templates"

SOMETIMES = ("confusion_matrix_dx.png", "recalibration.png")
"""Files that some reports have: those of an earlier report do not stay beside a new one."""

METRIC_NAMES = {
    "roc_auc": "ROC-AUC",
    "pr_auc": "PR-AUC (average precision)",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "balanced_accuracy": "Balanced accuracy",
    "accuracy": "Accuracy",
    "brier": "Brier score (lower is better)",
    "ece": "Calibration error (lower is better)",
    "partial_auc_tpr80": "Partial AUC above 80 % sensitivity (0 to 0.2)",
    "sensitivity_at_specificity_90": "Sensitivity at 90 % specificity",
    "sensitivity_at_specificity_95": "Sensitivity at 95 % specificity",
    "specificity_at_sensitivity_90": "Specificity at 90 % sensitivity",
    "specificity_at_sensitivity_95": "Specificity at 95 % sensitivity",
    "precision": "Precision, malignant",
    "npv": "Negative predictive value",
    "f1": "F1, malignant",
    "f1_benign": "F1, benign",
    "mcc": "Matthews correlation",
    "nll": "Negative log-likelihood",
}
"""Metrics that pages list, in the order of their table."""


def metric_names(taxonomy: Taxonomy) -> dict[str, str]:
    """Return METRIC_NAMES and the recall of each malignant class."""
    malignant = {dx: taxonomy.names[dx] for dx in sorted(taxonomy.malignant)}
    recalls = {f"recall_{dx}": f"Recall of {name} ({dx})" for dx, name in malignant.items()}
    return METRIC_NAMES | recalls


def template(name: str, *folders: Path) -> jinja2.Template:
    """Return a template of this room, or of ``folders``, which are searched first.

    Values are escaped; an undefined one is an error. The filters ``figure``, ``ci`` and
    ``thousands`` write numbers; ``names`` are METRIC_NAMES, ``today`` is an ISO date.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, TEMPLATES]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"figure": figure, "ci": ci, "thousands": "{:,}".format}
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    environment.globals |= {"names": METRIC_NAMES, "today": today}
    return environment.get_template(name)


def figure(value: float | None, digits: int = 3, sign: str = "") -> str:
    """Return a figure as text; a dash where it is not defined."""
    return "–" if value is None or not math.isfinite(value) else f"{value:{sign}.{digits}f}"


def ci(bounds: Sequence[float] | None, digits: int = 3) -> str:
    """Return an interval as text; a dash where there is none."""
    return f"{bounds[0]:.{digits}f} to {bounds[1]:.{digits}f}" if bounds else "–"


def as_json(values: dict[str, Any]) -> str:
    """Return strict JSON: figures that are not defined (NaN, infinite) as null."""
    return json.dumps(_defined(values), indent=2, allow_nan=False) + "\n"


def _defined(value: Any) -> Any:
    """Return ``value`` with None in place of every float in it that is not finite."""
    if isinstance(value, dict):
        return {name: _defined(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_defined(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_files(out: Path, files: Mapping[str, bytes | str]) -> None:
    """Replace a report's files in ``out``, all in one step, or raise a DataError; others stay.

    A folder that cannot be replaced as a whole (it holds folders, is a mount point or the present
    folder, or its parent cannot be written) loses the old report first, and the last of ``files``
    is written last: while that is missing there is no report.
    """
    with writing(out):
        folder = out.resolve()
        others = [path for path in folder.glob("*") if path.name not in {*files, *SOMETIMES}]
        fixed = Path.cwd().is_relative_to(folder) or os.path.ismount(folder)
        if not fixed and all(path.is_file() for path in others):
            with suppress(PermissionError), staged_folder(folder) as hidden:
                for path in others:
                    shutil.copy2(path, hidden, follow_symlinks=False)
                for name, content in files.items():
                    write_file(hidden / name, content)
                if folder.is_dir():
                    shutil.copymode(folder, hidden)
                return
        folder.mkdir(parents=True, exist_ok=True)
        for name in (*reversed([*files]), *SOMETIMES):
            forget(folder / name)
        for name, content in files.items():
            write_file(folder / name, content)
