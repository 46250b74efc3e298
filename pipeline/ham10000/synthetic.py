"""A made-up dataset in HAM10000's layout, learnable, for demonstrations and tests.

``synthesize`` writes ``HAM10000_images_part_1/``, ``HAM10000_images_part_2/`` and
``HAM10000_metadata.csv``: seven classes in HAM10000's proportions, several photographs of some
lesions, missing ages, unknown sexes and sites. ``plan`` decides on the rows (pure: a function of
the number of images and the seed), ``drawing`` and ``camera`` paint them.

    python -m pipeline.ham10000 synthesize --out data/demo --images 600 --seed 0

The same seed gives the same bytes. It says nothing about skin: train on it to see things work.
"""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.random import Generator
from tqdm import tqdm

from pipeline.errors import DataError
from pipeline.ham10000.camera import photograph
from pipeline.ham10000.drawing import paint_lesion
from pipeline.ham10000.flags import SynthesizeFlags
from pipeline.ham10000.taxonomy import DX

COUNTS: dict[str, int] = {
    "akiec": 327, "bcc": 514, "bkl": 1099, "df": 115, "mel": 1113, "nv": 6705, "vasc": 142,
}  # fmt: skip
"""Images per class in HAM10000."""

AGES: dict[str, tuple[float, float]] = {
    "akiec": (67, 11), "bcc": (67, 14), "bkl": (64, 14), "df": (53, 14), "mel": (61, 15),
    "nv": (46, 15), "vasc": (51, 22),
}  # fmt: skip
"""Mean and standard deviation of the age in years, per class."""

DX_TYPES: dict[str, dict[str, float]] = {
    "akiec": {"histo": 1.0},
    "bcc": {"histo": 1.0},
    "bkl": {"histo": 0.7, "consensus": 0.24, "confocal": 0.06},
    "df": {"histo": 0.48, "consensus": 0.52},
    "mel": {"histo": 1.0},
    "nv": {"histo": 0.37, "follow_up": 0.55, "consensus": 0.08},
    "vasc": {"histo": 0.47, "consensus": 0.53},
}
"""How the diagnosis was made, per class."""

SITES: dict[str, float] = {
    "back": 0.224, "lower extremity": 0.212, "trunk": 0.144, "upper extremity": 0.114,
    "abdomen": 0.104, "face": 0.076, "chest": 0.042, "foot": 0.033, "neck": 0.017,
    "scalp": 0.013, "hand": 0.009, "ear": 0.006, "genital": 0.005, "acral": 0.001,
}  # fmt: skip
"""Body sites and how often they occur."""

VIEWS = (0.74, 0.19, 0.06, 0.01)
"""Share of lesions with one, two, three and four photographs."""

MISSING = 0.02
"""Share of lesions without an age, of unknown sex, and of unknown site (each)."""

FIRST_IMAGE = 24306
"""Number of the first image id, as in HAM10000."""


def run(flags: SynthesizeFlags) -> None:
    """Run the command."""
    size = (flags.width, flags.height)
    synthesize(flags.out, images=flags.images, seed=flags.seed, size=size, progress=True)
    print(f"{flags.images} synthetic images in {flags.out}")


def synthesize(
    out: Path, *, images: int, seed: int, size: tuple[int, int] = (300, 225), progress: bool = False
) -> None:
    """Write a made-up dataset to ``out``, which appears only when it is complete.

    Args:
        out: folder to make; it may exist when empty.
        images: number of images, 7 or more (one per class).
        seed: what everything is drawn from.
        size: width and height of the images, pixels.
        progress: whether to show a bar on standard error.
    """
    out = Path(out)
    if images < len(DX):
        raise DataError(f"{images} images: at least {len(DX)} are needed, one of each class")
    if min(size) < 32:
        raise DataError(f"image size {size[0]}x{size[1]}: both sides must be 32 pixels or more")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists and is not empty: delete it or choose another --out")
    table = plan(images, seed)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for part in sorted(set(table["part"])):
        (partial / part).mkdir(parents=True)
    _draw(table, partial, seed=seed, size=size, progress=progress)
    columns = ["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"]
    table[columns].to_csv(partial / "HAM10000_metadata.csv", index=False, lineterminator="\n")
    partial.replace(out)


