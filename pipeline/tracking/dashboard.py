"""A W&B workspace with the panels that matter, as code: the same page for every run of a project.

    SECTIONS --workspace--> wandb-workspaces --save--> a saved view of ENTITY/PROJECT

    python -m pipeline.tracking dashboard --entity me --project ham10000
    python -m pipeline.tracking dashboard --entity me --project ham10000 --print    # send nothing

The names are those that ``run`` and ``tracking_wandb`` log.
"""

import json
from dataclasses import dataclass

import tyro
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from pipeline.cli import guard, parse
from pipeline.errors import DataError
from pipeline.tracking.wandb_run import (
    AREA,
    CONFUSION,
    CONFUSION_COLUMNS,
    PROJECT,
    logged_in,
)


@dataclass(frozen=True)
class Options:
    """Save a workspace for the runs of a project."""

    entity: str
    """The user or team that the project belongs to."""
    project: str = PROJECT
    """The project that runs are filed under."""
    name: str = "Training and judging"
    """What the view is called."""
    print: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the view as JSON in place of saving it; no server is asked."""

    def __post_init__(self) -> None:
        """Refuse what no view can be saved under."""
        for flag, value in (("--entity", self.entity), ("--project", self.project)):
            if not value or "/" in value:
                raise DataError(f"{flag} {value!r}: expected one name without a slash")


def main() -> None:
    """Save the view, or print it."""
    options = parse(Options, about="A W&B workspace with the panels that matter.")
    view = workspace(options.entity, options.project, options.name)
    if options.print:
        print(json.dumps(specification(view), indent=2))
        return
    import wandb

    server = wandb.setup().settings.base_url
    if not logged_in(server):
        raise DataError(
            f"nobody is logged in to {server}: run `wandb login` or set WANDB_API_KEY, or look at "
            "the view with --print"
        )
    try:
        view.save()
    except Exception as error:  # of the network or of the server, of many kinds
        raise DataError(f"{server} did not take the view: {error}") from error
    print(view.url)


def specification(view: ws.Workspace) -> dict:
    """Return what ``save`` would send."""
    return view._to_model().model_dump(by_alias=True, exclude_none=True, mode="json")


def workspace(entity: str, project: str, name: str) -> ws.Workspace:
    """Return the view."""
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[validation(), curves(), training(), machine(), judged()],
        settings=ws.WorkspaceSettings(x_axis="samples", max_runs=20),
    )


def line(title: str, *metrics: str, x: str = "epoch", low: float | None = None) -> wr.LinePlot:
    """Metrics against the epoch or the images trained on."""
    return wr.LinePlot(title=title, x=x, y=list(metrics), title_x=x, range_y=(low, None))


def section(name: str, *panels: object) -> ws.Section:
    """Panels side by side, open."""
    return ws.Section(name=name, panels=list(panels), is_open=True)  # type: ignore[arg-type]


def validation() -> ws.Section:
    """How good the model is, first of all."""
    return section(
        "Validation",
        wr.ScalarChart(title="Best ROC-AUC", metric=wr.SummaryMetric("best_roc_auc")),
        line("ROC-AUC", "epoch/val_roc_auc", low=0.5),
        line("PR-AUC", "epoch/val_pr_auc"),
        line("At the fitted threshold", "epoch/val_sensitivity", "epoch/val_specificity"),
        line("Loss", "epoch/train_loss", "epoch/val_loss"),
        line("Accuracy", "epoch/val_accuracy", "epoch/val_balanced_accuracy"),
    )


def curves() -> ws.Section:
    """What lies behind the figures: curves, the confusion matrix, cases."""
    return section(
        "Curves and cases",
        chart("ROC", "roc", AREA, {"x": "fpr", "y": "tpr", "class": "class"}),
        chart("Precision and recall", "pr", AREA, {"x": "recall", "y": "precision"}),
        chart("Confusion matrix", "confusion", CONFUSION, {n: n for n in CONFUSION_COLUMNS}),
        wr.WeavePanelSummaryTable(table_name="predictions"),
        wr.MediaBrowser(title="Misclassified", media_keys=["misclassified"], num_columns=4),
    )


def chart(title: str, key: str, kind: str, fields: dict[str, str]) -> wr.CustomChart:
    """A chart of the table that a chart was logged with under ``key``."""
    return wr.CustomChart(
        query={"summaryTable": {"tableKey": f"{key}_table"}},
        chart_name=kind,
        chart_fields=fields,
        chart_strings={"title": title},
    )


def training() -> ws.Section:
    """How it gets there, by images trained on."""
    return section(
        "Training",
        line("Loss", "train/loss", x="samples"),
        line("Learning rate", "train/lr", x="samples"),
        line("Accuracy while training", "epoch/train_accuracy"),
    )


def machine() -> ws.Section:
    """Whether the machine is kept busy."""
    return section(
        "Machine",
        line("Images/s", "train/images_per_second", x="samples", low=0),
        line("Share of time waiting for data", "train/waiting_share", x="samples", low=0),
        line("GPU memory, GiB", "train/gpu_memory_gib", x="samples", low=0),
        line("Seconds an epoch", "epoch/seconds", low=0),
    )


def judged() -> ws.Section:
    """What eval.py has found on held-out images, by report."""
    names = {"roc_auc": "ROC-AUC", "pr_auc": "PR-AUC", "sensitivity": "Sensitivity"}
    names |= {"specificity": "Specificity", "brier": "Brier score", "ece": "Calibration error"}
    panels = [wr.BarPlot(title=title, metrics=[f"eval/{name}"]) for name, title in names.items()]
    return section("Judged on held-out images", *panels)


if __name__ == "__main__":
    guard(main)
