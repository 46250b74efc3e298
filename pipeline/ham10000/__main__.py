"""The commands of this room.

python -m pipeline.ham10000 synthesize --out data/demo --images 600 --seed 0
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from pipeline import cli
from pipeline.errors import DataError
from pipeline.ham10000.synthetic import synthesize


@dataclass(frozen=True)
class Synthesize:
    """Write a made-up, learnable dataset in HAM10000's layout."""

    out: Path
    """Folder to make."""
    images: int = 600
    """Number of images."""
    seed: int = 0
    """What everything is drawn from."""
    width: int = 300
    """Pixels."""
    height: int = 225
    """Pixels."""


def main() -> None:
    """Read the subcommand and its flags, and run it."""
    commands = {"synthesize": Synthesize}
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        raise DataError(f"say what to do: one of {', '.join(commands)} (each takes --help)")
    command = commands[sys.argv[1]]
    options = cli.parse(command, description=command.__doc__ or "", argv=sys.argv[2:])
    synthesize(
        options.out,
        images=options.images,
        seed=options.seed,
        size=(options.width, options.height),
        progress=True,
    )
    print(f"{options.images} made-up images in {options.out}")


if __name__ == "__main__":
    cli.guard(main)
