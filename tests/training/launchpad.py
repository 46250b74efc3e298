"""Launch trainings by forking from a process that has imported everything: a second, not ten.

Reads orders as lines of JSON, answers each with the exit codes of its ranks. Ranks are started
with the environment that torchrun gives them, and ended as torchrun ends them: when one fails,
the others get SIGTERM, and SIGKILL a little later.

An order may tell one rank to die: ``die`` is [rank, moment, pattern] or [rank, moment, pattern,
signal]. When ``pipeline.files.reach`` announces that moment ("step", "validation", "sync",
"rename", "replace") for something that matches the pattern, that process sends itself the signal,
SIGKILL unless named; HANG lets the thread that came there sleep for ever. ``file_limit`` is the
largest file that may be written. ``die`` [rank, "slow", N] kills nobody: that rank's training
batches come N milliseconds later, [rank, "slow", N, "validation"] those of its validations.
"""

import json
import os
import resource
import signal
import socket
import sys
import threading
import time
from fnmatch import fnmatch
from pathlib import Path

GRACE = 3.0
"""Seconds between SIGTERM and SIGKILL."""


def arm(moment: str, pattern: str, name: str = "SIGKILL") -> None:
    """Let this process send itself a signal when ``moment`` comes for what fits ``pattern``."""
    from pipeline import files

    def watch(reached: str, what: str) -> None:
        if reached == moment and fnmatch(what, pattern):
            files.watchers.remove(watch)
            if name == "HANG":
                threading.Event().wait()
            os.kill(os.getpid(), signal.Signals[name])

    files.watchers.append(watch)


def slow_down(milliseconds: int, moment: str = "batch") -> None:
    """Let each batch of this process come later, of training or ("validation") of validation."""
    from pipeline import files

    def wait(reached: str, what: str) -> None:
        if reached == moment:
            time.sleep(milliseconds / 1000)

    files.watchers.append(wait)


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
            moment, *rest = order["die"][1:]
            slow_down(*rest) if moment == "slow" else arm(moment, *rest)
        import train
        from pipeline.cli import guard, parse
        from pipeline.training.flags import TrainFlags

        flags = parse(TrainFlags)
        guard(lambda: train.main(flags))
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
