"""Images that lie about as files: found, read, and their predictions written.

paths = find_images([Path("photos"), Path("one.jpg")])
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import simplejpeg
from PIL import Image, ImageOps

from pipeline.errors import DataError
from pipeline.evaluation.metrics.summary import CLASSES
from pipeline.evaluation.predictions import DX_PROBABILITIES
from pipeline.evaluation.report.judgement import staged
from pipeline.evaluation.report.sheets import TILE, Tile, sheet
from pipeline.ham10000.taxonomy import DX

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
ORIENTATION = 0x0112
"""The EXIF tag that says how a camera was held; 1 is upright."""


def find_images(places: Sequence[Path]) -> list[Path]:
    """Every image among ``places`` and below the folders among them, each once, in order."""
    found: dict[Path, None] = {}
    for place in places:
        if place.is_dir():
            inside = sorted(p for p in place.rglob("*") if p.suffix.lower() in SUFFIXES)
            if not inside:
                raise DataError(f"{place}: no images in this folder ({', '.join(SUFFIXES)})")
            found |= dict.fromkeys(inside)
        elif place.is_file():
            found[place] = None
        else:
            raise DataError(f"{place}: no such image or folder")
    return list(found)


def read_image(path: Path) -> np.ndarray:
    """[H, W, 3] uint8 RGB 0-255; a JPEG by the decoder that the shards are read with."""
    data = path.read_bytes()
    try:
        image = Image.open(io.BytesIO(data))
        upright = image.getexif().get(ORIENTATION, 1) == 1
        if image.format == "JPEG" and image.mode == "RGB" and upright:
            return simplejpeg.decode_jpeg(data, colorspace="RGB")
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be read as an image ({error}); leave it out") from error


def table(
    paths: Sequence[Path],
    threshold: float,
    prob_malignant: np.ndarray,
    prob_uncalibrated: np.ndarray,
    dx_probabilities: np.ndarray | None = None,
) -> pd.DataFrame:
    """One row per image: its path, probability of malignant, decision, and what else is known."""
    bad = np.flatnonzero(~np.isfinite(prob_malignant))
    if len(bad):
        raise DataError(f"{paths[bad[0]]}: the model gives no finite probability; it has diverged")
    frame = pd.DataFrame({
        "image": [str(p) for p in paths],
        "prob_malignant": prob_malignant,
        "predicted": (prob_malignant >= threshold).astype(int),
        "prob_uncalibrated": prob_uncalibrated,
    })  # fmt: skip
    if dx_probabilities is not None:
        frame[list(DX_PROBABILITIES)] = dx_probabilities
        frame["predicted_dx"] = [DX[k] for k in dx_probabilities.argmax(axis=1)]
    return frame


def write_loose(
    out: Path, frame: pd.DataFrame, pictures: Sequence[np.ndarray], threshold: float, *, most: int
) -> None:
    """Write predictions.csv and a sheet of the pictures, the highest probability first.

    Args:
        out: the folder.
        frame: from ``table``.
        pictures: [S, S, 3] uint8 RGB, one per row.
        threshold: in use.
        most: pictures on the sheet at most.
    """
    prob, called = frame["prob_malignant"].to_numpy(), frame["predicted"].to_numpy()
    tiles = []
    for k in np.argsort(-prob, kind="stable")[:most]:
        name = Path(str(frame["image"].iloc[k])).name
        shown = name if len(name) <= 24 else name[:11] + "…" + name[-12:]
        tiles.append(Tile(pictures[k], (f"p = {prob[k]:.3f}: {CLASSES[called[k]]}", shown)))
    title = f"{len(tiles)} of {len(frame)} images, most suspicious first; threshold {threshold:.3f}"
    with staged(out) as folder:
        sheet(tiles, title).save(folder / "predictions.png")
        frame.to_csv(folder / "predictions.csv", index=False, lineterminator="\n")


def thumbnail(image: np.ndarray) -> np.ndarray:
    """[TILE, TILE, 3] uint8: the centre square of an image [H, W, 3] uint8."""
    return np.asarray(ImageOps.fit(Image.fromarray(image), (TILE, TILE), Image.Resampling.BOX))
