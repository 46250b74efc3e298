"""The operators of TrivialAugment that are neither a matrix on positions nor one on colours.

Each takes and returns ``[H, W, 3] uint8 0-255``. DALI's pipeline applies the same ones.
"""

import cv2
import numpy as np

BLUR = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], dtype=np.float32) / 13
"""What sharpness moves away from, or towards."""

_LEVELS = np.arange(256)


def sharpness_kernel(factor: float) -> np.ndarray:
    """Return ``[3, 3] float32``: the image at factor 1, its blur at 0, beyond it at 2."""
    kernel = BLUR * np.float32(1 - factor)
    kernel[1, 1] += np.float32(factor)
    return kernel


def apply_pixel_operator(image: np.ndarray, name: str, strength: float) -> np.ndarray:
    """Return ``image`` after the operator ``name``, one of ``augment.PIXEL_OPERATORS``."""
    match name:
        case "sharpness":
            return cv2.filter2D(image, -1, sharpness_kernel(strength))
        case "posterize":
            return image & np.uint8(strength)
        case "solarize":
            return cv2.LUT(image, np.where(strength > _LEVELS, _LEVELS, 255 - _LEVELS).astype("u1"))
        case "autocontrast":
            return _autocontrast(image)
        case "equalize":
            return cv2.merge([cv2.equalizeHist(channel) for channel in cv2.split(image)])
        case _:
            return image


def _autocontrast(image: np.ndarray) -> np.ndarray:
    """Stretch each channel to 0 to 255; one with a single value stays as it is."""
    low = image.min(axis=(0, 1)).astype(int)
    spread = image.max(axis=(0, 1)).astype(int) - low
    stretched = (_LEVELS[:, None] - low) * 255 / np.maximum(spread, 1)
    table = np.where(spread > 0, np.clip(np.rint(stretched), 0, 255), _LEVELS[:, None])
    return cv2.LUT(image, table.astype(np.uint8)[:, None, :])
