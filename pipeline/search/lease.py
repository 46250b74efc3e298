"""Who runs which trial: a claim in the study, renewed while it is worked on, and locks on disk.

A trial that its search has left (killed, switched off, interrupted) is taken over, with its number,
parameters and folder; one that somebody works on is left alone:

- On one machine the kernel knows: a search holds RUN/search.lock as long as it lives.
- Of another machine only the study can tell: its search counts up in the trial's lease, and it
  is given up when the count has stood still for the grace, seen on the watcher's own clock.

Where two take over at once, the one whose claim is read back a moment later has it. A search that
finds another's claim on its trial stops its training.
"""

import fcntl
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from optuna.trial import FrozenTrial

ATTRIBUTE = "lease"
"""Of a trial, under its user attributes."""

SETTLE = 2.0
"""Seconds after which a claim on another machine's trial is read back."""


@dataclass(frozen=True)
class Lease:
    """Who works on a trial, as it stands in the study."""

    machine: str
    """Of the search."""
    folder: str
    """RUN there, as an absolute path."""
    token: str
    """Of this claim; empty where the search has let go of the trial."""
    count: int = 0
    """Goes up while the search lives."""
    seconds: float = 0.0
    """Worked on the trial so far, by all that held it."""
    attempts: int = 1
    """How often the training was started."""

    def stored(self) -> dict[str, Any]:
        """Return it as the study keeps it."""
        return asdict(self)


def lease_of(trial: FrozenTrial) -> Lease | None:
    """Return the lease in the trial's attributes, if it has one yet."""
    stored = trial.user_attrs.get(ATTRIBUTE)
    return Lease(**stored) if stored else None


def new_lease(folder: Path, former: Lease | None) -> Lease:
    """Return a claim for this process, which goes on counting where ``former`` ended."""
    return Lease(
        machine=this_machine(),
        folder=str(folder.absolute()),
        token=uuid.uuid4().hex,
        count=former.count + 1 if former else 0,
        seconds=former.seconds if former else 0.0,
        attempts=former.attempts + 1 if former else 1,
    )


def this_machine() -> str:
    """Return a name of this machine since it was switched on."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    mark = boot.read_text().strip() if boot.exists() else f"{uuid.getnode():x}"
    return f"{socket.gethostname()} {mark}"


@dataclass
class Watch:
    """Tells trials that are worked on from those that were left."""

    grace: float
    """Seconds without a sign after which another machine's trial counts as left."""
    seen: dict[int, tuple[tuple[str, int], float, bool]] = field(default_factory=dict)
    """By trial: the last sign, when it was new, and whether it has ever changed."""

    def judge(self, trial: FrozenTrial) -> Literal["left", "alive", "unknown"]:
        """Say how it stands with a running trial of somebody else."""
        lease = lease_of(trial)
        if lease and not lease.token:
            return "left"
        if lease and lease.machine == this_machine():
            return "left" if is_free(Path(lease.folder) / "search.lock") else "alive"
        return self.judge_from_afar(trial.number, (lease.token, lease.count) if lease else ("", 0))

    def judge_from_afar(
        self, number: int, sign: tuple[str, int]
    ) -> Literal["left", "alive", "unknown"]:
        """Say whether the sign of life of trial ``number`` has changed within the grace."""
        now = time.monotonic()
        before = self.seen.get(number)
        if before is None or before[0] != sign:
            self.seen[number] = (sign, now, before is not None)
            return "unknown" if before is None else "alive"
        if now - before[1] > self.grace:
            return "left"
        return "alive" if before[2] else "unknown"


def lock(path: Path, *, seconds: float = 0.0) -> int | None:
    """Lock the file at ``path``; return its descriptor, or None where another keeps it.

    Args:
        path: made where absent.
        seconds: how long to try.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    give_up = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() >= give_up:
                os.close(descriptor)
                return None
            time.sleep(0.05)


def release(descriptor: int) -> None:
    """Let go of a lock."""
    os.close(descriptor)


def is_free(path: Path) -> bool:
    """Say whether nobody holds the lock at ``path``."""
    if not path.exists():
        return True
    descriptor = lock(path)
    if descriptor is None:
        return False
    release(descriptor)
    return True


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock at ``path``; waits for it."""
    descriptor = lock(path, seconds=float("inf"))
    assert descriptor is not None
    try:
        yield
    finally:
        os.close(descriptor)
