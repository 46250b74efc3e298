"""Launch trainings by forking from a process that has imported everything: a second, not ten.

Reads orders as lines of JSON, answers each with the exit codes of its ranks. Ranks are started
with the environment that torchrun gives them, and ended as torchrun ends them: when one fails,
the others get SIGTERM, and SIGKILL a little later.

An order may tell one rank to die: ``die`` is [rank, place, count] or [rank, place, count, signal],
and at the ``count``-th visit of ``place`` ("step", "fsync", "rename" or "validation") that process
sends itself the signal, SIGKILL unless named. ``file_limit`` is the largest file that may be
written. ``die`` [rank, "slow", N] kills nobody: that rank's training batches take N milliseconds
longer.
"""

import json
import os
import resource
import signal
import socket
import sys
import time
from pathlib import Path

GRACE = 3.0
"""Seconds between SIGTERM and SIGKILL."""


def killer(count: int, name: str):
    left = [count]

    def visit() -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.Signals[name])

    return visit


def arm(place: str, count: int, name: str = "SIGKILL") -> None:
    """Let this process kill itself at the ``count``-th visit of ``place``."""
    from pipeline import files as disk
    from pipeline.training import pace as watch
    from pipeline.training import run

    visit = killer(count, name)
    if place == "step":
        add = watch.Watch.add
        watch.Watch.add = lambda *args: (visit(), add(*args))[1]
    elif place == "fsync":

        class DyingOs:
            def __getattr__(self, name):
                return getattr(os, name)

            def fsync(self, descriptor):
                visit()
                os.fsync(descriptor)

        disk.os = DyingOs()
    elif place == "rename":
        rename = Path.rename
        Path.rename = lambda *args: (visit(), rename(*args))[1]
    else:
        calm = run.Run.until_interrupted

        def dying(self, batches):
            for batch in calm(self, batches):
                visit()
                yield batch

        run.Run.until_interrupted = dying


def slow_down(milliseconds: int) -> None:
    """Let each batch of this process come later."""
    from pipeline.loading.portable import PortableLoader

    brisk = PortableLoader.epoch

    def slow(self, epoch, start=0):
        for batch in brisk(self, epoch, start):
            time.sleep(milliseconds / 1000)
            yield batch

    PortableLoader.epoch = slow


def child(order: dict, rank: int, port: int) -> None:
    """Be one rank of an order; never returns."""
    log = os.open(f"{order['log']}.{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    code = 1
    try:
        ranks = order["ranks"]
        if ranks > 1:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
            os.environ |= {"LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1"}
            os.environ |= {"MASTER_PORT": str(port)}
        os.environ |= order.get("env", {})
        sys.argv = ["train.py", *order["argv"]]
        if order["file_limit"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_limit"],) * 2)
        if order.get("die") and order["die"][0] == rank:
            place, *rest = order["die"][1:]
            slow_down(*rest) if place == "slow" else arm(place, *rest)
        import train
        from pipeline.cli import guard

        guard(train.main)
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def serve(order: dict) -> list[int]:
    port, waiting, codes = free_port(), {}, {}
    for rank in range(order["ranks"]):
        pid = os.fork()
        if pid == 0:
            child(order, rank, port)
        waiting[pid] = rank
    deadline = None
    while waiting:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid in waiting:
            codes[waiting.pop(pid)] = code = os.waitstatus_to_exitcode(status)
            if code and deadline is None:
                deadline = time.monotonic() + GRACE
                for other in waiting:
                    os.kill(other, signal.SIGTERM)
        elif deadline and time.monotonic() > deadline:
            for other in waiting:
                os.kill(other, signal.SIGKILL)
            deadline = None
        else:
            time.sleep(0.02)
    return [codes[rank] for rank in sorted(codes)]


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import train  # noqa: F401 - so that every fork has it

    for line in sys.stdin:
        print(json.dumps(serve(json.loads(line))), flush=True)
