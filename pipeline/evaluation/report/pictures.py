"""The images behind the predictions: their bytes in the shards, how sharp and bright, thumbnails.

    quality = image_quality(reader, range(len(samples)), workers=2)
    picture = square(reader(0), 160)

A reader maps the place of a sample in the split's table to its JPEG bytes.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

Reader = Callable[[int], bytes]

MEASURED_SIDE = 112
"""Pixels of the shorter side that sharpness is measured at, so that it does not depend on how
large the shards' images are."""


def measure(jpeg: bytes) -> tuple[float, float]:
    """Sharpness (variance of the Laplacian at a fixed size) and brightness (mean grey, 0-255)."""
    data = np.frombuffer(jpeg, np.uint8)
    grey = cv2.imdecode(data, cv2.IMREAD_REDUCED_GRAYSCALE_2)  # half size: a quarter of the cost
    if grey is None:
        return float("nan"), float("nan")
    scale = MEASURED_SIDE / min(grey.shape)
    if scale != 1:
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=how)
    return float(cv2.Laplacian(grey, cv2.CV_32F).var()), float(grey.mean())


def image_quality(read: Reader, indices: Sequence[int], *, workers: int) -> np.ndarray:
    """[N, 2] float64 sharpness and brightness of each image."""
    with ThreadPoolExecutor(workers) as pool:
        values = list(pool.map(lambda i: measure(read(i)), indices, chunksize=64))
    return np.array(values, dtype=np.float64).reshape(-1, 2)


def square(jpeg: bytes, side: int) -> np.ndarray:
    """[side, side, 3] uint8 RGB: the centre square, which is what the model sees."""
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None, "shards hold only images that decode"
    height, width = image.shape[:2]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    crop = image[top : top + edge, left : left + edge]
    crop = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(crop, cv2.COLOR_BGR2RGB)


def as_webp(picture: np.ndarray, quality: int = 68) -> bytes:
    """The picture [H, W, 3] uint8 as WebP: small enough for a hundred of them in a report."""
    ok, data = cv2.imencode(
        ".webp", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_WEBP_QUALITY, quality]
    )
    assert ok
    return data.tobytes()
