"""Draw the parameters of a training augmentation, vectorised, for a run of positions.

    Augmentation = draw(preset, sizes [n, 2], image_size, seed, epoch, first position)

Random numbers come from Philox, a counter-based generator (Salmon et al., SC 2011): those of
position ``p`` are the same for any batch, rank, thread or backend. Each geometric step is folded
into one matrix from output pixels to source pixels, each step on colours into one affine map from
RGB values of 0 to 255 to normalised ones; values are not clamped in between, so that highlights
stay distinct. ``apply_pixel_operator`` is for the operators of TrivialAugment that are neither.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from pipeline.loading.presets import MEAN, STD, TrainPreset

NUMBERS = 20
"""Random numbers of each sample; a multiple of Philox's four a step."""

AUGMENT_STREAM, MIX_STREAM = 3, 4
"""Streams of random numbers: equal seeds do not collide between them."""

TRIVIAL = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate"),
    *("brightness", "contrast", "color"),
    *("sharpness", "posterize", "solarize", "autocontrast", "equalize"),
)
"""The operators of TrivialAugment (wide)."""

PIXEL_OPERATORS = ("none", "sharpness", "posterize", "solarize", "autocontrast", "equalize")
"""Those that are neither a matrix on positions nor one on colours, by ``Augmentation.operator``."""

_STRENGTHS = 31  # of an operator of TrivialAugment
_LUMA = np.array([0.299, 0.587, 0.114])
_TO_YIQ = np.array([_LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)
_BLUR = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], dtype=np.float32) / 13
_CENTRE = np.pad(np.ones((1, 1), dtype=np.float32), 1)
_LEVELS = np.arange(256)


@dataclass(frozen=True)
class Augmentation:
    """Parameters of ``n`` samples, for a backend to apply."""

    shrink: np.ndarray
    """``[n] int32``: 1, 2, 4 or 8, by which a source is reduced first, smoothly, sides rounded up;
    bilinear sampling alone skips pixels where it takes a source two or more times down."""

    matrix: np.ndarray
    """``[n, 2, 3] float32``: output pixel (x, y, 1) to pixel of the (shrunk) source; a pixel's
    centre is at .5."""

    colour: np.ndarray
    """``[n, 3, 4] float32``: RGB 0 to 255 and a 1, as a column, to normalised RGB."""

    erase: np.ndarray
    """``[n, 4] int32``: left, top, right, bottom of the rectangle to erase; all 0 for none."""

    operator: np.ndarray
    """``[n] int32``, an index into ``PIXEL_OPERATORS``; applied between geometry and colour."""

    strength: np.ndarray
    """``[n] float32``, of that operator: sharpness factor, mask of the bits that posterize keeps,
    threshold of solarize."""


def draw(
    preset: TrainPreset, sizes: np.ndarray, *, image_size: int, seed: int, epoch: int, start: int
) -> Augmentation:
    """Return the parameters of the samples at positions ``start`` and on of an epoch.

    Args:
        preset: the ranges.
        sizes: ``[n, 2]``, width and height of each source image, pixels.
        image_size: side of the output, pixels.
        seed: seed of the run.
        epoch: from 0.
        start: position of the first sample in the epoch's order, over all ranks.
    """
    random = _uniforms(seed, epoch, AUGMENT_STREAM, start, len(sizes))
    matrix = _geometry(preset, random[:, 0:7], np.asarray(sizes, dtype=np.float64), image_size)
    factors = _colour_factors(preset, random[:, 7:11])
    operator = np.zeros(len(sizes), dtype=np.int32)
    strength = np.zeros(len(sizes), dtype=np.float32)
    if preset.trivial:
        within, gains, operator, strength = _draw_trivial(random[:, 16:19], image_size)
        matrix = _compose(matrix, within)
        factors[:, :3] *= gains
    matrix, shrink = _shrink(matrix)
    return Augmentation(
        shrink=shrink,
        matrix=matrix.astype(np.float32),
        colour=_colour(factors).astype(np.float32),
        erase=_erase(preset, random[:, 11:16], image_size),
        operator=operator,
        strength=strength,
    )


