"""From an image file's bytes to the JPEG that is packed; every image is decoded once, strictly.

    jpeg, note = encode(path.read_bytes(), EncodeSettings(image_size=256))

A JPEG that every decoder reads alike (8 bits, three components, upright, sRGB) keeps its bytes
unless ``image_size`` shrinks it. Anything else is converted to such a JPEG, and the note says from
what. A damaged file raises ``BadImageError``; see ``pipeline.ham10000.decoding.pixels``.

A JPEG whose bytes stay is decoded at 1/8 scale: the entropy decoding, where damage shows, is the
same, at two thirds of the cost. To shrink one, libjpeg scales by the smallest n/8 that is not below
the target, and Pillow does the rest in fixed-point arithmetic, so that pixels do not depend on the
processor.
"""

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from pipeline.ham10000.decoding.pixels import decode, examine
from pipeline.shards.packing.shard_plan import SUBSAMPLING, EncodeSettings


def encode(data: bytes, settings: EncodeSettings) -> tuple[bytes, str | None]:
    """Return the JPEG to pack, and what was converted or None; BadImageError: see ``examine``."""
    found = examine(data)
    target = _target(found.width, found.height, settings.image_size)
    if found.pixels is not None:
        return _write(found.pixels, settings, target), found.note
    if target is None:
        decode(found.jpeg, "GRAY", min_height=1, min_width=1, min_factor=8)
        return found.jpeg, found.note
    pixels = decode(found.jpeg, "RGB", min_height=target[1], min_width=target[0])
    return _write(pixels, settings, target), found.note


def _target(width: int, height: int, image_size: int | None) -> tuple[int, int] | None:
    """Return width and height to shrink to, None where the image stays as it is."""
    shorter = min(width, height)
    if image_size is None or shorter <= image_size:
        return None
    return (
        max(image_size, (2 * width * image_size + shorter) // (2 * shorter)),
        max(image_size, (2 * height * image_size + shorter) // (2 * shorter)),
    )


def _write(
    pixels: NDArray[np.uint8], settings: EncodeSettings, target: tuple[int, int] | None
) -> bytes:
    """Return ``pixels`` [H, W, 3] as a JPEG, shrunk to ``target`` (width, height)."""
    if target is not None and target != pixels.shape[1::-1]:
        image = Image.fromarray(pixels)
        pixels = np.asarray(image.resize(target, Image.Resampling.BILINEAR))
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(pixels),
        quality=settings.jpeg_quality,
        colorspace="RGB",
        colorsubsampling=SUBSAMPLING,
    )
