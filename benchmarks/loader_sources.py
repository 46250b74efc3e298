"""The images that ``benchmarks.loader`` feeds to every contestant, in the forms they take.

made-up or original JPEGs -> repeated -> shards at 256 pixels, shards as they are
-> the same bytes as files, a folder for each class
"""

import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.shards import repeat_images
from pipeline.errors import DataError
from pipeline.shards.dataset import open_shards

SIDE = 256
"""Pixels of the shorter side of packed images."""


@dataclass(frozen=True)
class Source:
    """One set of images."""

    name: str
    """What the table says."""
    shards: Path
    """Shards of this project, split train."""
    files: Path
    """The same JPEGs as files, a folder for each class."""
    images: int
    """Number of them."""
    kilobytes: float
    """Mean size of a JPEG."""


def make_sources(
    work: Path, *, originals: Path | None, shards: Path | None, images: int
) -> list[Source]:
    """Make what is missing below ``work`` and return the packed images and the original ones.

    Args:
        work: folder for what is made; what lies there already is used again.
        originals: folder with JPEGs at their original size, repeated; None makes some up.
        shards: packed already; None packs the originals at ``SIDE`` pixels.
        images: of each set.
    """
    source = work / "source"
    if not source.is_dir():
        repeat_images(originals or synthesize(work / "made-up"), source, images)
    if shards is None:
        shards = build(source, work / "shards-packed", "--image-size", str(SIDE))
    return [
        unpacked("packed", shards, work / "files-packed"),
        unpacked("originals", build(source, work / "shards-originals"), work / "files-originals"),
    ]


def synthesize(folder: Path) -> Path:
    """Make up 60 images of 600 x 450 pixels."""
    if not folder.is_dir():
        size = ["--width", "600", "--height", "450"]
        run_module(
            ["pipeline.ham10000", "synthesize", "--out", str(folder), "--images", "60", *size]
        )
    return folder


def build(source: Path, out: Path, *flags: str) -> Path:
    """Pack ``source`` into one split, with this project's own command."""
    if not (out / "manifest.json").is_file():
        whole = ["--split-by", "image", "--val-fraction", "0", "--test-fraction", "0"]
        words = ["--source", str(source), "--out", str(out), "--samples-per-shard", "100"]
        run_module(["pipeline.shards", "build", *words, *whole, *flags])
    return out


def unpacked(name: str, shards: Path, folder: Path) -> Source:
    """Write the JPEGs of split train as files, ``folder/DX/ID.jpg``."""
    split = open_shards(shards).split("train")
    dx = dict(zip(split.samples["image_id"], split.samples["dx"], strict=True))
    if not folder.is_dir():
        half = folder.with_name(f"{folder.name}.part")
        for tar in split.tars:
            _extract(tar, half, dx)
        half.rename(folder)
    size = float(split.locations().size.mean()) / 1000
    return Source(name, shards, folder, len(dx), round(size, 1))


def _extract(path: Path, folder: Path, dx: dict[str, str]) -> None:
    with tarfile.open(path) as tar:
        for member in tar:
            stem, _, ending = member.name.rpartition(".")
            data = tar.extractfile(member)
            if ending == "jpg" and data is not None:
                target = folder / dx[stem] / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data.read())


def warm(sources: Sequence[Source]) -> None:
    """Read every byte once, so that the page cache is warm for all."""
    for source in sources:
        for path in [*source.files.rglob("*.jpg"), *source.shards.rglob("*.tar")]:
            path.read_bytes()


def run_module(words: Sequence[str]) -> None:
    """Run ``python -m`` with ``words``; a DataError has its last line, then what was before it."""
    done = subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        printed = done.stderr[-2000:]
        last = printed.strip().rpartition("\n")[2]
        raise DataError(f"{' '.join(words[:4])} ... failed: {last}\n{printed}")
