"""Checkpoints and the best model on disk: published by one rename, listed with hashes.

    RUN/checkpoints/step-00001234/checkpoint.json   progress, processes, size and sha256 of files
                                  state.pt          optimizer, random numbers, history, ...
                                  model.safetensors, model.json, training_samples.csv
    RUN/best -> RUN/best-step-00001234              the model to use: the last three files

    checkpoint = read_checkpoint(Path("runs/r34/checkpoints/step-00001234"))   # verified
    state.restore(checkpoint.state())

Only rank 0 calls what is here. A kill at any moment leaves every published folder whole. ``Writer``
does it in a thread of its own, while training goes on.
"""

import errno
import io
import json
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from pipeline.errors import DataError, warn
from pipeline.files import point, publish_folder, sha256, sha256_of, sha256_of_values
from pipeline.learning.foreign_weights import WEIGHTS
from pipeline.learning.stored_model import CARD, SAMPLES, damage, read_card, stored_folder

FORMAT_VERSION = 1
"""Version of checkpoint.json."""

LIST, STATE, MODEL_FILES = "checkpoint.json", "state.pt", (WEIGHTS, CARD, SAMPLES)


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk."""

    folder: Path
    """RUN/checkpoints/step-XXXXXXXX."""
    epoch: int
    """Completed epochs."""
    batch: int
    """Completed batches per process of the epoch after them; 0 at an epoch's boundary."""
    step: int
    """Optimizer steps."""
    processes: int
    """Number of processes that wrote it."""

    def state(self) -> dict[str, Any]:
        """Return what ``write_checkpoint`` was given, tensors on the CPU."""
        state = torch.load(self.folder / STATE, map_location="cpu", weights_only=True)
        return {**state, "average": load_file(self.folder / WEIGHTS)}


class Writer:
    """A thread that writes what training has captured; one job at a time."""

    def __init__(self) -> None:
        """Wait for the first job."""
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self.job: Future[bool] | None = None

    def start(self, job: Callable[[], bool]) -> None:
        """Let the thread do a job, when the one before is done."""
        self.settle()
        self.job = self.pool.submit(job)

    def settle(self) -> bool:
        """Wait for the job under way; return what it did, True without one. Raises its error."""
        job, self.job = self.job, None
        return job.result() if job else True

    def close(self) -> None:
        """Wait for the job under way, whatever comes of it."""
        self.pool.shutdown()


def write_checkpoint(
    run_dir: Path,
    state: Mapping[str, Any],
    model_files: Mapping[str, bytes],
    *,
    keep: int,
    **progress: int,
) -> bool:
    """Publish a checkpoint and delete the oldest; return False, with a warning, on a full disk.

    ``state`` is what ``TrainingState.capture`` returned, and flags and manifest; ``model_files``
    are the stored model's by name; ``keep`` checkpoints stay. ``progress``: epoch, batch, step and
    processes.
    """
    buffer = io.BytesIO()
    torch.save({**state, "average": None}, buffer)  # those weights are in model.safetensors
    files = {STATE: buffer.getvalue(), **model_files}
    listed = {name: {"bytes": len(data), "sha256": sha256(data)} for name, data in files.items()}
    contents = {"format_version": FORMAT_VERSION, **progress, "files": listed}
    contents["sha256"] = sha256_of_values(contents)
    files[LIST] = (json.dumps(contents, indent=2) + "\n").encode()
    folder = run_dir / "checkpoints" / f"step-{progress['step']:08d}"
    try:
        publish_with_room(run_dir, folder, files)
    except OSError as error:
        warn(f"checkpoint {folder} could not be written and is left out: {error}")
        return False
    for old in step_folders(run_dir)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return True


