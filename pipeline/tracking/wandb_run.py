"""Weights & Biases: online where one is logged in and the server answers, else offline.

An offline run lies in RUN/wandb and is sent later by ``wandb sync RUN/wandb/offline-run-*``. The
step of a row is the count of images trained on, which only grows, whatever a resume replays.
"""

import netrc
import os
import re
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import wandb
from wandb.env import SERVICE

from pipeline.errors import warn
from pipeline.learning.stored_model import read_card
from pipeline.tracking.views import NAMES, Case, Views
from pipeline.tracking.wandb_file import last_step

PROJECT = "ham10000"
"""The project that runs are filed under; WANDB_PROJECT overrides it."""

PROBE = 3.0
"""Seconds that the server has to answer at all, before a run is begun online."""

BEGINNING, ENDING = 20.0, 60.0
"""Seconds that beginning and ending a run may wait for the server; WANDB_INIT_TIMEOUT and
WANDB_FINISH_TIMEOUT override them. What was not sent in time stays on disk."""

LOWER_IS_BETTER = ("epoch/train_loss", "epoch/val_loss")
HIGHER_IS_BETTER = (
    *("epoch/train_accuracy", "epoch/val_accuracy", "epoch/val_balanced_accuracy"),
    *("epoch/val_roc_auc", "epoch/val_pr_auc", "epoch/val_sensitivity", "epoch/val_specificity"),
    *("epoch/val_dx_accuracy", "epoch/val_dx_balanced_accuracy", "epoch/images_per_second"),
)
"""Metrics whose best value stands in the run's summary."""

AREA, CONFUSION = "wandb/area-under-curve/v0", "wandb/confusion_matrix/v1"
"""W&B's own chart definitions."""

CONFUSION_COLUMNS = ("Actual", "Predicted", "nPredictions")
"""As the latter names them."""

COLUMNS = ("image_id", "actual", "predicted", "probability", "dx", "age", "sex", "site")
"""Of the table of predictions, after the image."""


# -- whether and how


def choose_mode(wanted: str) -> str:
    """Return "online", "offline" or "disabled" for a wanted "auto", "online" or "offline".

    WANDB_MODE decides for "auto". Without a login, or where the server does not answer, a run is
    offline: nothing asks, nothing waits.
    """
    mode = wanted
    if wanted == "auto":
        mode = os.environ.get("WANDB_MODE") or "online"
    if mode in ("disabled", "off"):
        return "disabled"
    if mode != "online":
        return "offline"
    server = wandb.setup().settings.base_url
    problem = "" if logged_in(server) else "nobody is logged in"
    if not problem and not answers(server):
        problem = f"{server} does not answer"
    if not problem:
        return "online"
    if wanted == "online" or logged_in(server):
        warn(f"W&B: {problem}; the run is written offline, `wandb sync` sends it later")
    return "offline"


def logged_in(server: str) -> bool:
    """Say whether W&B would find a key by itself: in the environment or in ~/.netrc."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return netrc.netrc(path).authenticators(urlsplit(server).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def answers(server: str) -> bool:
    """Say whether a server answers anything sensible within ``PROBE`` seconds."""
    try:
        with requests.get(server, timeout=PROBE, stream=True) as response:
            return response.status_code < 500
    except requests.RequestException:
        return False


def open_run(
    folder: Path,
    *,
    mode: str,
    config: dict[str, Any],
    group: str,
    job_type: str,
    tags: tuple[str, ...] = (),
    notes: str = "",
    run_id: str | None = None,
) -> wandb.Run | None:
    """Begin a run, or go on with ``run_id``; None where W&B is disabled.

    Args:
        folder: the run is named after it, and its files go to FOLDER/wandb.
        mode: "auto", "online" or "offline".
        config: what is known beforehand, by name.
        group: runs of one group stand together.
        job_type: "train", "eval", ...
        tags: free.
        notes: free.
        run_id: of a run to go on with.
    """
    # W&B's reports on its own errors go to the server too, and wait for it when a process ends
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    # a service that was inherited outlives us, and would not give a killed process's run free
    os.environ.pop(SERVICE, None)
    mode = choose_mode(mode)
    if mode == "disabled":
        return None
    # copies of what artifacts hold, until they are sent: beside the run, not in the home folder
    os.environ.setdefault("WANDB_DATA_DIR", str((folder / "wandb").resolve()))
    arguments: dict[str, Any] = {
        "project": os.environ.get("WANDB_PROJECT", PROJECT),
        "dir": str(folder),
        "name": folder.resolve().name,
        "id": run_id,
        "resume": "allow" if run_id else None,
        "config": config,
        "group": group,
        "job_type": job_type,
        "tags": tags,
        "notes": notes or None,
        "settings": wandb.Settings(
            silent=True,
            init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT", BEGINNING)),
            finish_timeout=float(os.environ.get("WANDB_FINISH_TIMEOUT", ENDING)),
        ),
    }
    try:
        return wandb.init(mode=mode, **arguments)  # type: ignore[arg-type]
    except Exception as error:  # of its network, its server or its service
        if mode == "offline":
            raise
        warn(f"W&B: {error}; the run is written offline, `wandb sync` sends it later")
        return wandb.init(mode="offline", **arguments)


# -- a training


class WandbTracker:
    """A training's run."""

    def __init__(self, run: wandb.Run, run_dir: Path, manifest: Path) -> None:
        """Say what is plotted against what, and what went into the run.

        Args:
            run: begun.
            run_dir: RUN, with the files of earlier starts.
            manifest: the shards' manifest.json.
        """
        self.run, self.model = run, f"model-{slug(run_dir.resolve().name)}"
        # a server knows best what it holds; offline the files of earlier starts do
        on_disk = -1 if not run.offline else last_step(run_dir, run.id)
        self.delivered = run.starting_step - 1 if not run.offline else on_disk
        define_metrics(run)
        if not run.offline:
            threading.Thread(target=use_shards, args=(run, manifest), daemon=True).start()

    def log(self, point: dict[str, Any], views: Views | None) -> None:
        """Send a row; its step is the count of images trained on."""
        step = point["samples"]
        if views is None:
            self.run.log(point, step=step, commit=True)
            return
        self.run.log(point, step=step, commit=False)
        try:
            self.run.log(media(views), step=step, commit=False)
        except Exception as error:  # tables need the server's artifacts, numbers do not
            warn(f"W&B: the curves and pictures of an epoch were not logged ({error})")
        self.run.log({}, step=step, commit=True)

    def keep_model(self, folder: Path) -> None:
        """Log the model as an artifact, its card as the metadata."""
        artifact = wandb.Artifact(self.model, type="model", metadata=asdict(read_card(folder)))
        for path in sorted(folder.resolve().iterdir()):
            artifact.add_file(str(path))
        self.run.log_artifact(artifact, aliases=["best", "latest"])

    def finish(self, exit_code: int = 0) -> None:
        """Close the run, and wait until its service has written everything."""
        self.run.finish(exit_code=exit_code)
        wandb.teardown(exit_code)


