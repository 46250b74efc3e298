"""Points of a run, each sent once: what a tracker is, and what the checkpoints keep for it.

    Run --add--> PointJournal --log--> Tracker

A point is the numbers known after so many images trained on. The journal keeps the latest points
in the checkpoints, and the tracker says up to which number of images it has them. So a resumed
run continues the same curves: points that a replay repeats are skipped, lost ones are sent again.
"""

from pathlib import Path
from typing import Any

from pipeline.tracking.views import Views

Point = dict[str, Any]
"""Numbers by name, "samples" among them: images trained on, over all processes and epochs."""

KEPT_POINTS = 1000
"""Points in a checkpoint: more than a tracker holds in memory before it writes them."""


class Tracker:
    """Stores nothing: ``--tracker none``, and every rank but the first. Others derive from it."""

    delivered = -1
    """Images trained on up to which earlier starts stored all points; -1 for none."""

    def log(self, point: Point, views: Views | None) -> None:
        """Store one point; ``views`` come with that of an epoch, and are made when called."""

    def keep_model(self, folder: Path) -> None:
        """Store the run's final model, given its folder."""

    def finish(self, exit_code: int = 0) -> None:
        """Write what is pending and close."""


class PointJournal:
    """Sends each point once and keeps the latest ones for the checkpoints."""

    def __init__(self, tracker: Tracker, points: list[Point]) -> None:
        """Send again what an earlier start lost.

        ``points`` are the latest ones of earlier starts, from the checkpoint; the journal appends
        to this list. The last one may still get more values.
        """
        self.tracker, self.points = tracker, points
        self.views: Views | None = None
        for point in points[:-1]:
            self._send(point)

    def add(self, samples: int, values: dict[str, Any], views: Views | None = None) -> None:
        """Add ``values`` known after ``samples`` images; the point before them is sent.

        The last step of an epoch and the epoch share a point, so a point is sent when the next
        one begins.
        """
        if self.points and self.points[-1]["samples"] == samples:
            self.points[-1].update(values)
        else:
            self._send_last()
            self.points.append({"samples": samples, **values})
            del self.points[:-KEPT_POINTS]
        self.views = views

    def close(self, exit_code: int, *, model: Path) -> None:
        """Finish; a run that is done (exit code 0) sends its last point and its model before."""
        if exit_code == 0:
            self._send_last()
            self.tracker.keep_model(model)
        self.tracker.finish(exit_code)

    def _send_last(self) -> None:
        if self.points:
            self._send(self.points[-1], self.views)
        self.views = None

    def _send(self, point: Point, views: Views | None = None) -> None:
        if point["samples"] > self.tracker.delivered:
            self.tracker.log(dict(point), views)
