"""Images given as files: found, read, and their predictions written.

python eval.py predict --checkpoint runs/r34/best --out OUT IMAGE_OR_FOLDER...
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import simplejpeg
from PIL import Image, ImageOps

from pipeline.errors import DataError
from pipeline.evaluation.predictions import as_csv, require_probabilities
from pipeline.evaluation.report.page import write_files
from pipeline.figures import Tile, contact_sheet, png
from pipeline.ham10000.taxonomy import LABELS

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

ORIENTATION = 0x0112
"""The EXIF tag of how a camera was held; 1 is upright."""


def find_images(places: Sequence[Path]) -> list[Path]:
    """Return every image among ``places`` and below the folders among them, each once, in order."""
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
    """Return [H, W, 3] uint8 RGB 0-255; a JPEG is decoded as those of the shards are."""
    data = path.read_bytes()
    try:
        image = Image.open(io.BytesIO(data))
        upright = image.getexif().get(ORIENTATION, 1) == 1
        if image.format == "JPEG" and image.mode == "RGB" and upright:
            return simplejpeg.decode_jpeg(data, colorspace="RGB")
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be read as an image ({error}); leave it out") from error


def write_predictions(
    out: Path,
    paths: Sequence[Path],
    scores: pd.DataFrame,
    pictures: Sequence[np.ndarray],
    *,
    threshold: float,
    most: int,
) -> None:
    """Write predictions.csv and a sheet of at most ``most`` images, highest probability first.

    A row of ``scores`` (from ``predictions.scored``) and a picture, [H, W, 3] uint8 RGB, for each
    path.

    Raises:
        DataError: a probability is NaN, or ``out`` cannot be written.
    """
    prob, predicted = scores["prob_malignant"].to_numpy(), scores["predicted"].to_numpy()
    frame = pd.concat([pd.DataFrame({"image": map(str, paths)}), scores], axis=1)
    require_probabilities(frame, "prob_malignant", frame["image"], "the predictions")
    tiles = []
    for row in np.argsort(-prob, kind="stable")[:most]:
        name = paths[row].name
        short = name if len(name) <= 24 else name[:11] + "…" + name[-12:]
        lines = (f"p = {prob[row]:.3f}: {LABELS[predicted[row]]}", short)
        tiles.append(Tile((pictures[row],), lines))
    title = (
        f"{len(tiles)} of {len(frame)} images, highest probability first; threshold {threshold:.3f}"
    )
    sheet = png(contact_sheet(tiles, title))
    write_files(out, {"predictions.png": sheet, "predictions.csv": as_csv(frame)})