def define_metrics(run: wandb.Run) -> None:
    """Say which axis a metric has, and which value of it stands in the summary."""
    for axis in ("samples", "step", "epoch"):
        run.define_metric(axis)
    run.define_metric("train/*", step_metric="samples")
    run.define_metric("epoch/*", step_metric="epoch")
    for names, best in ((LOWER_IS_BETTER, "min"), (HIGHER_IS_BETTER, "max")):
        for name in names:
            run.define_metric(name, step_metric="epoch", summary=best)
    for name in ("best_roc_auc", "best_epoch"):
        run.define_metric(name, step_metric="epoch")


def use_shards(run: wandb.Run, manifest: Path) -> None:
    """Name the shards' manifest as what the run was made from; waits for the server."""
    try:
        artifact = wandb.Artifact(f"shards-{slug(manifest.resolve().parent.name)}", type="dataset")
        artifact.add_file(str(manifest))
        run.use_artifact(artifact)
    except Exception as error:  # the digest is in the config as well
        warn(f"W&B: the shards' manifest could not be named as an input ({error})")


def slug(name: str) -> str:
    """Return a name of the characters that an artifact's name may have."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name) or "run"


# -- what an epoch has to show


def media(views: Views) -> dict[str, Any]:
    """Return an epoch's charts, table and gallery by key."""
    shown: dict[str, Any] = {
        "roc": curve(views.roc.to_numpy(), "fpr", "tpr", "ROC on validation"),
        "pr": curve(views.pr.to_numpy(), "recall", "precision", "Precision and recall"),
        "confusion": confusion(views),
    }
    if views.samples:
        rows: Any = [
            [image(case), *(case.facts[name] for name in COLUMNS)] for case in views.samples
        ]
        shown["predictions"] = wandb.Table(columns=["image", *COLUMNS], data=rows)
    if views.mistakes:
        shown["misclassified"] = [image(case, caption(case)) for case in views.mistakes]
    return shown


def curve(points: Any, x: str, y: str, title: str) -> Any:
    """A line chart of rows [n, 2]."""
    rows: Any = [["malignant", *row] for row in points.tolist()]
    return wandb.plot_table(
        AREA,
        wandb.Table(columns=["class", x, y], data=rows),
        {"x": x, "y": y, "class": "class"},
        {"title": title, "x-axis-title": x, "y-axis-title": y},
    )


def confusion(views: Views) -> Any:
    """A chart of the confusion matrix."""
    rows: Any = [
        [NAMES[actual], NAMES[called], int(views.confusion[actual, called])]
        for actual in (0, 1)
        for called in (0, 1)
    ]
    return wandb.plot_table(
        CONFUSION,
        wandb.Table(columns=list(CONFUSION_COLUMNS), data=rows),
        {name: name for name in CONFUSION_COLUMNS},
        {"title": "Validation, at the fitted threshold"},
    )


def image(case: Case, caption: str | None = None) -> wandb.Image:
    """A case's picture."""
    return wandb.Image(case.picture, caption=caption, file_type="jpg")


def caption(case: Case) -> str:
    """What stands under a case in the gallery."""
    facts = case.facts
    age = "age unknown" if facts["age"] is None else f"{facts['age']:.0f} years"
    return (
        f"{facts['image_id']}: {facts['actual']} ({facts['dx']}), called {facts['predicted']} "
        f"at p = {facts['probability']:.3f}; {age}, {facts['sex']}, {facts['site']}"
    )
