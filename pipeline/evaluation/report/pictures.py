"""The images behind the predictions: sharpness and brightness, thumbnails.

quality = image_quality(samples.read, len(samples), workers=2)
picture = centre_square(image, 160)
"""

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from PIL import Image, ImageOps

MEASURED_SIDE = 112
"""Pixels of the shorter side at which sharpness is measured, whatever the size of the image."""


def measure(jpeg: bytes) -> tuple[float, float]:
    """Return sharpness (variance of the Laplacian) and brightness (mean grey, 0-255)."""
    data = np.frombuffer(jpeg, np.uint8)
    grey = cv2.imdecode(data, cv2.IMREAD_REDUCED_GRAYSCALE_2)  # half size: a quarter of the cost
    if grey is None:
        return float("nan"), float("nan")
    scale = MEASURED_SIDE / min(grey.shape)
    if scale != 1:
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=how)
    return float(cv2.Laplacian(grey, cv2.CV_32F).var()), float(grey.mean())


def image_quality(read: Callable[[int], bytes], count: int, *, workers: int) -> np.ndarray:
    """Return [N, 2] float64, sharpness and brightness of each row; ``read(row)`` is its JPEG."""
    with ThreadPoolExecutor(workers) as pool:
        values = list(pool.map(lambda row: measure(read(row)), range(count), chunksize=64))
    return np.array(values, dtype=np.float64).reshape(-1, 2)


def centre_square(image: np.ndarray, side: int) -> np.ndarray:
    """Return the part [side, side, 3] of an image [H, W, 3] uint8 RGB that the model sees."""
    return np.asarray(ImageOps.fit(Image.fromarray(image), (side, side), Image.Resampling.BOX))


def as_webp(picture: np.ndarray, quality: int) -> bytes:
    """Return a picture [H, W, 3] uint8 RGB as WebP: a page holds a hundred of them."""
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "WEBP", quality=quality)
    return out.getvalue()
