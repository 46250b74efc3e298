"""Where numbers go besides the tables: Weights & Biases, or nowhere.

Nothing here ever asks: without a login a run is written to RUN/wandb, to be sent later with
``wandb sync RUN/wandb/offline-run-*``.
"""

import netrc
import os
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import wandb

PROJECT = "ham10000"
"""The project that runs are filed under; WANDB_PROJECT overrides it."""


class Tracker(Protocol):
    """What train.py says to it."""

    def log(self, values: dict[str, Any]) -> None:
        """Take one point; ``values`` holds its own "step" or "epoch"."""
        ...

    def summary(self, values: dict[str, Any]) -> None:
        """Take the figures that the whole run came to."""
        ...

    def finish(self, exit_code: int = 0) -> None:
        """Write out what is left and close."""
        ...


class NullTracker:
    """Takes everything and keeps nothing: --wandb off, and every rank but the first."""

    def log(self, values: dict[str, Any]) -> None:
        """Do nothing."""

    def summary(self, values: dict[str, Any]) -> None:
        """Do nothing."""

    def finish(self, exit_code: int = 0) -> None:
        """Do nothing."""


class WandbTracker:
    """A Weights & Biases run, online or offline."""

    def __init__(self, run_dir: Path, *, mode: str, run_id: str, config: dict[str, Any]) -> None:
        """Open the run ``run_id``; where the server does not answer, go on offline."""
        arguments: dict[str, Any] = {
            "project": os.environ.get("WANDB_PROJECT", PROJECT),
            "dir": str(run_dir),
            "id": run_id,
            "name": run_dir.name,
            "config": config,
            "resume": "allow",
            "settings": wandb.Settings(silent=True, init_timeout=30, x_disable_stats=False),
        }
        try:
            self.run = wandb.init(mode=mode, **arguments)  # type: ignore[arg-type]
        except wandb.Error:
            if mode == "offline":
                raise
            self.run = wandb.init(mode="offline", **arguments)
        # steps that go back, after a resume, are dropped unless the axis is a metric of its own
        self.run.define_metric("step")
        self.run.define_metric("epoch")
        self.run.define_metric("train/*", step_metric="step")
        self.run.define_metric("epoch/*", step_metric="epoch")

    def log(self, values: dict[str, Any]) -> None:
        """Send one point."""
        self.run.log(values)

    def summary(self, values: dict[str, Any]) -> None:
        """Set the run's summary."""
        self.run.summary.update(values)

    def finish(self, exit_code: int = 0) -> None:
        """Close the run."""
        self.run.finish(exit_code=exit_code)


def make_tracker(
    wanted: str, run_dir: Path, *, run_id: str, config: dict[str, Any], main: bool
) -> Tracker:
    """Return the tracker for this process.

    Args:
        wanted: "auto", "online", "offline" or "off"; WANDB_MODE decides for "auto".
        run_dir: RUN; the run's files go to RUN/wandb.
        run_id: kept in the checkpoints, so that a resumed run goes on in the same curves.
        config: flags and what they came to.
        main: whether this is rank 0; others keep nothing.
    """
    mode = wanted
    if wanted == "auto":
        mode = os.environ.get("WANDB_MODE") or ("online" if logged_in() else "offline")
    if not main or mode in ("off", "disabled", "dryrun"):
        return NullTracker()
    return WandbTracker(run_dir, mode=mode, run_id=run_id, config=config)


def logged_in() -> bool:
    """Say whether W&B would find a key by itself: in the environment or in ~/.netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return netrc.netrc(path).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
