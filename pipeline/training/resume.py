"""Where a start begins: RUN is opened, flags are compared, a checkpoint is chosen.

    saved, flags = resume(flags, manifest_sha256=..., processes=2, device="cuda")    # rank 0

A resumed run has the same flags (but for ``FREE_TO_CHANGE``) and the same shards. It may have
another number of processes: what a checkpoint holds is a position over all of them.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from pipeline.errors import DataError, warn
from pipeline.files import tidy, writing
from pipeline.learning.flags import Schedule
from pipeline.loading.flags import resolved
from pipeline.owner import OWNER
from pipeline.training.checkpoints import Checkpoint, mend_best, read_checkpoint, step_folders
from pipeline.training.flags import DecisionFlags, RunFlags, TrackingFlags, TrainFlags

EPOCH_SHAPED: tuple[Schedule, ...] = ("cosine", "onecycle")
"""Schedules stretched over ``--epochs``: another total changes every step."""

FREE_TO_CHANGE = frozenset(
    (
        *("shards", "cache", "threads", "early_stopping", "refit_head"),
        *(f.name for group in (DecisionFlags, TrackingFlags) for f in fields(group)),
        *(f.name for f in fields(RunFlags) if f.name != "seed"),
    )
)
"""Flags that may differ on resume: no step of the training depends on them."""

REMOVED = {"plateau_factor": 0.1}
"""Flags of earlier versions that altered the training, with the value that is now fixed."""


def changed_flags(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return a line for each flag that alters the training and differs between two runs.

    Args:
        old: flat flags of a checkpoint, perhaps of another version: a flag that it lacks had its
            default, one that it alone has counts only if ``REMOVED`` names it.
        new: flat flags of this start.
    """
    before, now = {**TrainFlags().flat(), **REMOVED, **old}, {**REMOVED, **new}
    free = FREE_TO_CHANGE if new["schedule"] in EPOCH_SHAPED else FREE_TO_CHANGE | {"epochs"}
    return [
        f"--{name.replace('_', '-')}: {before[name]} before, {now[name]} now"
        for name in now
        if name not in free and before[name] != now[name]
    ]


def resume(
    flags: TrainFlags, *, manifest_sha256: str, processes: int, device: str
) -> tuple[dict[str, Any] | None, TrainFlags]:
    """Return the state to go on from, None at the beginning, and the flags with their backend.

    Rank 0 only, which has RUN for itself; ``device`` is "cuda" or "cpu". DataError: RUN cannot be
    written, or its checkpoints do not fit this start.
    """
    fresh, _ = with_backend(flags, {}, device)
    run_dir = flags.run.run_dir
    for folder in filter(Path.is_dir, (run_dir, run_dir / "checkpoints")):
        with writing(folder, "choose a --run-dir that you may write to"):
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError("permission denied")
            tidy(folder)
    if flags.run.resume == "never":
        aside = move_aside(run_dir)
        if aside:
            print(f"starting anew; what was in {run_dir} is in {aside} now", flush=True)
        return None, fresh
    found = find_checkpoint(run_dir, flags.run.resume)
    if found is None:
        return None, fresh
    state = found.state()
    old_batch, batch = state["flags"]["batch_size"], flags.data.batch_size
    same = found.processes * old_batch == processes * batch
    # before the flag existed, several GPUs always shared batch norm
    shared = found.processes > 1 and state["ranks"][0]["rng"]["cuda"] is not None
    old = {"sync_batch_norm": shared, **state["flags"], "batch_size": batch if same else old_batch}
    flags, old = with_backend(flags, old, device)
    _check_unchanged(flags, old, state["manifest"], manifest_sha256, found.folder)
    for folder in step_folders(run_dir):  # damaged, or of a course that is given up now
        if int(folder.name.removeprefix("step-")) > found.step:
            shutil.rmtree(folder, ignore_errors=True)
    mend_best(run_dir, state["progress"]["best_epoch"])
    place = f"epoch {found.epoch}, batch {found.batch}, step {found.step}"
    print(f"resuming from {found.folder}: {place}", flush=True)
    if not same:
        warn(
            f"resuming on {processes} process(es) what {found.processes} began: a step takes "
            f"{processes * batch} images, {found.processes * old_batch} before"
        )
    began = {"processes": found.processes, "batch_size": old_batch}
    return {**state, "progress": with_position(state["progress"], **began)}, flags


def with_backend(
    flags: TrainFlags, old: Mapping[str, Any], device: str
) -> tuple[TrainFlags, dict[str, Any]]:
    """Return the flags with the backend that auto stands for, and ``old`` to compare them with.

    That is the backend with which the run began, where it is installed and was kept: checkpoints
    of an earlier version say auto.
    """
    before = said = old.get("backend", "auto")
    backend = resolved(flags.data.backend, device, before)
    if flags.data.backend == "auto" and backend != before:
        said = backend if before == "auto" else f"{before} (not installed here: install it)"
    return replace(flags, data=replace(flags.data, backend=backend)), {**old, "backend": said}


def with_position(
    progress: Mapping[str, Any], *, processes: int, batch_size: int
) -> dict[str, Any]:
    """Return the progress in a checkpoint, with what earlier versions did not write.

    ``processes`` wrote it, each with a batch of ``batch_size``.
    """
    whole, launch = processes * batch_size, {"processes": processes, "batch_size": batch_size}
    first = {"epoch": 0, "position": 0, "step": 0, **launch}
    known = {"position": progress["batch"] * whole, "began_with": whole, "launches": [first]}
    return {**known, **progress}


def _check_unchanged(
    flags: TrainFlags, old: Mapping[str, Any], old_manifest: str, manifest: str, folder: Path
) -> None:
    """Refuse other flags or other shards than the checkpoint's, unless they are allowed."""
    changed = changed_flags(old, flags.flat())
    if old_manifest != manifest:
        changed.append(f"--shards: manifest {old_manifest[:12]}... before, {manifest[:12]}... now")
    if not changed:
        return
    if not flags.run.allow_changes:
        raise DataError(
            f"{folder} was trained with other flags: {'; '.join(changed)}. Give the same flags to "
            "go on, --allow-changes to go on with these, --resume never to start anew, or "
            "another --run-dir"
        )
    warn(f"going on with changed flags: {'; '.join(changed)}")


def find_checkpoint(run_dir: Path, where: str) -> Checkpoint | None:
    """Return the checkpoint to resume from: at a path, or with "auto" the highest intact one."""
    for folder in step_folders(run_dir) if where == "auto" else [Path(where)]:
        try:
            return read_checkpoint(folder)
        except DataError as error:
            if where != "auto":
                raise
            warn(f"checkpoint passed over: {error}")
    return None


def move_aside(run_dir: Path) -> Path | None:
    """Move what an earlier run left in RUN into RUN/before-N; return that folder, if any."""
    found = [p for p in run_dir.glob("*") if not p.name.startswith(("before-", OWNER))]
    if not found:
        return None
    aside = run_dir / f"before-{1 + len(list(run_dir.glob('before-*')))}"
    aside.mkdir()
    for path in found:
        path.rename(aside / path.name)
    return aside