def plan(images: int, seed: int) -> pd.DataFrame:
    """Return one row per image: the metadata columns, ``part`` (its folder) and ``lesion``.

    Rows of one lesion stand together and share everything but ``image_id``; ``lesion`` counts the
    lesions from 0.
    """
    rng = np.random.default_rng([seed, 0])
    sizes = [
        (dx, views) for dx, count in class_counts(images).items() for views in _views(rng, count)
    ]
    ids = rng.choice(7_999_999, len(sizes), replace=False)
    missing = {
        column: set(rng.permutation(len(sizes))[: max(1, round(MISSING * len(sizes)))].tolist())
        for column in ("age", "sex", "localization")
    }
    rows = []
    for lesion, (dx, views) in enumerate(sizes):
        row = {
            "lesion": lesion,
            "lesion_id": f"HAM_{ids[lesion]:07d}",
            "dx": dx,
            **_patient(rng, dx),
        }
        row |= {
            column: np.nan if column == "age" else "unknown"
            for column, lesions in missing.items()
            if lesion in lesions
        }
        rows += [row] * views
    table = pd.DataFrame(rows)
    numbers = rng.permutation(images)
    table["image_id"] = [f"ISIC_{FIRST_IMAGE + number:07d}" for number in numbers]
    table["part"] = [f"HAM10000_images_part_{1 + int(2 * n >= images)}" for n in numbers]
    return table


def class_counts(images: int) -> dict[str, int]:
    """Share ``images`` out in HAM10000's proportions, with a handful of the rarest where it can.

    A class has at least six images where there are 140 or more in all (fewer: one in 24, at least
    one); the majority class gives what the others take and what rounding leaves.
    """
    least = max(1, min(6, images // 24))
    total = sum(COUNTS.values())
    counts = {dx: max(least, round(images * COUNTS[dx] / total)) for dx in DX}
    counts["nv"] += images - sum(counts.values())
    return counts


def _views(rng: Generator, count: int) -> list[int]:
    """Share ``count`` images out over lesions; a class of few images gets mostly single ones."""
    most = 2 if count < 12 else len(VIEWS)
    sizes: list[int] = []
    while (left := count - sum(sizes)) > 0:
        sizes.append(min(left, most, int(rng.choice(len(VIEWS), p=VIEWS)) + 1))
    return sizes


def _patient(rng: Generator, dx: str) -> dict[str, object]:
    """Draw dx_type, age, sex and localization for a lesion of class ``dx``."""
    age = float(np.clip(5 * np.round(rng.normal(*AGES[dx]) / 5), 0, 85))
    types, sites = DX_TYPES[dx], np.array(list(SITES.values()))
    return {
        "dx_type": str(rng.choice(list(types), p=list(types.values()))),
        "age": age,
        "sex": str(rng.choice(["male", "female"], p=[0.54, 0.46])),
        "localization": str(rng.choice(list(SITES), p=sites / sites.sum())),
    }


def _draw(
    table: pd.DataFrame, folder: Path, *, seed: int, size: tuple[int, int], progress: bool
) -> None:
    """Paint every lesion and write its photographs; threads, as OpenCV lets go of the lock."""

    def lesion(rows: pd.DataFrame) -> int:
        number, dx = int(rows["lesion"].iloc[0]), str(rows["dx"].iloc[0])
        canvas = paint_lesion(np.random.default_rng([seed, 1, number]), dx, size)
        for view, (part, image_id) in enumerate(zip(rows["part"], rows["image_id"], strict=True)):
            photo = photograph(np.random.default_rng([seed, 2, number, view]), canvas, size)
            done, jpeg = cv2.imencode(
                ".jpg", cv2.cvtColor(photo, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90]
            )
            assert done
            (folder / part / f"{image_id}.jpg").write_bytes(jpeg.tobytes())
        return len(rows)

    lesions = [rows for _, rows in table.groupby("lesion")]
    bar = tqdm(total=len(table), desc="painting", unit="img", disable=not progress)
    with bar, ThreadPoolExecutor() as pool:
        for count in pool.map(lesion, lesions):
            bar.update(count)
