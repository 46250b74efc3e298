"""Pack, prove and describe shards: ``python -m pipeline.shards build|verify|stats|duplicates``."""

import importlib
import sys

from pipeline.cli import fail, guard
from pipeline.errors import DataError

COMMANDS: dict[str, tuple[str, str]] = {
    "build": ("pipeline.shards.build", "pack a dataset into shards"),
    "verify": (
        "pipeline.shards.verify",
        "prove that shards are whole and that no lesion is in two splits",
    ),
    "stats": ("pipeline.shards.stats", "classes, sex, age and site by split, printed and drawn"),
    "duplicates": (
        "pipeline.duplicates.find",
        "find images of one lesion that are filed under different ids",
    ),
}
"""By command: the module of ``pipeline.shards`` whose ``main(argv)`` runs it, and what it does."""


def main(argv: list[str]) -> None:
    """Hand the words after the command's name to its module."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: python -m pipeline.shards COMMAND ...; COMMAND --help lists its flags\n")
        print("\n".join(f"  {name:<11} {about}" for name, (_, about) in COMMANDS.items()))
        return
    if argv[0] not in COMMANDS:
        fail(DataError(f"no command {argv[0]!r}; there are {', '.join(COMMANDS)}"))
    module = importlib.import_module(COMMANDS[argv[0]][0])
    guard(lambda: module.main(argv[1:]))


if __name__ == "__main__":
    main(sys.argv[1:])
