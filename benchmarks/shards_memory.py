"""Run a ``pipeline.shards`` command and write its peak memory: helper of ``benchmarks.shards``.

python -m benchmarks.shards_memory PEAK.json build --source ... --out ...
"""

import json
import resource
import sys
import threading
from pathlib import Path

from pipeline.cli import guard
from pipeline.shards.__main__ import main


def worker_peak() -> int:
    """Return the highest peak (bytes) among the descendants of this process that run now."""
    peaks = [0]
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines())
            command = (status.parent / "cmdline").read_text()
        except (OSError, ValueError):
            continue
        if "forkserver" in command and "VmHWM" in fields:
            peaks.append(int(fields["VmHWM"].split()[0]) * 1024)
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
    main(argv)
    done.set()
    watcher.join()
    builder = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    path.write_text(json.dumps({"builder": builder, "workers": peak}))


if __name__ == "__main__":
    guard(lambda: run(Path(sys.argv[1]), sys.argv[2:]))
