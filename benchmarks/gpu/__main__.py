"""Every claim about a GPU, checked or measured in one run of nine minutes; one table.

    make gpu ARGS="--json gpu.json"                      # in make's environment
    python -m benchmarks.gpu --json gpu.json --wheels wheels    # on a bare machine, no network
    python -m benchmarks.gpu --dry-run                   # the whole way on a CPU, tiny sizes
    python -m benchmarks.gpu --readme gpu.json           # writes the rows into README

Wheels are installed into a temporary folder first; then the same command starts again with them.
"""

import sys
import tempfile
import time
from pathlib import Path

from benchmarks.gpu import wheels
from pipeline.errors import DataError


def main() -> None:
    """Run the benchmark, with wheels where ``--wheels`` names some."""
    began = time.monotonic()
    folder, words = wheels.given(sys.argv[1:])
    if folder is not None:
        with tempfile.TemporaryDirectory(prefix="gpu-wheels-") as work:
            try:
                site = wheels.install(folder, Path(work))
            except DataError as error:
                print(f"error: {error}", file=sys.stderr)
                raise SystemExit(2) from None
            raise SystemExit(wheels.restart(words, site, began))
    from benchmarks.gpu.runner import run  # needs what the wheels hold
    from pipeline.cli import guard

    guard(lambda: run(about=(__doc__ or "").splitlines()[0]))


if __name__ == "__main__":
    main()
