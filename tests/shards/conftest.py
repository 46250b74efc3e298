"""A tiny dataset in HAM10000's layout, made in milliseconds, that a test may damage."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.cli import parse
from pipeline.ham10000.taxonomy import HAM10000
from pipeline.shards.build import build_shards
from pipeline.shards.flags import BuildFlags
from pipeline.shards.packing.pack import Engine

COLUMNS = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization")


def picture(number: int, size: tuple[int, int] = (48, 36)) -> Image.Image:
    """A smooth colour picture that differs from number to number."""
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90, **options)
    return out.getvalue()


def rows_of(images: int) -> list[dict[str, str]]:
    """Metadata of ``images`` images: all seven classes, every fourth lesion with three images."""
    rows: list[dict[str, str]] = []
    lesion = 0
    while len(rows) < images:
        lesion += 1
        for _ in range(3 if lesion % 4 == 0 else 1):
            rows.append(
                {
                    "lesion_id": f"HAM_{lesion:07d}",
                    "image_id": f"ISIC_{len(rows):07d}",
                    "dx": HAM10000.classes[lesion % len(HAM10000.classes)],
                    "dx_type": "histo",
                    "age": "" if lesion % 9 == 0 else f"{lesion % 8 * 10}.0",
                    "sex": ("female", "male", "unknown")[lesion % 3],
                    "localization": ("back", "face", "unknown")[lesion % 3],
                }
            )
    return rows[:images]


def write_rows(path: Path, rows: list[dict[str, str]], delimiter: str = ",") -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def write_source(root: Path, images: int = 60) -> Path:
    folder = root / "HAM10000_images_part_1"
    folder.mkdir(parents=True)
    rows = rows_of(images)
    write_rows(root / "HAM10000_metadata.csv", rows)
    for number, row in enumerate(rows):
        (folder / f"{row['image_id']}.jpg").write_bytes(jpeg(picture(number)))
    return root


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """60 images of 48x36 pixels in a folder that belongs to this test."""
    return write_source(tmp_path / "source")


@pytest.fixture(scope="session")
def shared_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same 60 images. Read only."""
    return write_source(tmp_path_factory.mktemp("tiny") / "source")


def pack(source: Path, out: Path, *, engine: Engine | None = None, **flags: object) -> Path:
    """Run ``build --source SOURCE --out OUT`` with further flags by name; return OUT."""
    words = {"source": source, "out": out, "samples_per_shard": 8, "workers": 1} | flags
    argv = []
    for name, value in words.items():  # True: the flag alone; a list: the flag for each value
        for each in value if isinstance(value, list) else [value]:
            argv.append(f"--{name.replace('_', '-')}" + ("" if each is True else f"={each}"))
    build_shards(parse(BuildFlags, argv=argv), engine=engine, progress=False)
    return out


Build = Callable[..., Path]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """``build(source, out="out", engine=None, **flags)`` packs in this process."""
    return lambda source, out="out", **flags: pack(source, tmp_path / out, **flags)


@pytest.fixture(scope="session")
def shared_shards(tmp_path_factory: pytest.TempPathFactory, shared_source: Path) -> Path:
    """Shards of ``shared_source``, 8 samples a shard. Read only."""
    return pack(shared_source, tmp_path_factory.mktemp("packed") / "shards")


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, bytes]]:
    """``contents(folder)``: every file below it by its path."""

    def read(root: Path) -> dict[str, bytes]:
        files = (path for path in root.rglob("*") if path.is_file())
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}

    return read
