"""Where a start begins: RUN is opened, flags are compared, a checkpoint is chosen.

    saved = resume(flags, manifest_sha256=..., processes=2)    # rank 0; None: from the beginning

A resumed run has the same flags (but for ``FREE_TO_CHANGE``) and the same shards.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from pipeline.errors import DataError, warn
from pipeline.files import tidy, writing
from pipeline.learning.flags import Schedule
from pipeline.owner import OWNER
from pipeline.training.checkpoints import Checkpoint, read_checkpoint, step_folders
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


def resume(flags: TrainFlags, *, manifest_sha256: str, processes: int) -> dict[str, Any] | None:
    """Return the state to go on from, if any (rank 0 only, which has RUN for itself).

    Raises:
        DataError: RUN cannot be written, or its checkpoints do not fit this start.
    """
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
        return None
    found = find_checkpoint(run_dir, flags.run.resume, processes=processes)
    if found is None:
        return None
    state = found.state()
    _check_unchanged(flags, state, manifest_sha256, found.folder)
    for folder in step_folders(run_dir):  # damaged, or of a course that is given up now
        if int(folder.name.removeprefix("step-")) > found.step:
            shutil.rmtree(folder, ignore_errors=True)
    place = f"epoch {found.epoch}, batch {found.batch}, step {found.step}"
    print(f"resuming from {found.folder}: {place}", flush=True)
    return state


def _check_unchanged(
    flags: TrainFlags, state: Mapping[str, Any], manifest_sha256: str, folder: Path
) -> None:
    """Refuse other flags or other shards than the checkpoint's, unless they are allowed."""
    changed = changed_flags(state["flags"], flags.flat())
    if state["manifest"] != manifest_sha256:
        changed.append(
            f"--shards: manifest {state['manifest'][:12]}... before, {manifest_sha256[:12]}... now"
        )
    if not changed:
        return
    if not flags.run.allow_changes:
        raise DataError(
            f"{folder} was trained with other flags: {'; '.join(changed)}. Give the same flags to "
            "go on, --allow-changes to go on with these, --resume never to start anew, or "
            "another --run-dir"
        )
    warn(f"going on with changed flags: {'; '.join(changed)}")


def find_checkpoint(run_dir: Path, where: str, *, processes: int) -> Checkpoint | None:
    """Return the checkpoint to resume from, or None for the beginning.

    Args:
        run_dir: RUN.
        where: "auto" (the highest intact one), or the path of a checkpoint.
        processes: of this launch. A checkpoint of another number serves at an epoch's boundary
            only, because positions within an epoch mean something else.
    """
    in_mid_epoch: list[Checkpoint] = []
    for folder in step_folders(run_dir) if where == "auto" else [Path(where)]:
        try:
            found = read_checkpoint(folder)
        except DataError as error:
            if where != "auto":
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
        in_mid_epoch.append(found)
    if in_mid_epoch:
        first = in_mid_epoch[0]
        raise DataError(
            f"{first.folder}: written by {first.processes} process(es) in the middle of epoch "
            f"{first.epoch + 1}, and no checkpoint at an epoch's boundary is left; start "
            f"{first.processes} process(es) again, or begin anew with --resume never"
        )
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
