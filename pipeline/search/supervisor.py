"""Run a training such that no process of it outlives the search that started it.

    search --SIGTERM, or its death--> supervisor --SIGTERM, later SIGKILL--> launcher, ranks

    python pipeline/search/supervisor.py SEARCH_PID GRACE_SECONDS RUN COMMAND...

On SIGTERM, which the kernel also sends when the search dies (PR_SET_PDEATHSIG), the training gets
one SIGTERM, so that it saves and leaves; after the grace, whatever is left of it gets SIGKILL. A
launcher that dies of SIGTERM leaves its ranks behind; the kernel makes them children of this
process (PR_SET_CHILD_SUBREAPER), which ends only when all have ended. Until then it holds a lock on
RUN, so that the next training there starts after this one has saved. Exit code: that of COMMAND,
128 + n after signal n. Other systems than Linux have no prctl: a killed search leaves its training
behind there.
"""

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
"""Of prctl(2)."""


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process, on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def main(search: int, grace: int, run: Path, command: list[str]) -> int:
    """Run ``command`` when ``run`` is free; return its exit code when nothing of it is left."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != search:  # it died before the line above
        return 128 + signal.SIGTERM
    lock = (run / "search.lock").open("w")
    with suppress(OSError):  # some file systems have no locks
        fcntl.flock(lock, fcntl.LOCK_EX)
    child = subprocess.Popen(
        command,
        preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM),  # noqa: PLW1509
    )

    def leave(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would end it unsaved
        os.killpg(0, signal.SIGTERM)
        signal.alarm(grace)

    def kill(*_: object) -> None:
        children = Path(f"/proc/self/task/{os.getpid()}/children")
        for pid in children.read_text().split() if children.exists() else [child.pid]:
            os.kill(int(pid), signal.SIGKILL)
        signal.alarm(1)  # their children are ours by then

    signal.signal(signal.SIGALRM, kill)
    signal.signal(signal.SIGTERM, leave)
    code = 0
    while True:
        try:
            pid, status = os.wait()
        except ChildProcessError:
            return code if code >= 0 else 128 - code
        if pid == child.pid:
            code = os.waitstatus_to_exitcode(status)
            signal.alarm(grace)  # for ranks that it has left behind


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:]))
