"""TensorBoard, through Accelerate's tracker: numbers, the confusion matrix, the mistakes.

tensorboard --logdir runs
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.tracking import TensorBoardTracker
from PIL import Image

from pipeline.tracking.views import Case, Views

SIDE = 128
"""Pixels of a picture in the row of mistakes."""


class TensorBoard:
    """RUN/tensorboard; its axis is the count of images trained on."""

    def __init__(self, run_dir: Path, *, config: dict[str, Any], first: int) -> None:
        """Open the folder.

        Args:
            run_dir: RUN.
            config: flags and what they came to.
            first: points from this sample count on will be sent again; what an earlier start has
                written from there on is not shown any more.
        """
        self.delivered = first - 1
        self.writer = TensorBoardTracker("tensorboard", run_dir, purge_step=first or None)
        self.writer.start()
        self.writer.log(
            {"config": "```json\n" + json.dumps(config, indent=1) + "\n```"}, step=first
        )

    def log(self, point: dict[str, Any], views: Views | None) -> None:
        """Take one point."""
        samples = point.pop("samples")
        values: dict[str, Any] = {k: float(v) for k, v in point.items()}
        if views:
            (tn, fp), (fn, tp) = views.confusion.tolist()
            counts = {"true_negatives": tn, "false_positives": fp}
            counts |= {"false_negatives": fn, "true_positives": tp}
            values |= {f"confusion/{name}": count for name, count in counts.items()}
        self.writer.log(values, step=samples)
        if views:
            shown = {"predictions": views.samples, "misclassified": views.mistakes}
            for name, cases in shown.items():
                if cases:
                    images = {name: np.stack([square(case) for case in cases])}
                    self.writer.log_images(images, step=samples, dataformats="NHWC")

    def keep_model(self, folder: Path) -> None:
        """Do nothing: TensorBoard keeps no files."""

    def finish(self, exit_code: int = 0) -> None:
        """Close the file."""
        self.writer.finish()


def square(case: Case) -> np.ndarray:
    """The picture as [SIDE, SIDE, 3] uint8."""
    return np.asarray(Image.fromarray(case.picture).resize((SIDE, SIDE)))
