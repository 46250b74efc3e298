"""Get the data, or make some up: ``python -m pipeline.ham10000 download|synthesize``.

python -m pipeline.ham10000 download --out data/ham10000
python -m pipeline.ham10000 synthesize --out data/demo --images 600 --seed 0
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.cli import fail, guard, parse
from pipeline.errors import DataError
from pipeline.ham10000.download import BASE_URL, LICENCE, download
from pipeline.ham10000.synthetic import synthesize


@dataclass(frozen=True)
class Download:
    """Fetch HAM10000 (2.8 GB) from the Harvard Dataverse."""

    out: Path = Path("data/ham10000")
    """Folder to fill; what is there and right is left alone."""
    test_set: bool = False
    """Also fetch the official ISIC 2018 Task 3 test set (1,511 images)."""
    base_url: str = BASE_URL
    """The Dataverse to ask."""


@dataclass(frozen=True)
class Synthesize:
    """Write a made-up, learnable dataset in HAM10000's layout."""

    out: Path = Path("data/demo")
    """Folder to make."""
    images: int = 600
    """Number of images."""
    seed: int = 0
    """What everything is drawn from."""
    width: int = 300
    """Pixels."""
    height: int = 225
    """Pixels."""


def _download(argv: list[str]) -> None:
    options = parse(Download, about=Download.__doc__ or "", argv=argv)
    print(LICENCE, flush=True)
    files = download(
        options.out, base_url=options.base_url, test_set=options.test_set, progress=True
    )
    print(f"complete in {options.out}: {', '.join(path.name for path in files)}")
    print(f"next: python -m pipeline.shards build --source {options.out} --out shards/ham10000")


def _synthesize(argv: list[str]) -> None:
    options = parse(Synthesize, about=Synthesize.__doc__ or "", argv=argv)
    size = (options.width, options.height)
    synthesize(options.out, images=options.images, seed=options.seed, size=size, progress=True)
    print(f"{options.images} made-up images in {options.out}")


COMMANDS: dict[str, tuple[Callable[[list[str]], None], str]] = {
    "download": (_download, "fetch HAM10000 from the Harvard Dataverse"),
    "synthesize": (_synthesize, "write a made-up dataset in the same layout"),
}
"""By command: what runs it, and what it does."""


def main(argv: list[str]) -> None:
    """Hand the words after the command's name to what runs it."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: python -m pipeline.ham10000 COMMAND ...; COMMAND --help lists its flags\n")
        print("\n".join(f"  {name:<11} {about}" for name, (_, about) in COMMANDS.items()))
        return
    if argv[0] not in COMMANDS:
        fail(DataError(f"no command {argv[0]!r}; there are {', '.join(COMMANDS)}"))
    guard(lambda: COMMANDS[argv[0]][0](argv[1:]))


if __name__ == "__main__":
    main(sys.argv[1:])
