"""What the commands are, and facts for a bug report: ``python -m pipeline [info]``."""

import sys

from pipeline.cli import fail
from pipeline.errors import DataError
from pipeline.machine import info

COMMANDS = """\
python -m pipeline.ham10000 download|synthesize    get the data, or make some up
python -m pipeline.shards build                    pack a dataset into shards
python -m pipeline.shards verify|stats             prove shards whole, describe them
python -m pipeline.shards duplicates               find one lesion under two ids
python -m pipeline.loading preview                 draw what the network sees
accelerate launch train.py                         train
python -m pipeline.search                          search for better flags of train.py
python eval.py [compare|predict|export]            judge a checkpoint on held-out shards
python -m pipeline.tracking dashboard              make a W&B workspace
python -m pipeline info                            versions and hardware, for a bug report

Each has a --help that says what a flag is for, in which unit, and its default."""


def main(words: list[str]) -> None:
    """Print the commands, or facts of this machine."""
    match words:
        case ["info"]:
            print(info())
        case [] | ["-h" | "--help"]:
            print(COMMANDS)
        case _:
            fail(DataError(f"no command {words[0]!r}; there is info, and without a word the list"))


if __name__ == "__main__":
    main(sys.argv[1:])