def write_best(run_dir: Path, step: int, model_files: Mapping[str, bytes]) -> bool:
    """Publish the best model so far and point RUN/best to it; return False on a full disk."""
    name = f"best-step-{step:08d}"
    # the folder that RUN/best points to is not replaced in place, so that the link never dangles
    taken = (run_dir / "best").resolve().name == name
    folder = run_dir / (f"{name}-again" if taken else name)
    try:
        publish_with_room(run_dir, folder, model_files)
        point(run_dir / "best", folder)
    except OSError as error:
        warn(f"the best model {folder} could not be written, the one before stays: {error}")
        return False
    for old in run_dir.glob("best-step-*"):
        if old.name != folder.name:
            shutil.rmtree(old, ignore_errors=True)
    return True


def publish_with_room(run_dir: Path, folder: Path, files: Mapping[str, bytes]) -> None:
    """Publish a folder; on a full disk again, without the checkpoints before the last one."""
    try:
        publish_folder(folder, files)
    except OSError as error:
        spare = step_folders(run_dir)[1:]
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not spare:
            raise
        warn(f"{run_dir}: no room ({error.strerror}): only the last checkpoint is kept")
        for old in spare:
            shutil.rmtree(old, ignore_errors=True)
        publish_folder(folder, files)


def best_is_of(run_dir: Path, epoch: int) -> bool:
    """Say whether RUN/best is of this epoch; where it is not, take it from its checkpoint, if any.

    It can be missing because the disk was full when the epoch ended, or because RUN was copied
    without its link, which is made again.
    """
    with suppress(DataError):
        folder = stored_folder(run_dir / "best")
        if not damage(folder) and read_card(folder).epoch == epoch:
            if not (run_dir / "best").is_dir():
                point(run_dir / "best", folder)
            return True
    for folder in step_folders(run_dir):
        with suppress(DataError):
            found = read_checkpoint(folder)
            if (found.epoch, found.batch) == (epoch, 0):
                files = {name: (folder / name).read_bytes() for name in MODEL_FILES}
                return write_best(run_dir, found.step, files)
    return False


def mend_best(run_dir: Path, epoch: int) -> None:
    """Take a damaged RUN/best again from the checkpoint of its epoch; warn where that is gone."""
    try:
        damaged = damage(folder := stored_folder(run_dir / "best"))
    except DataError:  # there is none yet
        return
    if not damaged:
        return
    mended = best_is_of(run_dir, epoch)
    warn(
        f"{folder}: {' and '.join(damaged)} damaged: not as written; "
        + (
            "taken again from its checkpoint"
            if mended
            else f"no checkpoint of epoch {epoch}, the best, is left: unless a later epoch is "
            "better this run will end with an error (--resume never begins anew)"
        )
    )


def discard(run_dir: Path, step: int) -> None:
    """Remove the checkpoint of a step from which the training diverged, if there is one."""
    shutil.rmtree(run_dir / "checkpoints" / f"step-{step:08d}", ignore_errors=True)


def step_folders(run_dir: Path) -> list[Path]:
    """Return the published checkpoints, the highest step first."""
    return sorted((run_dir / "checkpoints").glob("step-*"), reverse=True)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Return the checkpoint in ``folder`` after checking size and hash of every file.

    DataError: saying what is damaged.
    """
    try:
        listed = json.loads((folder / LIST).read_text())
        version = listed["format_version"]
        files = {n: (int(f["bytes"]), str(f["sha256"])) for n, f in listed["files"].items()}
        progress = {name: int(listed[name]) for name in ("epoch", "batch", "step", "processes")}
        digest = listed.pop("sha256", None)  # none: written by an earlier version
        if digest not in (None, sha256_of_values(listed)) or not {STATE, *MODEL_FILES} <= set(
            files
        ):
            raise ValueError("not as it was written")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise DataError(f"{folder}: {LIST} is missing or damaged ({error!r})") from error
    if version != FORMAT_VERSION:
        raise DataError(f"{folder}: format version {version}, expected {FORMAT_VERSION}")
    for name, (size, digest) in files.items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            raise DataError(f"{path}: expected {size} bytes, found {found}")
        if sha256_of(path) != digest:
            raise DataError(f"{path}: damaged: its sha256 is not the one in {LIST}")
    return Checkpoint(folder, **progress)