def _uniforms(seed: int, epoch: int, stream: int, start: int, count: int) -> np.ndarray:
    """Return ``[count, NUMBERS] float64`` in [0, 1), those of positions ``start`` and on."""
    philox = np.random.Philox(key=_key(seed, epoch, stream))
    philox.advance(start * NUMBERS // 4)
    return np.random.Generator(philox).random((count, NUMBERS))


@lru_cache(8)
def _key(seed: int, epoch: int, stream: int) -> np.ndarray:
    return np.random.SeedSequence([seed, epoch, stream]).generate_state(2, np.uint64)


def _between(low: float, high: float, random: np.ndarray) -> np.ndarray:
    return low + (high - low) * random


# -- geometry


def _geometry(
    preset: TrainPreset, random: np.ndarray, sizes: np.ndarray, image_size: int
) -> np.ndarray:
    """Return ``[n, 2, 3]``: a crop of the source, turned about its own centre, flipped."""
    width, height = sizes[:, 0], sizes[:, 1]
    crop_width = crop_height = np.minimum(width, height)
    if preset.area is not None:
        area = _between(*preset.area, random[:, 0]) * width * height
        low, high = np.log(preset.aspect)
        aspect = np.exp(_between(low, high, random[:, 1]))
        crop_width = np.minimum(np.sqrt(area * aspect), width)
        crop_height = np.minimum(np.sqrt(area / aspect), height)
    free = random[:, 2:4] if preset.area is not None else 0.5
    size = np.stack([crop_width, crop_height], axis=1)
    centre = size / 2 + free * (sizes - size)
    flips = random[:, 5:7] < (preset.horizontal_flip, preset.vertical_flip)
    scale = np.where(flips, -1.0, 1.0) * size / image_size
    angle = np.deg2rad(_between(-preset.rotation, preset.rotation, random[:, 4]))
    linear = _rotations(angle) * scale[:, None, :]
    return _about_centre(linear, centre, image_size)


def _rotations(angle: np.ndarray) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)


def _about_centre(linear: np.ndarray, centre: np.ndarray, image_size: int) -> np.ndarray:
    """Return matrices that take the output's centre to ``centre`` [n, 2]."""
    half = np.full((2,), image_size / 2)
    return np.concatenate([linear, (centre - linear @ half)[:, :, None]], axis=2)


