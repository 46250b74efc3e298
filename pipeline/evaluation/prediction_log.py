"""What a predict has done, batch by batch, so that the same command goes on after a kill.

    log = PredictionLog(out, paths, batch_size=32, facts=(weights_sha256, "none"))
    log.prepare()                             # on one process
    for number in log.missing(): ...          # the same on each, before any of them appends
    with log.appending(rank) as append:
        append(number, logits, rejected)      # a line, flushed
    logits, rejected = log.results(7)
    log.remove()

A line is ``{"batch": 7, "logits": [[...], ...], "rejected": {"3": "reason"}}`` in
``OUT/.predicting/RANK.jsonl``: logits of the images that could be read, and the place in the batch
of those that could not. Memory holds the paths and one array of logits.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import DataError
from pipeline.files import forget, reach, write_file, writing

FOLDER, KEY = ".predicting", "key"

Append = Callable[[int, np.ndarray, Mapping[int, str]], None]
"""Takes the number of a batch, logits [B, K] float32 and the reasons by place in the batch."""


class PredictionLog:
    """The batches of one predict that are done; see the module."""

    def __init__(
        self, out: Path, paths: Sequence[Path], *, batch_size: int, facts: tuple[str, ...]
    ) -> None:
        """Describe the work: another list of images, size of batch or fact is another work."""
        self.folder = out / FOLDER
        self.paths, self.batch_size = paths, batch_size
        digest = hashlib.sha256(json.dumps([batch_size, *facts]).encode())
        for path in paths:
            stamp = (-1, -1)
            with suppress(OSError):  # it will be refused, or left out
                status = path.stat()
                stamp = (status.st_size, status.st_mtime_ns)
            digest.update(os.fsencode(path) + str(stamp).encode())
        self.key = digest.hexdigest()

    def prepare(self) -> None:
        """Make the folder without what another work left in it, or raise a DataError."""
        key = self.folder / KEY
        with writing(self.folder):
            if not key.is_file() or key.read_text() != self.key:
                forget(self.folder)
                self.folder.mkdir(parents=True)
                write_file(key, self.key)

    def missing(self) -> list[int]:
        """Return the numbers of the batches that are not done, ascending."""
        batches = range(-(-len(self.paths) // self.batch_size))
        return sorted(set(batches) - {line["batch"] for line in self._lines()})

    def batch(self, number: int) -> Sequence[Path]:
        """Return the images of a batch."""
        return self.paths[number * self.batch_size : (number + 1) * self.batch_size]

    @contextmanager
    def appending(self, rank: int) -> Iterator[Append]:
        """Yield what adds a batch to this rank's lines."""
        with (
            writing(self.folder, "free some space; the same command goes on from there"),
            (self.folder / f"{rank}.jsonl").open("a") as file,
        ):
            file.write("\n")  # ends a line that a kill cut short

            def append(number: int, logits: np.ndarray, rejected: Mapping[int, str]) -> None:
                line = {"batch": number, "logits": logits.tolist(), "rejected": rejected}
                file.write(json.dumps(line) + "\n")
                file.flush()
                reach("batch", number)

            yield append

    def results(self, outputs: int) -> tuple[np.ndarray, dict[int, str]]:
        """Return the logits [N, ``outputs``] float32 of the images read, and why others were not.

        A batch that is not there, and images none of which could be read, are a DataError.
        """
        logits = np.zeros((len(self.paths), outputs), np.float32)
        done = np.zeros(len(self.paths), bool)
        rejected: dict[int, str] = {}
        for line in self._lines():
            first, size = line["batch"] * self.batch_size, len(self.batch(line["batch"]))
            bad = {first + int(place): reason for place, reason in line["rejected"].items()}
            good = [row for row in range(first, first + size) if row not in bad]
            logits[good] = np.reshape(line["logits"], (len(good), outputs))
            done[good] = True
            rejected |= bad
        if done.sum() + len(rejected) != len(self.paths):
            raise DataError(f"{self.folder} was changed by another predict; run it again")
        if not done.any():
            reason = next(iter(rejected.values()))
            raise DataError(f"none of {len(self.paths):,} images can be read; the first: {reason}")
        return logits[done], dict(sorted(rejected.items()))

    def remove(self) -> None:
        """Remove the log."""
        forget(self.folder)

    def _lines(self) -> Iterator[dict[str, Any]]:
        for path in sorted(self.folder.glob("*.jsonl")):
            with path.open() as file:
                for text in file:
                    with suppress(ValueError):  # cut short by a kill
                        yield json.loads(text)
