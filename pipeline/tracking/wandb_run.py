"""Weights & Biases: online where a login is found and the server answers, else offline.

    run = start_wandb_run(RUN, config=flags, group="moles", job_type="train", run_id="0a1b2c3d")
    WandbTracker(run, RUN, manifest).log({"samples": 640, "train/loss": 0.4}, None)

An offline run is stored in RUN/wandb, and ``wandb sync RUN/wandb/offline-run-*`` uploads it. The
step of a row is the number of images trained on; W&B drops a row whose step goes back.

A resumed run sends again what may be lost. Online, the server says which step it has. Offline,
RUN/wandb/on_disk.txt does; it is 20 to 40 seconds behind the training, because W&B writes its file
every 15 seconds. So an offline run killed with -9 may hold the points of its last 40 seconds
twice, at the same x, and may lack the charts and pictures of an epoch that ended in them.
"""

import errno
import logging
import os
import re
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import requests
import wandb
from requests.utils import get_netrc_auth

from pipeline.errors import warn
from pipeline.files import write_file
from pipeline.ham10000.taxonomy import LABELS
from pipeline.learning.stored_model import read_card
from pipeline.tracking.flags import PROJECT
from pipeline.tracking.journal import Point, Tracker
from pipeline.tracking.views import EpochViews, LoggedImage, Views

ENVIRONMENT = {
    "WANDB_PROJECT": PROJECT,
    "WANDB_SILENT": "true",
    # seconds that starting and finishing a run may wait for the server; the rest stays on disk
    "WANDB_INIT_TIMEOUT": "20",
    "WANDB_FINISH_TIMEOUT": "60",
    # W&B's reports on its own errors would make the end of a process wait for the server
    "WANDB_ERROR_REPORTING": "false",
}
"""Defaults of W&B's own variables; the user's environment overrides them."""

PROBE_SECONDS = 3.0
"""Time that the server has to answer before a run is started online."""

FLUSH_SECONDS = 20.0
"""After this time a row is in W&B's file, which it writes every 15 seconds."""


# -- starting a run


def start_wandb_run(folder: Path, *, run_id: str | None = None, **about: Any) -> wandb.Run | None:
    """Start a run, or continue ``run_id``; None where the environment switches W&B off.

    The run is named after ``folder``, and its files go to FOLDER/wandb; ``about`` has config,
    group, job_type, tags and notes, as ``wandb.init`` takes them.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # on a full disk W&B's logs fail at every call, with a traceback each, and its service dies
    logging.raiseExceptions = False
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    # an inherited service outlives this process and keeps a killed run's id locked
    os.environ.pop("WANDB_SERVICE", None)
    mode = os.environ.get("WANDB_MODE", "").strip().lower()
    if mode == "disabled" or truth(os.environ.get("WANDB_DISABLED", "")):
        return None
    if mode:
        os.environ["WANDB_MODE"] = mode
    # W&B keeps copies of artifacts' files until they are sent: beside the run, not in the home
    os.environ.setdefault("WANDB_DATA_DIR", str((folder / "wandb").resolve()))
    where: dict[str, Any] = {"dir": str(folder), "name": folder.resolve().name}
    where |= {"id": run_id, "resume": "allow" if run_id else None}
    settings = wandb.setup().settings  # of the environment, and of `wandb offline|disabled`
    server, mode = settings.base_url, settings.mode
    if mode == "disabled":
        return None
    if mode in ("online", "run") and logged_in(server):
        try:
            probe(server)
            return wandb.init(mode="online", **where, **about)
        except Exception as error:  # of the network, the server or W&B, of many kinds
            warn(
                f"W&B: {server} cannot be used ({str(error).strip()}); the run is written offline, "
                "`wandb sync` sends it later"
            )
            wandb.teardown()  # W&B's service keeps the id of a run that failed to start locked
    return wandb.init(mode="offline", **where, **about)


def truth(text: str) -> bool:
    """Say whether the value of a variable of the environment means yes."""
    return text.strip().lower() not in ("", "0", "f", "false", "n", "no", "off")


def logged_in(server: str) -> bool:
    """Say whether W&B finds a key: in the environment or in ~/.netrc."""
    variables = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
    return any(map(os.environ.get, variables)) or get_netrc_auth(server) is not None


def probe(server: str) -> None:
    """Raise unless a server answers in time, with anything but an error of its own."""
    with requests.get(server, timeout=PROBE_SECONDS, stream=True) as response:
        if response.status_code >= 500:
            response.raise_for_status()


# -- a training


class WandbTracker(Tracker):
    """The W&B run of a training."""

    def __init__(
        self, run: wandb.Run, run_dir: Path, manifest: Path, *, flush_seconds: float = FLUSH_SECONDS
    ) -> None:
        """Define the metrics' axes, and name the shards' manifest as the run's input."""
        self.run, self.name = run, run_dir.resolve().name
        self.offline, self.flush_seconds = run.offline, flush_seconds
        self.on_disk = run_dir / "wandb" / "on_disk.txt"
        if not self.offline:
            self.delivered = run.starting_step - 1
        elif self.on_disk.exists():
            self.delivered = int(self.on_disk.read_text())
        self.last = self.on_disk_next = self.delivered
        self.noted_at = time.monotonic()
        for axis in ("samples", "step", "epoch"):
            run.define_metric(axis)
        run.define_metric("train/*", step_metric="samples")
        run.define_metric("epoch/*", step_metric="epoch", summary="min,max,last")
        run.define_metric("best_*", step_metric="epoch")
        if not self.offline:  # it waits for the server, so it has a thread of its own
            threading.Thread(target=use_shards, args=(run, manifest), daemon=True).start()

    def log(self, point: Point, views: Views | None) -> None:
        """Send a row; its step is the number of images trained on."""
        self.last = point["samples"]
        self.run.log(point, step=self.last, commit=views is None)
        if views:
            try:
                self.run.log(charts(views()), step=self.last, commit=True)
            except Exception as error:  # tables need the server's artifacts, numbers do not
                if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                    raise  # it switches tracking off: every later epoch would fail as well
                warn(f"W&B: the curves and pictures of an epoch were not logged ({error})")
        now = time.monotonic()
        if now - self.noted_at > self.flush_seconds:
            write_file(self.on_disk, str(self.on_disk_next))
            self.on_disk_next, self.noted_at = self.last, now

    def keep_model(self, folder: Path) -> None:
        """Log the model as an artifact, its card as the metadata."""
        files, card = sorted(folder.resolve().iterdir()), asdict(read_card(folder))
        model = artifact("model", f"model-{self.name}", files, card)
        self.run.log_artifact(model, aliases=["best", "latest"])

    def finish(self, exit_code: int = 0) -> None:
        """Close the run and wait until W&B's service has written everything."""
        self.run.finish(exit_code=exit_code)
        if self.offline:
            write_file(self.on_disk, str(self.last))
        wandb.teardown(exit_code)


