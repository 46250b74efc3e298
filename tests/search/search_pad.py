"""Start searches by forking from a process that has imported everything: at once, not in seconds.

Reads lines of JSON: {"start": argv, "log": path, "env": {...}, "draw": bool} is answered with a
process id, {"wait": pid} with its exit code. Heartbeats are quick.
"""

import json
import os
import sys
import traceback
from pathlib import Path


def child(order: dict) -> None:
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ |= order["env"]
    code = 1
    try:
        from pipeline.cli import guard, parse
        from pipeline.search.flags import SearchFlags
        from pipeline.search.worker import search

        flags = parse(SearchFlags, argv=order["start"])
        guard(lambda: search(flags, heartbeat=1, grace=3, draw=order["draw"]))
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def answer(order: dict) -> int:
    if "wait" in order:
        return os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1])
    pid = os.fork()
    if pid == 0:
        child(order)
    return pid


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import alembic.command  # noqa: F401 - what a search imports late
    import sqlalchemy.dialects.sqlite  # noqa: F401

    import pipeline.search.worker  # noqa: F401 - so that every fork has it

    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
