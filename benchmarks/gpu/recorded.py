"""train.py that also writes which images each step took, into the file that RECORD names.

RECORD=steps.jsonl python -m benchmarks.gpu.recorded --shards DIR ...    # the flags of train.py
"""

import json
import os
from pathlib import Path

import train
from pipeline import files
from pipeline.cli import guard, parse
from pipeline.machine import leave_with_launcher
from pipeline.training.flags import TrainFlags


def main() -> None:
    """Train, and write a line for each step; a resumed training adds to them."""
    taken: list[str] = []
    with Path(os.environ["RECORD"]).open("a") as record:

        def note(moment: str, what: str) -> None:
            if moment == "taken":
                taken.append(what)
            elif moment == "step":
                record.write(json.dumps({"step": int(what), "images": "".join(taken)}) + "\n")
                record.flush()
                taken.clear()

        files.watchers.append(note)
        train.main(parse(TrainFlags))


if __name__ == "__main__":
    leave_with_launcher()
    guard(main)
