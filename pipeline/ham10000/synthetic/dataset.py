"""A synthetic dataset in HAM10000's layout, learnable, for demonstrations and tests.

``synthesize`` writes ``HAM10000_images_part_1/``, ``HAM10000_images_part_2/`` and
``HAM10000_metadata.csv``: the classes of a taxonomy, HAM10000's in its proportions, several
photographs of some lesions, missing ages, unknown sexes and sites. ``plan`` draws the rows of the
table, ``drawing`` paints a lesion, ``camera`` photographs it.

    python -m pipeline.ham10000 synthesize --out data/demo --images 600 --seed 0

Equal seeds give equal bytes. Results on these images say nothing about real skin lesions.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.random import Generator
from tqdm import tqdm

from pipeline.errors import DataError
from pipeline.files import staged_folder, writing
from pipeline.ham10000.flags import SynthesizeFlags
from pipeline.ham10000.metadata import UNKNOWN
from pipeline.ham10000.synthetic.camera import photograph
from pipeline.ham10000.synthetic.drawing import paint_lesion
from pipeline.ham10000.taxonomy import HAM10000, Taxonomy, load

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
"""How the diagnosis was made, with shares, per class."""

SITES: dict[str, float] = {
    "back": 0.224, "lower extremity": 0.212, "trunk": 0.144, "upper extremity": 0.114,
    "abdomen": 0.104, "face": 0.076, "chest": 0.042, "foot": 0.033, "neck": 0.017,
    "scalp": 0.013, "hand": 0.009, "ear": 0.006, "genital": 0.005, "acral": 0.001,
}  # fmt: skip
"""Body sites and their shares."""

VIEWS = (0.74, 0.19, 0.06, 0.01)
"""Share of lesions with one, two, three and four photographs."""

MISSING = 0.02
"""Share of lesions of unknown age; as many each of unknown sex and site."""

FIRST_IMAGE = 24306
"""Number of the first image id, as in HAM10000."""


def run(flags: SynthesizeFlags) -> None:
    """Run the command."""
    size = (flags.width, flags.height)
    how = {"images": flags.images, "seed": flags.seed, "size": size}
    synthesize(flags.out, load(flags.taxonomy), **how, progress=True)
    print(f"{flags.images} synthetic images in {flags.out}")


def synthesize(
    out: Path,
    taxonomy: Taxonomy = HAM10000,
    *,
    images: int,
    seed: int,
    size: tuple[int, int] = (300, 225),
    progress: bool = False,
) -> None:
    """Write a synthetic dataset to the folder ``out``, which appears when it is complete.

    ``size`` is width and height of the images, pixels. Too few or too small ones, and an ``out``
    that is not empty, are a DataError.
    """
    classes = len(taxonomy.classes)
    if images < classes:
        raise DataError(f"{images} images: at least {classes} are needed, one of each class")
    if min(size) < 32:
        raise DataError(f"image size {size[0]}x{size[1]}: both sides must be 32 pixels or more")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists and is not empty: delete it or choose another --out")
    table = plan(images, seed, taxonomy)
    with writing(out), staged_folder(out) as folder:
        for part in set(table["part"]):
            (folder / part).mkdir()
        _draw(table, folder, seed=seed, size=size, progress=progress)
        columns = ["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"]
        table[columns].to_csv(folder / "HAM10000_metadata.csv", index=False, lineterminator="\n")


def plan(images: int, seed: int, taxonomy: Taxonomy = HAM10000) -> pd.DataFrame:
    """Return one row per image: the metadata columns, ``look``, ``part`` (its folder), ``lesion``.

    Rows of one lesion are adjacent and differ in ``image_id`` and ``part`` only; ``lesion`` numbers
    the lesions from 0, and ``look`` is the class of HAM10000 that it is painted as.
    """
    rng = np.random.default_rng([seed, 0])
    looks = looks_of(taxonomy)
    counts = class_counts(images, looks)
    sizes = [(dx, views) for dx in looks for views in _views(rng, counts[dx])]
    ids = rng.choice(7_999_999, len(sizes), replace=False)
    few = max(1, round(MISSING * len(sizes)))
    columns = {"age": np.nan, "sex": UNKNOWN, "localization": UNKNOWN}
    missing = {column: rng.permutation(len(sizes))[:few] for column in columns}
    lesions = pd.DataFrame(
        [
            {
                **{"lesion": lesion, "lesion_id": f"HAM_{ids[lesion]:07d}", "dx": dx},
                **{"look": looks[dx], **_patient(rng, looks[dx])},
            }
            for lesion, (dx, _) in enumerate(sizes)
        ]
    )
    for column, rows in missing.items():
        lesions.loc[rows, column] = columns[column]
    table = lesions.loc[lesions.index.repeat([views for _, views in sizes])].reset_index(drop=True)
    numbers = rng.permutation(images)
    table["image_id"] = [f"ISIC_{FIRST_IMAGE + number:07d}" for number in numbers]
    table["part"] = [f"HAM10000_images_part_{1 if 2 * n < images else 2}" for n in numbers]
    return table


def looks_of(taxonomy: Taxonomy) -> dict[str, str]:
    """Return the class of HAM10000 that each class is painted as: its own, or one of its label."""
    shared, looks = taxonomy.shared(HAM10000), {}
    for number, dx in enumerate(taxonomy.classes):
        alike = [d for d in COUNTS if (d in HAM10000.malignant) == (dx in taxonomy.malignant)]
        looks[dx] = shared.get(dx, alike[number % len(alike)])
    return looks


def class_counts(images: int, looks: Mapping[str, str]) -> dict[str, int]:
    """Return the number of images per class, in the proportions of their looks in HAM10000.

    Every class has at least six images from 144 in all upwards, one in 24 below that (at least
    one); the largest class absorbs the difference.
    """
    least, total = max(1, min(6, images // 24)), sum(COUNTS[look] for look in looks.values())
    counts = {dx: max(least, round(images * COUNTS[look] / total)) for dx, look in looks.items()}
    counts[max(counts, key=counts.__getitem__)] += images - sum(counts.values())
    return counts


def _views(rng: Generator, count: int) -> list[int]:
    """Draw how many of ``count`` images each lesion has; at most two in a class of few images."""
    most = 2 if count < 12 else len(VIEWS)
    sizes: list[int] = []
    while (left := count - sum(sizes)) > 0:
        sizes.append(min(left, most, int(rng.choice(len(VIEWS), p=VIEWS)) + 1))
    return sizes


def _patient(rng: Generator, dx: str) -> dict[str, object]:
    """Draw dx_type, age, sex and localization for a lesion of class ``dx``."""
    types, sites = DX_TYPES[dx], np.array(list(SITES.values()))
    return {
        "age": float(np.clip(5 * np.round(rng.normal(*AGES[dx]) / 5), 0, 85)),
        "dx_type": str(rng.choice(list(types), p=list(types.values()))),
        "sex": str(rng.choice(["male", "female"], p=[0.54, 0.46])),
        "localization": str(rng.choice(list(SITES), p=sites / sites.sum())),
    }


def _draw(
    table: pd.DataFrame, folder: Path, *, seed: int, size: tuple[int, int], progress: bool
) -> None:
    """Paint every lesion and write its photographs, in threads: OpenCV releases the GIL."""

    def draw(rows: pd.DataFrame) -> None:
        lesion, look = int(rows["lesion"].iloc[0]), str(rows["look"].iloc[0])
        canvas = paint_lesion(np.random.default_rng([seed, 1, lesion]), look, size)
        for view, (part, image_id) in enumerate(zip(rows["part"], rows["image_id"], strict=True)):
            photo = photograph(np.random.default_rng([seed, 2, lesion, view]), canvas, size)
            _, jpeg = cv2.imencode(".jpg", photo[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
            (folder / part / f"{image_id}.jpg").write_bytes(jpeg.tobytes())

    lesions = [rows for _, rows in table.groupby("lesion")]
    with ThreadPoolExecutor() as pool:
        drawn = pool.map(draw, lesions)
        list(tqdm(drawn, "painting", len(lesions), unit="lesion", disable=not progress))
