"""Where numbers go besides the tables: Weights & Biases, TensorBoard, or nowhere.

    Run --add--> Journal --log, each sample count once--> Tracker --> RUN/wandb or RUN/tensorboard

A point is what is known when so many images have been trained on. The journal keeps the latest
points in the checkpoints; the tracker knows up to which count it holds them. So a run that was
killed goes on in the same curves: what is replayed is not sent twice, what was lost is sent again.

Nothing here ever asks, stops a training or lets it wait: a tracker that fails is left out.
"""

import contextlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

from pipeline.errors import warn
from pipeline.tracking.flags import TrackerName
from pipeline.tracking.views import Views

Point = dict[str, Any]
"""Numbers by name, "samples" among them: images trained on, over all processes and epochs."""

ENDING, LEAVING = 90.0, 10.0
"""Seconds that a training waits for its tracker to send what is left: at its end, and when a
signal ends it."""

KEPT_POINTS = 1000
"""Points in a checkpoint: more than W&B holds back before it writes them (32 KiB)."""


class Tracker(Protocol):
    """What a run says to it; rank 0 alone has one that keeps anything."""

    @property
    def delivered(self) -> int:
        """Sample count up to which it holds all points; -1 where it holds none."""
        ...

    def log(self, point: Point, views: Views | None) -> None:
        """Take one point, with what an epoch has to show besides numbers."""
        ...

    def keep_model(self, folder: Path) -> None:
        """Take the model that the run came to, by its folder."""
        ...

    def finish(self, exit_code: int = 0) -> None:
        """Write out what is left and close."""
        ...


class NullTracker:
    """Takes everything and keeps nothing: ``--tracker none``, and every rank but the first."""

    delivered = -1

    def log(self, point: Point, views: Views | None) -> None:
        """Do nothing."""

    def keep_model(self, folder: Path) -> None:
        """Do nothing."""

    def finish(self, exit_code: int = 0) -> None:
        """Do nothing."""


class Aside:
    """A tracker that training neither waits for nor depends on.

    A thread of its own does in order what is asked for. The first error is told, and nothing more
    is sent from then on.
    """

    def __init__(self, make: Callable[[], Tracker]) -> None:
        """Make the tracker, or do without."""
        self.failed = False
        self.tracker: Tracker = NullTracker()
        self._try(lambda: setattr(self, "tracker", make()))
        self.queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    @property
    def delivered(self) -> int:
        """As the tracker says."""
        return self.tracker.delivered

    def log(self, point: Point, views: Views | None) -> None:
        """Pass on."""
        self.queue.put(lambda: self._try(lambda: self.tracker.log(point, views)))

    def keep_model(self, folder: Path) -> None:
        """Pass on."""
        self.queue.put(lambda: self._try(lambda: self.tracker.keep_model(folder)))

    def finish(self, exit_code: int = 0) -> None:
        """Close the tracker when it has done all that was asked for; wait, but not for ever."""
        patience = LEAVING if exit_code else ENDING

        def close() -> None:
            if not self.failed:
                self._try(lambda: self.tracker.finish(exit_code))
                return
            with contextlib.suppress(Exception):  # the first failure was told
                self.tracker.finish(exit_code)

        self.queue.put(close)
        self.queue.put(None)
        self.thread.join(patience)
        if self.thread.is_alive():
            warn(f"tracking is not done after {patience:.0f} s; `wandb sync` sends the rest")

    def _work(self) -> None:
        while action := self.queue.get():
            action()

    def _try(self, action: Callable[[], None]) -> None:
        if self.failed:
            return
        try:
            action()
        except Exception as error:  # whatever it is: a tracker is not worth a training
            self.failed = True
            warn(f"tracking failed and is left out from here on ({error!r}); training goes on")


class Journal:
    """Sends points, each sample count once, and remembers the latest for the checkpoints."""

    def __init__(self, tracker: Tracker, points: list[Point]) -> None:
        """Send again what an earlier start has lost.

        Args:
            tracker: where points go.
            points: the latest ones of earlier starts, as the checkpoint holds them; points are
                added to this list. The last one is still open.
        """
        self.tracker, self.points = tracker, points
        self.views: Views | None = None
        for point in points[:-1]:
            self._send(point)

    def add(self, samples: int, values: dict[str, Any], views: Views | None = None) -> None:
        """Take ``values`` known at ``samples`` images; the point before them is sent.

        The last step of an epoch and the epoch are one point: it is sent when a later one comes.
        """
        if self.points and self.points[-1]["samples"] == samples:
            self.points[-1].update(values)
        else:
            self._send_last()
            self.points.append({"samples": samples, **values})
            del self.points[:-KEPT_POINTS]
        self.views = views

    def close(self, exit_code: int, *, model: Path) -> None:
        """Send the last point and the model of a run that is done; one that goes on keeps them."""
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


def make_tracker(
    kind: TrackerName,
    *,
    run_dir: Path,
    run_id: str,
    config: dict[str, Any],
    group: str,
    tags: tuple[str, ...],
    notes: str,
    manifest: Path,
    points: Sequence[Point],
    main: bool,
) -> Tracker:
    """Return the tracker of this process.

    Args:
        kind: which.
        run_dir: RUN.
        run_id: of the W&B run; the same after a resume, so that curves are continued.
        config: flags, versions, hardware, digests.
        group: of this run and of the reports on it.
        tags: W&B tags.
        notes: W&B notes.
        manifest: the shards' manifest.json.
        points: the latest ones of earlier starts.
        main: whether this is rank 0; others keep nothing.
    """
    if not main:
        return NullTracker()

    def wandb() -> Tracker:
        from pipeline.tracking.wandb_run import WandbTracker, open_run

        run = open_run(
            run_dir,
            mode="auto",
            run_id=run_id,
            config=config,
            group=group,
            job_type="train",
            tags=tags,
            notes=notes,
        )
        return WandbTracker(run, run_dir, manifest) if run else NullTracker()

    def tensorboard() -> Tracker:
        from pipeline.tracking.tensorboard import TensorBoard

        first = points[0]["samples"] if points else 0
        return TensorBoard(run_dir, config=config, first=first)

    kinds: dict[TrackerName, Callable[[], Tracker]] = {
        "wandb": wandb,
        "tensorboard": tensorboard,
        "none": NullTracker,
    }
    return Aside(kinds[kind])
