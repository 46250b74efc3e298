"""Be train.py, and note the images of every batch that it trains on: a line a batch in OUT.RANK.

    accelerate launch tests/training/taken.py OUT STEP --shards ...

After step STEP rank 0 sends itself SIGTERM; 0 lets it go on.
"""

import os
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from launchpad import arm  # noqa: E402

from pipeline import files  # noqa: E402

out, step, *sys.argv[1:] = sys.argv[1:]
rank = os.environ.get("RANK", "0")


def note(moment: str, what: str) -> None:
    """Write what was taken."""
    if moment == "taken":
        with Path(f"{out}.{rank}").open("a") as file:
            file.write(what + "\n")


files.watchers.append(note)
if int(step) and rank == "0":
    arm("step", step, "SIGTERM")
runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
