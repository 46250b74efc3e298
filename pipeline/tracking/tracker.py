"""The tracker of a run: Weights & Biases, TensorBoard or none, in a thread of its own.

    make_tracker("wandb", run_dir=RUN, ...) --> BackgroundTracker --thread--> RUN/wandb

A tracker never asks for input and never delays or ends a training: one that fails is switched off.
"""

import contextlib
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from uuid import uuid4
from zlib import crc32

from pipeline.errors import DataError, warn
from pipeline.files import write_file
from pipeline.tracking.flags import TrackerName
from pipeline.tracking.journal import Point, Tracker
from pipeline.tracking.views import Views

END_PATIENCE, SIGNAL_PATIENCE = 90.0, 10.0
"""Seconds that a training waits for its tracker to finish: at its end, and after a signal."""


class BackgroundTracker(Tracker):
    """A tracker whose calls run in order in a thread of their own.

    The first error costs a warning; nothing is tracked after it.
    """

    def __init__(self, make: Callable[[], Tracker], *, patience: float = END_PATIENCE) -> None:
        """Make the tracker in this thread; ``finish`` waits at most ``patience`` seconds for it."""
        self.tracker = Tracker()
        self.patience = patience
        try:
            self.tracker = make()
        except Exception as error:
            self._switch_off(error)
        self.delivered = self.tracker.delivered
        self.calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        # a daemon: a call that hangs does not keep the process alive
        self.thread = threading.Thread(target=self._run_calls, name="tracker", daemon=True)
        self.thread.start()

    def log(self, point: Point, views: Views | None) -> None:
        """Queue the call."""
        self.calls.put(lambda: self.tracker.log(point, views))

    def keep_model(self, folder: Path) -> None:
        """Queue the call."""
        self.calls.put(lambda: self.tracker.keep_model(folder))

    def finish(self, exit_code: int = 0) -> None:
        """Close the tracker after all queued calls; return without it when that takes too long."""
        patience = min(self.patience, SIGNAL_PATIENCE) if exit_code else self.patience
        self.calls.put(lambda: self.tracker.finish(exit_code))
        self.calls.put(None)
        self.thread.join(patience)
        if self.thread.is_alive():
            warn(f"tracking is not done after {patience:.0f} s; `wandb sync` sends the rest")

    def _run_calls(self) -> None:
        while call := self.calls.get():
            try:
                call()
            except Exception as error:
                self._switch_off(error)

    def _switch_off(self, error: Exception) -> None:
        warn(f"tracking failed and is switched off ({error!r}); training continues")
        failed, self.tracker = self.tracker, Tracker()
        with contextlib.suppress(Exception):  # the first error was reported
            failed.finish(1)


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
    """Return the tracker of this process; that of ranks other than 0 (``main``) stores nothing.

    ``config`` holds flags and facts (versions, hardware, digests), ``manifest`` is the path of the
    shards' manifest.json, ``points`` are the latest ones of earlier starts.
    """
    if not main or kind == "none":
        return Tracker()

    def make() -> Tracker:
        if kind == "tensorboard":
            from pipeline.tracking.tensorboard import TensorBoard

            return TensorBoard(run_dir, config=config, first=points[0]["samples"] if points else 0)
        from pipeline.tracking.wandb_run import WandbTracker, start_wandb_run

        about = {"config": config, "group": group, "tags": tags, "notes": notes}
        run = start_wandb_run(run_dir, run_id=run_id, job_type="train", **about)
        return WandbTracker(run, run_dir, manifest) if run else Tracker()

    return BackgroundTracker(make)


def run_id(run_dir: Path) -> str:
    """Return the id of RUN's W&B run from RUN/wandb_id.txt, which the first call writes (rank 0).

    It is kept outside the checkpoints, so that a run killed before the first one keeps its id. Its
    second half is the CRC-32 of the first; ids of earlier versions have eight letters without it.
    A damaged file is a DataError.
    """
    path = run_dir / "wandb_id.txt"
    if not path.exists():
        write_file(path, checked(uuid4().hex[:8]) + "\n")
    found = path.read_text(errors="replace").strip()
    if found != checked(found[:8]) and not re.fullmatch("[0-9a-f]{8}", found):
        raise DataError(f"{path}: damaged: {found!r}; remove it to begin another W&B run")
    return found


def checked(word: str) -> str:
    """Return a word and its CRC-32."""
    return f"{word}{crc32(word.encode()):08x}"