def _compose(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Return ``outer`` after ``inner``, both [n, 2, 3]."""
    linear = outer[:, :, :2] @ inner[:, :, :2]
    shift = outer[:, :, :2] @ inner[:, :, 2:] + outer[:, :, 2:]
    return np.concatenate([linear, shift], axis=2)


def _shrink(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ``matrix`` for sources reduced by the second result, ``[n]``: 1, 2, 4 or 8."""
    step = np.linalg.norm(matrix[:, :, :2], axis=1).min(axis=1)  # source pixels an output pixel
    shrink = 2 ** np.clip(np.floor(np.log2(step)), 0, 3).astype(np.int32)
    return matrix / shrink[:, None, None], shrink


# -- colours and erasing


def _colour_factors(preset: TrainPreset, random: np.ndarray) -> np.ndarray:
    """Return ``[n, 4]``: factors of brightness, contrast, saturation; radians of hue."""
    spread = [preset.brightness, preset.contrast, preset.saturation, np.deg2rad(preset.hue)]
    return (2 * random - 1) * spread + [1, 1, 1, 0]


def _colour(factors: np.ndarray) -> np.ndarray:
    """Return ``[n, 3, 4]``: saturation and hue, contrast, brightness, normalisation."""
    brightness, contrast, saturation, hue = factors.T
    chroma = np.zeros((len(factors), 3, 3))
    chroma[:, 0, 0] = 1
    chroma[:, 1:, 1:] = _rotations(hue) * saturation[:, None, None]
    gain = (brightness * contrast)[:, None, None]
    colour = gain * (_FROM_YIQ @ chroma @ _TO_YIQ) / 255
    offset = (brightness * (1 - contrast) / 2)[:, None] - np.array(MEAN)
    return np.concatenate([colour, offset[:, :, None]], axis=2) / np.array(STD)[:, None]


def _erase(preset: TrainPreset, random: np.ndarray, image_size: int) -> np.ndarray:
    """Return ``[n, 4] int32``, a rectangle of 2 to 20 % of the image, or zeros."""
    if preset.erase == 0:
        return np.zeros((len(random), 4), dtype=np.int32)
    area = _between(0.02, 0.2, random[:, 1]) * image_size**2
    aspect = np.exp(_between(np.log(0.3), np.log(3.3), random[:, 2]))
    size = np.stack([np.sqrt(area * aspect), np.sqrt(area / aspect)], axis=1)
    size = np.clip(np.rint(size), 1, image_size)
    corner = np.floor(random[:, 3:5] * (image_size - size + 1))
    box = np.concatenate([corner, corner + size], axis=1)
    return np.where(random[:, :1] < preset.erase, box, 0).astype(np.int32)


# -- TrivialAugment


def _draw_trivial(
    random: np.ndarray, image_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Choose an operator, one of 31 strengths and a direction, with TrivialAugment's ranges.

    Returns:
        ``[n, 2, 3]``, a matrix within the output; ``[n, 3]``, factors of brightness, contrast and
        saturation; ``[n] int32`` and ``[n] float32``, pixel operator and its strength.
    """
    chosen = (random[:, 0] * len(TRIVIAL)).astype(int)
    level = np.floor(random[:, 1] * _STRENGTHS) / (_STRENGTHS - 1)
    signed = np.where(random[:, 2] < 0.5, -level, level)

    def of(name: str, value: np.ndarray, otherwise: float = 0.0) -> np.ndarray:
        return np.where(chosen == TRIVIAL.index(name), value, otherwise)

    linear = _rotations(np.deg2rad(of("rotate", 135 * signed)))
    linear[:, 0, 1] += of("shear_x", 0.99 * signed)
    linear[:, 1, 0] += of("shear_y", 0.99 * signed)
    reach = 32 / 224 * image_size * signed
    shift = np.stack([of("translate_x", reach), of("translate_y", reach)], axis=1)
    factor = 1 + 0.99 * signed
    gains = [of(name, factor, 1.0) for name in ("brightness", "contrast", "color")]
    names = [name if name in PIXEL_OPERATORS else "none" for name in TRIVIAL]
    codes = np.array([PIXEL_OPERATORS.index(name) for name in names], dtype=np.int32)
    strength = of("sharpness", factor) + of("posterize", 256 - 2 ** np.rint(6 * level))
    strength = (strength + of("solarize", 255 * (1 - level))).astype(np.float32)
    matrix = _about_centre(linear, image_size / 2 + shift, image_size)
    return matrix, np.stack(gains, axis=1), codes[chosen], strength


def apply_pixel_operator(image: np.ndarray, name: str, strength: float) -> np.ndarray:
    """Return ``image`` after the operator ``name``, both ``[H, W, 3] uint8 0-255``.

    This is for the CPU; DALI's pipeline has the same operators.
    """
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


def sharpness_kernel(factor: float | np.ndarray) -> np.ndarray:
    """Return ``[..., 3, 3] float32``: the image at factor 1, its blur at 0, sharpened at 2."""
    factor = np.asarray(factor, dtype=np.float32)[..., None, None]
    return _BLUR * (1 - factor) + _CENTRE * factor


def _autocontrast(image: np.ndarray) -> np.ndarray:
    """Stretch each channel to 0 to 255; one with a single value stays as it is."""
    low = image.min(axis=(0, 1)).astype(int)
    spread = image.max(axis=(0, 1)).astype(int) - low
    stretched = (_LEVELS[:, None] - low) * 255 / np.maximum(spread, 1)
    table = np.where(spread > 0, np.clip(np.rint(stretched), 0, 255), _LEVELS[:, None])
    return cv2.LUT(image, table.astype(np.uint8)[:, None, :])
