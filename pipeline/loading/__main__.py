"""Look at what a loader gives: ``python -m pipeline.loading preview``."""

import importlib
import sys

from pipeline.cli import fail, guard
from pipeline.errors import DataError

COMMANDS: dict[str, tuple[str, str]] = {
    "preview": ("preview", "draw what the network sees: originals beside augmented versions"),
}
"""By command: the module of ``pipeline.loading`` whose ``main(argv)`` runs it, and what it does."""


def main(argv: list[str]) -> None:
    """Hand the words after the command's name to its module."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: python -m pipeline.loading COMMAND ...; COMMAND --help lists its flags\n")
        print("\n".join(f"  {name:<9} {about}" for name, (_, about) in COMMANDS.items()))
        return
    if argv[0] not in COMMANDS:
        fail(DataError(f"no command {argv[0]!r}; there are {', '.join(COMMANDS)}"))
    module = importlib.import_module(f"pipeline.loading.{COMMANDS[argv[0]][0]}")
    guard(lambda: module.main(argv[1:]))


if __name__ == "__main__":
    main(sys.argv[1:])
