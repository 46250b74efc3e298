"""Checkpoints on disk: published whole, listed with hashes, passed over when damaged.

    RUN/checkpoints/step-00001234/checkpoint.json   how far, how many processes, size and sha256
                                  state.pt          what a resume needs beside the model
                                  model.safetensors, model.json, training_samples.csv
    RUN/best -> RUN/best-step-00001234              the model to use: the last three files

Only rank 0 comes here. A kill at any moment leaves every published folder whole.
"""

import hashlib
import io
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from pipeline.errors import DataError, warn
from pipeline.files import point, publish_folder, sha256_of
from pipeline.learning.stored_model import WEIGHTS

FORMAT_VERSION = 1
"""Version of checkpoint.json."""

LIST, STATE = "checkpoint.json", "state.pt"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk."""

    folder: Path
    """RUN/checkpoints/step-XXXXXXXX."""
    epoch: int
    """Whole epochs before it."""
    batch: int
    """Batches per process of the epoch after them; 0 at an epoch's boundary."""
    step: int
    """Optimizer steps before it."""
    processes: int
    """How many wrote it."""

    def state(self) -> dict[str, Any]:
        """Return what ``write_checkpoint`` was given."""
        state = torch.load(self.folder / STATE, map_location="cpu", weights_only=True)
        return {**state, "average": load_file(self.folder / WEIGHTS)}


def write_checkpoint(
    run_dir: Path,
    state: dict[str, Any],
    model_files: Mapping[str, bytes],
    *,
    keep: int,
    **about: int,
) -> bool:
    """Publish a checkpoint and prune older ones; a full disk costs a warning and this one only.

    Args:
        run_dir: RUN.
        state: what ``TrainingState.capture`` returned.
        model_files: of the stored model.
        keep: how many checkpoints stay.
        about: epoch, batch, step and processes.
    """
    buffer = io.BytesIO()
    torch.save({**state, "average": None}, buffer)  # those weights are in model.safetensors
    files = {STATE: buffer.getvalue(), **model_files}
    listed = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in files.items()
    }
    contents = {"format_version": FORMAT_VERSION, **about, "files": listed}
    files[LIST] = (json.dumps(contents, indent=2) + "\n").encode()
    folder = run_dir / "checkpoints" / f"step-{about['step']:08d}"
    try:
        publish_folder(folder, files)
    except OSError as error:
        warn(f"checkpoint {folder} could not be written and is left out: {error}")
        return False
    for old in step_folders(run_dir)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return True


def write_best(run_dir: Path, step: int, model_files: Mapping[str, bytes]) -> bool:
    """Publish the best model so far and let RUN/best point to it; say whether it is there."""
    name = f"best-step-{step:08d}"
    taken = (run_dir / "best").resolve().name
    # a folder that RUN/best points to is never replaced in place: a replayed epoch gets a twin
    folder = run_dir / (name if taken != name else f"{name}-again")
    try:
        publish_folder(folder, model_files)
        point(run_dir / "best", folder)
    except OSError as error:
        warn(f"the best model {folder} could not be written, the one before stays: {error}")
        return False
    for old in run_dir.glob("best-step-*"):
        if old.name != folder.name:
            shutil.rmtree(old, ignore_errors=True)
    return True


def step_folders(run_dir: Path) -> list[Path]:
    """Return the published checkpoints, the highest step first."""
    return sorted((run_dir / "checkpoints").glob("step-*"), reverse=True)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Return the checkpoint in ``folder`` after checking the size and hash of every file.

    Raises:
        DataError: saying what is damaged.
    """
    try:
        listed = json.loads((folder / LIST).read_text())
        files, version = listed["files"], listed["format_version"]
        numbers = {name: int(listed[name]) for name in ("epoch", "batch", "step", "processes")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: {LIST} is missing or damaged ({error!r})") from error
    if version != FORMAT_VERSION:
        raise DataError(f"{folder}: format version {version}, expected {FORMAT_VERSION}")
    for name, expected in files.items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size != expected["bytes"]:
            raise DataError(f"{path}: expected {expected['bytes']} bytes, found {size}")
        if sha256_of(path) != expected["sha256"]:
            raise DataError(f"{path}: damaged: its sha256 is not the one in {LIST}")
    return Checkpoint(folder, **numbers)


def find_checkpoint(run_dir: Path, resume: str, *, processes: int) -> Checkpoint | None:
    """Return where to start, or None for the beginning.

    Args:
        run_dir: RUN.
        resume: "auto", or the path of a checkpoint.
        processes: of this launch. A checkpoint of another number serves at an epoch's boundary
            only, because positions within an epoch mean something else.
    """
    candidates = step_folders(run_dir) if resume == "auto" else [Path(resume)]
    inside: list[Checkpoint] = []
    for folder in candidates:
        try:
            found = read_checkpoint(folder)
        except DataError as error:
            if resume != "auto":
                raise
            warn(f"checkpoint passed over: {error}")
            continue
        if found.processes == processes:
            return found
        if found.batch == 0:
            warn(
                f"resuming on {processes} process(es) what {found.processes} began: from the "
                f"boundary after epoch {found.epoch} ({found.folder.name}); the global batch "
                f"changes by {processes}/{found.processes} unless --batch-size does"
            )
            return found
        inside.append(found)
    if inside:
        first = inside[0]
        raise DataError(
            f"{first.folder}: written by {first.processes} process(es) in the middle of epoch "
            f"{first.epoch + 1}, and no checkpoint at an epoch's boundary is left; start "
            f"{first.processes} process(es) again, or begin anew with --resume never"
        )
    return None


def drop_after(run_dir: Path, step: int) -> None:
    """Remove checkpoints beyond ``step``: damaged, or of a course that is left now."""
    for folder in step_folders(run_dir):
        if int(folder.name.removeprefix("step-")) > step:
            shutil.rmtree(folder, ignore_errors=True)


def move_aside(run_dir: Path) -> Path | None:
    """Move what an earlier run left in RUN into RUN/before-N; return that folder, if any."""
    found = [p for p in run_dir.glob("*") if not p.name.startswith("before-")]
    if not found:
        return None
    number = 1 + sum(1 for _ in run_dir.glob("before-*"))
    aside = run_dir / f"before-{number}"
    aside.mkdir()
    for path in found:
        path.rename(aside / path.name)
    return aside
