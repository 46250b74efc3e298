"""One contestant of ``benchmarks.loader`` in a process of its own, and how it is asked to run.

    Player(words).ask(task)  --one line of JSON-->  serve(start): warm up, count images, answer

A contestant says what libraries and settings it likes, in an interpreter of its own where it must,
and waits between its turns, so that all take turns in one run on one machine. Standard library
only: interpreters of other projects import this.
"""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 600
"""Seconds that a contestant may take for one answer: it may pack its own files first."""

WARM_BATCHES = 4
"""Batches that are not counted: workers start, and what they had prepared is used up."""

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
CROP_AREA, CROP_ASPECT = (0.4, 1.0), (3 / 4, 4 / 3)
ROTATION, JITTER, HUE = 30.0, 0.2, 7.0
"""Degrees to either side; brightness, contrast and saturation; degrees around the colour circle."""


@dataclass(frozen=True)
class Task:
    """One turn."""

    recipe: str
    """full, crop or decode."""
    source: str
    """Name of the set of images."""
    shards: str
    """Folder of this project's shards, split train."""
    files: str
    """Folder of the same JPEGs as files, a folder for each class."""
    scratch: str
    """Folder for a contestant's own copy of them."""
    image_size: int
    """Side of the output, pixels."""
    batch_size: int
    """Images."""
    workers: int
    """Threads or processes, whichever the contestant uses."""
    seconds: float
    """How long to count."""


class SkippedError(RuntimeError):
    """A contestant has no such recipe; the message says why."""


def serve(
    start: Callable[[Task], Iterator[Any]], clock: Callable[[], float] = time.perf_counter
) -> None:
    """Answer tasks from standard input until it ends.

    Args:
        start: gives the endless batches of a task: tensors ``[B, 3, S, S] float32``, or numbers
            of images where a recipe makes no tensors.
        clock: seconds that count.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not stand between the answers
    for line in sys.stdin:
        task = Task(**json.loads(line))
        try:
            answer = measure(start, task, clock)
        except SkippedError as why:
            answer = {"skipped": str(why)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def measure(
    start: Callable[[Task], Iterator[Any]], task: Task, clock: Callable[[], float]
) -> dict[str, Any]:
    """Count the images of whole batches for ``task.seconds`` at least, after warming up."""
    with contextlib.closing(start(task)) as batches:  # type: ignore[type-var]
        layout = ""
        for _ in range(WARM_BATCHES):
            layout = _layout(next(batches), task)
        images, began = 0, clock()
        while (spent := clock() - began) < task.seconds or not images:
            images += _count(next(batches))
    return {"images": images, "seconds": spent, "layout": layout}


def _count(batch: Any) -> int:
    return batch if isinstance(batch, int) else int(batch.shape[0])


def _layout(batch: Any, task: Task) -> str:
    """Return the order of the axes in memory; complain where a batch is not what was asked for."""
    if isinstance(batch, int):
        return ""
    shape = (task.batch_size, 3, task.image_size, task.image_size)
    if tuple(batch.shape) != shape or str(batch.dtype) != "torch.float32":
        raise ValueError(f"a batch is {tuple(batch.shape)} {batch.dtype}, not {shape} float32")
    return "channels-last" if batch.stride()[1] == 1 else "planes"


class Player:
    """A contestant's process, as the benchmark sees it."""

    def __init__(self, words: Sequence[str], log: Path) -> None:
        """Start it; what it prints goes to ``log``."""
        self._log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                words,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")  # it has ended

    def ask(self, task: Task) -> dict[str, Any]:
        """Return what came of a turn; where it failed, ``{"skipped": reason}``."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(asdict(task)) + "\n")
            self._process.stdin.flush()
            line = self._lines.get(timeout=PATIENCE)
        except (OSError, queue.Empty):
            line = ""
        if line:
            return json.loads(line)
        self.stop()
        said = self._log.read_text(errors="replace").strip().splitlines()[-1:]
        return {"skipped": f"failed: {' '.join(said)[:300] or f'no answer in {PATIENCE} s'}"}

    def stop(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
