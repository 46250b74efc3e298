"""The choice of trackers and the flags of ``python -m pipeline.tracking``. Imports no torch."""

from dataclasses import dataclass
from typing import Literal

import tyro

from pipeline.errors import DataError

TrackerName = Literal["wandb", "tensorboard", "none"]
"""Where figures and pictures go besides the tables in RUN."""

PROJECT = "ham10000"
"""The W&B project of all runs; WANDB_PROJECT overrides it."""


@dataclass(frozen=True)
class DashboardFlags:
    """Save a W&B workspace for the runs of a project."""

    entity: str
    """The W&B user or team that owns the project."""
    project: str = PROJECT
    """The W&B project."""
    name: str = "Training and judging"
    """Title of the workspace."""
    print: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the workspace as JSON instead of saving it; no server is contacted."""

    def __post_init__(self) -> None:
        """Refuse names that W&B cannot have."""
        for flag, value in (("--entity", self.entity), ("--project", self.project)):
            if not value or "/" in value:
                raise DataError(f"{flag} {value!r}: expected one name without a slash")
