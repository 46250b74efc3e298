"""One folder, one writer: a file in the folder names the process that writes there.

    with sole_writer(Path("runs/r34"), "--run-dir"):
        ...

All that a file system must be able to do is to create a file once, so this holds across machines
and where there is no flock. The owner renews the file's time every ``RENEWAL`` seconds. An owner
of this machine that has died (a zombie too) is replaced at once; one of another machine or
container, of which nothing can be known, after ``EXPIRY`` seconds without renewal.
"""

import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from threading import Event, Thread

import psutil

from pipeline.errors import DataError, warn
from pipeline.files import beside, forget, writing

OWNER = ".owner.json"
"""Name of the file; there is none in a folder that nobody writes to."""

RENEWAL, EXPIRY = 10.0, 300.0
"""Seconds between renewals; without one after which another machine's owner is replaced."""

PATIENCE = 60.0
"""Seconds that an owner whose launcher has died has to save and leave."""


@dataclass(frozen=True)
class Owner:
    """The process that writes to a folder."""

    host: str
    space: str
    """Machine and container: within one, a process id means something."""
    pid: int
    began: float
    """Seconds since 1970."""
    parent: int
    command: str

    @classmethod
    def present(cls) -> "Owner":
        """Return this process."""
        me, host = psutil.Process(), socket.gethostname()
        where = host
        with suppress(OSError):  # no Linux
            names = Path("/proc/self/ns/pid").readlink()
            where = f"{host} {names} {Path('/etc/machine-id').read_text().strip()}"
        return cls(host, where, me.pid, me.create_time(), me.ppid(), shlex.join(sys.argv))

    def __str__(self) -> str:
        """Return process, machine and start for a message."""
        since = datetime.fromtimestamp(self.began).astimezone().isoformat(" ", "seconds")
        return f"process {self.pid} on {self.host}, started {since} ({self.command})"

    def process(self) -> psutil.Process | None:
        """Return the process, on its own machine; None where it has ended."""
        with suppress(psutil.Error):
            found = psutil.Process(self.pid)
            same = abs(found.create_time() - self.began) < 2  # s: the clock may have been set
            return found if same and found.status() != psutil.STATUS_ZOMBIE else None
        return None


@contextmanager
def sole_writer(folder: Path, flag: str) -> Iterator[None]:
    """Be the only process that writes to ``folder``, made where absent, during the block.

    A folder that was made for the block and is empty after it (a mistake ended it) is removed.
    That another process writes there, or nobody can, is a DataError, which names it by ``flag``.
    """
    me, path, made = Owner.present(), folder / OWNER, not folder.exists()
    with writing(path, f"{flag} must be a folder with free space that you may write to"):
        folder.mkdir(parents=True, exist_ok=True)
        _take(path, me, flag)
    done = Event()
    Thread(target=_renew, args=(path, me, done), name="owner", daemon=True).start()
    try:
        yield
    finally:
        done.set()
        if _read(path) == me:
            forget(path)
        if made:
            with suppress(OSError):  # it holds results
                folder.rmdir()


def _take(path: Path, me: Owner, flag: str) -> None:
    """Create the file, having waited where it is not known whether its owner still lives."""
    begun, first, told = time.monotonic(), 0.0, False
    while not _create(path, me):
        owner, renewed, waited = _read(path), _time(path), time.monotonic() - begun
        if owner and owner.space == me.space:
            alive = owner.process()
            gone, orphan = alive is None, alive and alive.ppid() != owner.parent
            refused = alive and (not orphan or waited > PATIENCE)
        else:
            first = first or renewed
            gone = max(waited, _now(path) - renewed) > EXPIRY
            refused = owner and renewed != first
        if refused:
            raise DataError(
                f"{flag} {path.parent} is in use by {owner}. Two writers would mix their files: "
                f"wait for it, stop it, or choose another {flag}"
            )
        if gone:
            _retire(path, owner)
        elif owner and not told:
            warn(f"{path.parent} is in use by {owner}; waiting to see whether that still runs")
            told = True
        time.sleep(0 if gone else 0.5)


def _create(path: Path, me: Owner) -> bool:
    """Create the file; return False where there is one."""
    try:
        with path.open("x") as file:
            file.write(json.dumps(asdict(me)))
    except FileExistsError:
        return False
    except OSError:
        forget(path)
        raise
    return True


def _read(path: Path) -> Owner | None:
    """Return the owner that the file names; None where it names none, or is not yet complete."""
    try:
        return Owner(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _time(path: Path) -> float:
    """Return when the file was last renewed, 0 where it is gone."""
    with suppress(FileNotFoundError):
        return path.stat().st_mtime
    return 0.0


def _now(path: Path) -> float:
    """Return the time of the clock that ``_time`` is of: the file server's, not this machine's."""
    probe = beside(path)
    probe.touch()
    now = _time(probe)
    forget(probe)
    return now


def _retire(path: Path, judged: Owner | None) -> None:
    """Remove the file of an owner that is gone, unless another has taken its place meanwhile."""
    aside = beside(path)
    with suppress(FileNotFoundError):  # another process was faster
        path.rename(aside)
        if _read(aside) != judged and not path.exists():
            aside.rename(path)
    forget(aside)


def _renew(path: Path, me: Owner, done: Event) -> None:
    """Renew the file; end this process where another was given the folder (it was suspended)."""
    while not done.wait(RENEWAL):
        found = _read(path)
        if found == me:
            with suppress(OSError):  # the storage is away for a moment
                os.utime(path)
        elif found:
            print(
                f"error: {path.parent} was given to {found}: nothing was heard of this process "
                f"for {EXPIRY:.0f} s",
                file=sys.stderr,
                flush=True,
            )
            os._exit(2)
