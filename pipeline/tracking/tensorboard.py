"""TensorBoard, through Accelerate's tracker: numbers, the confusion matrix, images of mistakes.

tensorboard --logdir runs
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.tracking import TensorBoardTracker
from PIL import Image
from sklearn.metrics import confusion_matrix

from pipeline.tracking.journal import Point, Tracker
from pipeline.tracking.views import LoggedImage, Views

SIDE = 128
"""Pixels: height and width of a logged image."""

OUTCOMES = ("true_negatives", "false_positives", "false_negatives", "true_positives")
"""Cells of the confusion matrix, in scikit-learn's order."""


class TensorBoard(Tracker):
    """RUN/tensorboard; the x axis counts images trained on."""

    def __init__(self, run_dir: Path, *, config: dict[str, Any], first: int) -> None:
        """Open the folder, and show ``config``, flags and facts, as text.

        Points from the number of images ``first`` on are sent again; what an earlier start wrote
        from there on is hidden.
        """
        self.delivered = first - 1
        self.writer = TensorBoardTracker("tensorboard", run_dir, purge_step=first or None)
        self.writer.start()
        self.writer.log(
            {"config": "```json\n" + json.dumps(config, indent=1) + "\n```"}, step=first
        )

    def log(self, point: Point, views: Views | None) -> None:
        """Write one point."""
        step = point["samples"]
        values = {name: float(value) for name, value in point.items() if name != "samples"}
        shown = views() if views else None
        if shown:
            counts = confusion_matrix(shown.label, shown.predicted, labels=[0, 1]).ravel()
            cells = zip(OUTCOMES, counts, strict=True)
            values |= {f"confusion/{name}": float(count) for name, count in cells}
        self.writer.log(values, step=step)
        if shown and shown.drawn:
            self._log_images("predictions", shown.drawn, step)
        if shown and shown.mistakes:
            self._log_images("misclassified", shown.mistakes, step)

    def _log_images(self, name: str, images: tuple[LoggedImage, ...], step: int) -> None:
        squares = [Image.fromarray(image.picture).resize((SIDE, SIDE)) for image in images]
        stacked = np.stack([np.asarray(square) for square in squares])
        self.writer.log_images({name: stacked}, step=step, dataformats="NHWC")

    def finish(self, exit_code: int = 0) -> None:
        """Close the file."""
        self.writer.finish()
