"""A report of eval.py as a W&B run of its own, in the group of the training that it judges.

OUT/metrics.json, *.png, report.html --track_report--> eval/* figures, an artifact "report-..."
"""

import json
import math
from pathlib import Path
from typing import Any

import wandb

from pipeline.errors import warn
from pipeline.owner import OWNER
from pipeline.tracking.wandb_run import artifact, start_wandb_run


def track_report(out: Path, metrics: dict[str, Any], *, checkpoint: Path, group: str) -> None:
    """Log the figures (as in metrics.json) and files of a report; a failure costs a warning.

    The run's own files go to OUT/wandb; the W&B group "" is that of the training.
    """
    figures = {
        name: value
        for name, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
    try:
        run = start_wandb_run(
            out,
            config={"checkpoint": str(checkpoint), **metrics.get("provenance", {})},
            group=group or group_of_checkpoint(checkpoint),
            job_type="eval",
        )
        if run is None:
            return
        run.log({f"eval/{name}": value for name, value in figures.items()})
        files = [path for path in sorted(out.iterdir()) if path.is_file() and path.name != OWNER]
        report = artifact("report", f"report-{out.resolve().name}", files, figures)
        run.log_artifact(report, aliases=["latest"])
        run.finish()
        wandb.teardown()
    except Exception as error:  # W&B raises many kinds; the report itself is written
        warn(f"W&B: the report was not tracked ({error!r}); it is complete in {out}")


def group_of_checkpoint(checkpoint: Path) -> str:
    """Return the group of the training that made a checkpoint; its folder's name where unknown."""
    folder = checkpoint.resolve()
    for place in (folder, *folder.parents[:2]):
        try:
            return json.loads((place / "config.json").read_text())["tracked_group"]
        except (OSError, ValueError, KeyError):
            continue
    return folder.name