def use_shards(run: wandb.Run, manifest: Path) -> None:
    """Name the shards' manifest as an input of the run; waits for the server."""
    try:
        name = f"shards-{manifest.resolve().parent.name}"
        run.use_artifact(artifact("dataset", name, [manifest]))
    except Exception as error:  # the config holds the manifest's digest as well
        warn(f"W&B: the shards' manifest could not be named as an input ({error})")


def artifact(
    kind: str, name: str, files: Iterable[Path], metadata: dict[str, Any] | None = None
) -> wandb.Artifact:
    """Return an artifact of these files; characters that its name may not have become hyphens."""
    made = wandb.Artifact(re.sub(r"[^A-Za-z0-9_.-]+", "-", name), type=kind, metadata=metadata)
    for path in files:
        made.add_file(str(path))
    return made


# -- charts


def charts(views: EpochViews) -> dict[str, Any]:
    """Return an epoch's curves, confusion matrix, table of predictions and gallery, by key.

    W&B rounds the curves to 3 digits, keeps at most 10,000 corners of the ROC curve, and draws
    interpolated precision (the highest at a recall or above it) at 21 recalls.
    """
    label: Any = views.label
    both: Any = np.column_stack([1 - views.probability, views.probability])  # [N, 2]
    names, predicted = list(LABELS), views.predicted.tolist()
    malignant: dict[str, Any] = {"labels": names, "classes_to_plot": [1]}
    shown: dict[str, Any] = {
        "roc": wandb.plot.roc_curve(label, both, title="ROC on validation", **malignant),
        "pr": wandb.plot.pr_curve(label, both, title="Precision and recall", **malignant),
        "confusion": wandb.plot.confusion_matrix(
            y_true=label.tolist(), preds=predicted, class_names=names, title="Validation"
        ),
    }
    if views.drawn:
        rows: Any = [[image(each), *each.facts.values()] for each in views.drawn]
        columns: Any = ["image", *views.drawn[0].facts]
        shown["predictions"] = wandb.Table(columns=columns, data=rows)
    if views.mistakes:
        shown["misclassified"] = [image(each, caption(each.facts)) for each in views.mistakes]
    return shown


def image(logged: LoggedImage, text: str | None = None) -> wandb.Image:
    """Return a picture as W&B takes it."""
    return wandb.Image(logged.picture, caption=text, file_type="jpg")


def caption(facts: dict[str, Any]) -> str:
    """Return the text below an image of the gallery."""
    age = "age unknown" if facts["age"] is None else f"{facts['age']:.0f} years"
    return (
        f"{facts['image_id']}: {facts['actual']} ({facts['dx']}), called {facts['predicted']} "
        f"at p = {facts['probability']:.3f}; {age}, {facts['sex']}, {facts['site']}"
    )
