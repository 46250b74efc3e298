"""Keep one trial's training from outliving the search that started it.

    search --(a pipe, open as long as the search lives)--> keeper --> launcher --> train.py

    python -m pipeline.search.keeper GRACE_SECONDS LOCK_DESCRIPTOR COMMAND...

When the pipe on standard input closes, because the search wants the trial to stop or because it
was killed, the training gets SIGTERM, once, so that it saves and leaves; after the grace whatever
is left of it gets SIGKILL. The keeper ends only when nothing of the training runs any more, and
until then it holds the trial's lock. Exit code: that of COMMAND, 128 + n after signal n.

A launcher that dies of SIGTERM leaves its ranks behind; on Linux they become the keeper's own
children (prctl 36, PR_SET_CHILD_SUBREAPER), so it waits for them as well.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

SUBREAPER, DEATH_SIGNAL = 36, 1
"""Of prctl(2)."""

TICK = 0.1
"""Seconds between looks."""


class Keeper:
    """One command with everything that it starts."""

    def __init__(self, command: Sequence[str], *, grace: float, lock: int) -> None:
        """Start ``command`` in a session of its own, so that Ctrl-C on a terminal passes it by.

        Args:
            command: the words.
            grace: seconds between SIGTERM and SIGKILL.
            lock: descriptor that the command inherits, and with it the lock on it.
        """
        self.grace = grace
        self.asked_at: float | None = None
        self.code: int | None = None
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: self.ask_to_leave())
        control = ctypes.CDLL(None).prctl if sys.platform == "linux" else (lambda *_: 0)
        control(SUBREAPER, 1, 0, 0, 0)
        self.child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=[lock],
            # should the keeper itself be killed, the kernel tells the command to leave
            preexec_fn=lambda: control(DEATH_SIGNAL, signal.SIGTERM, 0, 0, 0),  # noqa: PLW1509
        )

    def ask_to_leave(self) -> None:
        """Send SIGTERM to the command's process group; a second time would end it unsaved."""
        if self.asked_at is None:
            self.asked_at = time.monotonic()
            signal_group(self.child.pid, signal.SIGTERM)

    def reap(self) -> bool:
        """Collect who has ended; say whether somebody is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self.child.pid:
                code = os.waitstatus_to_exitcode(status)
                self.code = code if code >= 0 else 128 - code

    def run(self) -> int:
        """Watch until nobody is left; return the command's exit code."""
        ended_at: float | None = None
        listening = [sys.stdin.fileno()]
        while self.reap():
            ready, _, _ = select.select(listening, [], [], TICK)
            if ready and not os.read(ready[0], 1):
                listening = []
                self.ask_to_leave()
            if self.code is not None and ended_at is None:
                ended_at = time.monotonic()  # what it has left behind gets the same grace
            since = self.asked_at if self.asked_at is not None else ended_at
            if since is not None and time.monotonic() - since > self.grace:
                self.kill_children()
        assert self.code is not None
        return self.code

    def kill_children(self) -> None:
        """Send SIGKILL to every child; theirs become ours and get it at the next look."""
        own = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
        for pid in own.read_text().split() if own.exists() else [str(self.child.pid)]:
            signal_group(int(pid), signal.SIGKILL)
            os.kill(int(pid), signal.SIGKILL)


def signal_group(pid: int, number: signal.Signals) -> None:
    """Send a signal to the process group that ``pid`` leads, where there is one."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def main() -> None:
    """Keep the command in the arguments."""
    grace, lock, *command = sys.argv[1:]
    raise SystemExit(Keeper(command, grace=float(grace), lock=int(lock)).run())


if __name__ == "__main__":
    main()
