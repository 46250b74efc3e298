"""A W&B workspace as code: the same panels for every run of a project.

    SECTIONS --workspace--> wandb-workspaces --save--> a saved view of ENTITY/PROJECT

    python -m pipeline.tracking dashboard --entity me --project ham10000
    python -m pipeline.tracking dashboard --entity me --print    # contacts no server

The metrics are those that ``pipeline.training`` and ``pipeline.tracking`` log.
"""

import json
from typing import Any

import wandb
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from pydantic import TypeAdapter

from pipeline.errors import DataError
from pipeline.tracking.flags import DashboardFlags
from pipeline.tracking.wandb_run import logged_in


def line(title: str, *metrics: str, x: str = "epoch", low: float | None = None) -> wr.LinePlot:
    """Return a plot of metrics over epochs or over images trained on (``x="samples"``)."""
    return wr.LinePlot(title=title, x=x, y=list(metrics), title_x=x, range_y=(low, None))


def chart(title: str, key: str, name: str, fields: dict[str, str]) -> wr.CustomChart:
    """Return W&B's chart ``name`` of the table that ``wandb.plot`` logged under ``key``."""
    return wr.CustomChart(
        query={"summaryTable": {"tableKey": f"{key}_table"}},
        chart_name=name,
        chart_fields=fields,
        chart_strings={"title": title},
    )


AREA, CONFUSION = "wandb/area-under-curve/v0", "wandb/confusion_matrix/v1"
"""W&B's names of the charts that ``wandb.plot`` makes."""

SECTIONS: dict[str, list[Any]] = {
    "Validation": [
        wr.ScalarChart(title="Best ROC-AUC", metric=wr.SummaryMetric("best_roc_auc")),
        line("ROC-AUC", "epoch/val_roc_auc", low=0.5),
        line("PR-AUC", "epoch/val_pr_auc"),
        line("At the fitted threshold", "epoch/val_sensitivity", "epoch/val_specificity"),
        line("Loss", "epoch/train_loss", "epoch/val_loss"),
        line("Accuracy", "epoch/val_accuracy", "epoch/val_balanced_accuracy"),
    ],
    "Curves and cases": [
        chart("ROC", "roc", AREA, {"x": "fpr", "y": "tpr", "class": "class"}),
        chart("Precision and recall", "pr", AREA, {"x": "recall", "y": "precision"}),
        chart(
            *("Confusion matrix", "confusion", CONFUSION),
            {name: name for name in ("Actual", "Predicted", "nPredictions")},
        ),
        wr.WeavePanelSummaryTable(table_name="predictions"),
        wr.MediaBrowser(title="Misclassified", media_keys=["misclassified"], num_columns=4),
    ],
    "Training": [
        line("Loss", "train/loss", x="samples"),
        line("Learning rate", "train/lr", x="samples"),
        line("Accuracy while training", "epoch/train_accuracy"),
    ],
    "Machine": [
        line("Images/s", "train/images_per_second", x="samples", low=0),
        line("Share of time waiting for data", "train/waiting_share", x="samples", low=0),
        line("GPU memory, GiB", "train/gpu_memory_gib", x="samples", low=0),
        line("Seconds an epoch", "epoch/seconds", low=0),
    ],
    "Judged on held-out images": [
        wr.BarPlot(title=title, metrics=[f"eval/{name}"])
        for name, title in {
            "roc_auc": "ROC-AUC",
            "pr_auc": "PR-AUC",
            "sensitivity": "Sensitivity",
            "specificity": "Specificity",
            "brier": "Brier score",
            "ece": "Calibration error",
        }.items()
    ],
}
"""Panels of the workspace by section, in order."""


def run(flags: DashboardFlags) -> None:
    """Save the workspace, or print it."""
    view = workspace(flags.entity, flags.project, flags.name)
    if flags.print:
        shown = TypeAdapter(ws.Workspace).dump_python(view, mode="json", exclude_none=True)
        print(json.dumps(shown, indent=2))
        return
    server = wandb.setup().settings.base_url
    if not logged_in(server):
        raise DataError(
            f"not logged in to {server}: run `wandb login` or set WANDB_API_KEY, or look at the "
            "workspace with --print"
        )
    try:
        view.save()
    except Exception as error:  # of the network or of the server, of many kinds
        raise DataError(f"{server} refused the workspace: {error}") from error
    print(view.url)


def workspace(entity: str, project: str, name: str) -> ws.Workspace:
    """Return the workspace."""
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[ws.Section(name=n, panels=p, is_open=True) for n, p in SECTIONS.items()],
        settings=ws.WorkspaceSettings(x_axis="samples", max_runs=20),
    )
