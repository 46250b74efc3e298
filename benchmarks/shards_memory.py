"""Run a ``pipeline.shards`` command and write its peak memory: helper of ``benchmarks.shards``.

python -m benchmarks.shards_memory PEAK.json build --source ... --out ...
"""

import ctypes
import json
import sys
import threading
from pathlib import Path

from pipeline.cli import dispatch, guard
from pipeline.shards.__main__ import COMMANDS


def peak_of(status: Path) -> int:
    """Return a process's highest resident memory, bytes.

    Not ``ru_maxrss``: a process inherits that from the larger one that started it.
    """
    fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) * 1024 if "VmHWM" in fields else 0


def resident() -> int:
    """Return the memory that this process has now, bytes; what it freed is given back first."""
    ctypes.CDLL(None).malloc_trim(0)
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def worker_peak() -> int:
    """Return the highest peak (bytes) among the descendants of this process that run now."""
    peaks = [0]
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            if "forkserver" in (status.parent / "cmdline").read_text():
                peaks.append(peak_of(status))
        except (OSError, ValueError):
            continue
    return max(peaks)


def run(path: Path, argv: list[str]) -> None:
    """Run the command, looking at its workers ten times a second."""
    peak = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.1):
            peak = max(peak, worker_peak())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    dispatch(COMMANDS, argv)
    done.set()
    watcher.join()
    builder = peak_of(Path("/proc/self/status"))
    path.write_text(json.dumps({"builder": builder, "workers": peak}))


if __name__ == "__main__":
    guard(lambda: run(Path(sys.argv[1]), sys.argv[2:]))
