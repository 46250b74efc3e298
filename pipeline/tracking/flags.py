"""Which trackers there are. Imports no torch, so that ``--help`` answers at once."""

from typing import Literal

TrackerName = Literal["wandb", "tensorboard", "none"]
"""Where figures and pictures go besides the tables in RUN."""
