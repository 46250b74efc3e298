"""A report of eval.py as a W&B run of its own, in the group of the training that it judges.

OUT/metrics.json, *.png, report.html --track_report--> eval/* figures, an artifact "report-..."
"""

import json
import math
from pathlib import Path
from typing import Any

import wandb

from pipeline.errors import warn
from pipeline.tracking.wandb_run import open_run, slug


def track_report(
    out: Path, metrics: dict[str, Any], *, checkpoint: Path, mode: str = "auto", group: str
) -> None:
    """Log a report's figures and files; what fails is told and changes nothing.

    Args:
        out: the report's folder; the run's files go to OUT/wandb.
        metrics: as in metrics.json.
        checkpoint: what was judged.
        mode: "auto", "online" or "offline".
        group: W&B group; "" is that of the training.
    """
    try:
        run = open_run(
            out,
            mode=mode,
            config={"checkpoint": str(checkpoint), **metrics.get("provenance", {})},
            group=group or group_of_checkpoint(checkpoint),
            job_type="eval",
        )
        if run is None:
            return
        run.log({f"eval/{name}": value for name, value in figures(metrics).items()})
        artifact = wandb.Artifact(
            f"report-{slug(out.resolve().name)}", type="report", metadata=figures(metrics)
        )
        for path in sorted(out.iterdir()):
            if path.is_file():
                artifact.add_file(str(path))
        run.log_artifact(artifact, aliases=["latest"])
        run.finish()
        wandb.teardown()
    except Exception as error:  # a tracker is not worth a report
        warn(f"W&B: the report was not tracked ({error!r}); it is whole in {out}")


def figures(metrics: dict[str, Any]) -> dict[str, float]:
    """Return the plain numbers of metrics.json, without those that are not defined."""
    return {
        name: value
        for name, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def group_of_checkpoint(checkpoint: Path) -> str:
    """Return the group of the training that made a checkpoint; its folder's name where unknown."""
    folder = checkpoint.resolve()
    for place in (folder, *folder.parents[:2]):
        try:
            return json.loads((place / "config.json").read_text())["tracked_group"]
        except (OSError, ValueError, KeyError):
            continue
    return folder.name
