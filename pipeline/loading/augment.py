"""Draw the parameters of a training augmentation, vectorised, for a run of positions.

    Augmentation = draw(preset, sizes [n, 2], image_size, seed, epoch, first position)

Random numbers come from Philox, a counter-based generator: the numbers of position ``p`` are the
same whichever batch, rank or thread asks for them. Every geometric step is folded into one matrix
from output pixels to source pixels, every step on colours into one affine map from RGB values of
0 to 255 to normalised ones; values are not clamped in between, so that highlights stay apart.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.loading.presets import MEAN, STD, TrainPreset

NUMBERS = 20
"""Random numbers that each sample has to itself; a multiple of Philox's four a step."""

AUGMENT_STREAM, MIX_STREAM = 3, 4
"""What a stream of random numbers is for; equal seeds do not collide between streams."""

TRIVIAL = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate"),
    *("brightness", "contrast", "color"),
    *("sharpness", "posterize", "solarize", "autocontrast", "equalize"),
)
"""The operators of TrivialAugment (wide)."""

PIXEL_OPERATORS = ("none", "sharpness", "posterize", "solarize", "autocontrast", "equalize")
"""Those that are neither a matrix on positions nor one on colours, by ``Augmentation.operator``."""

_BINS = 31  # strengths of an operator of TrivialAugment
_LUMA = np.array([0.299, 0.587, 0.114])
_TO_YIQ = np.array([_LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)


@dataclass(frozen=True)
class Augmentation:
    """Parameters of ``n`` samples, which a backend applies as they stand."""

    shrink: np.ndarray
    """``[n] int32``: 1, 2, 4 or 8, by which a source is reduced first, smoothly, sides rounded up;
    bilinear sampling alone skips pixels where it takes a source two or more times down."""

    matrix: np.ndarray
    """``[n, 2, 3] float32``: output pixel (x, y, 1) to pixel of the (shrunk) source; a pixel's
    centre is at .5."""

    colour: np.ndarray
    """``[n, 3, 3] float32``: RGB 0 to 255, as a column, to normalised RGB, before the offset."""

    offset: np.ndarray
    """``[n, 3] float32``, added after ``colour``."""

    erase: np.ndarray
    """``[n, 4] int32``: left, top, right, bottom of the rectangle to erase; all 0 for none."""

    operator: np.ndarray
    """``[n] int32``, an index into ``PIXEL_OPERATORS``; applied between geometry and colour."""

    strength: np.ndarray
    """``[n] float32``, of that operator: sharpness factor, mask of the bits that posterize keeps,
    threshold of solarize."""


def uniforms(seed: int, epoch: int, stream: int, start: int, count: int) -> np.ndarray:
    """Return ``[count, NUMBERS] float64`` in [0, 1), those of positions ``start`` and on."""
    key = np.random.SeedSequence([seed, epoch, stream]).generate_state(2, np.uint64)
    philox = np.random.Philox(key=key)
    philox.advance(start * NUMBERS // 4)
    return np.random.Generator(philox).random((count, NUMBERS))


def draw(
    preset: TrainPreset, sizes: np.ndarray, *, image_size: int, seed: int, epoch: int, start: int
) -> Augmentation:
    """Return the parameters of the samples at positions ``start`` and on of an epoch.

    Args:
        preset: the ranges.
        sizes: ``[n, 2]``, width and height of each source image, pixels.
        image_size: side of the output, pixels.
        seed: of the run.
        epoch: from 0.
        start: position of the first sample in the epoch's order, over all ranks.
    """
    random = uniforms(seed, epoch, AUGMENT_STREAM, start, len(sizes))
    trivial = _draw_trivial(random[:, 16:19], image_size) if preset.trivial else None
    matrix = _geometry(preset, random[:, 0:7], np.asarray(sizes, dtype=np.float64), image_size)
    factors = _colour_factors(preset, random[:, 7:11])
    operator = np.zeros(len(sizes), dtype=np.int32)
    strength = np.zeros(len(sizes), dtype=np.float32)
    if trivial is not None:
        matrix = _compose(matrix, trivial.shift)
        factors[:, :3] *= trivial.factors
        operator, strength = trivial.operator, trivial.strength
    colour, offset = _colour(factors)
    matrix, shrink = _shrink(matrix)
    return Augmentation(
        shrink=shrink,
        matrix=matrix.astype(np.float32),
        colour=colour.astype(np.float32),
        offset=offset.astype(np.float32),
        erase=_erase(preset, random[:, 11:16], image_size),
        operator=operator,
        strength=strength,
    )


def _between(low: float, high: float, random: np.ndarray) -> np.ndarray:
    return low + (high - low) * random


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


def _colour_factors(preset: TrainPreset, random: np.ndarray) -> np.ndarray:
    """Return ``[n, 4]``: factors of brightness, contrast, saturation; radians of hue."""
    spread = [preset.brightness, preset.contrast, preset.saturation, np.deg2rad(preset.hue)]
    return (2 * random - 1) * spread + [1, 1, 1, 0]


def _colour(factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ``[n, 3, 3]`` and ``[n, 3]``: saturation and hue, contrast, brightness, normalised."""
    brightness, contrast, saturation, hue = factors.T
    chroma = np.zeros((len(factors), 3, 3))
    chroma[:, 0, 0] = 1
    chroma[:, 1:, 1:] = _rotations(hue) * saturation[:, None, None]
    gain = (brightness * contrast)[:, None, None]
    colour = gain * (_FROM_YIQ @ chroma @ _TO_YIQ) / 255
    offset = (brightness * (1 - contrast) / 2)[:, None] - np.array(MEAN)
    return colour / np.array(STD)[:, None], offset / np.array(STD)


def _erase(preset: TrainPreset, random: np.ndarray, image_size: int) -> np.ndarray:
    """Return ``[n, 4] int32``, a rectangle of 2 to 20 % of the image, or zeros."""
    area = _between(0.02, 0.2, random[:, 1]) * image_size**2
    aspect = np.exp(_between(np.log(0.3), np.log(3.3), random[:, 2]))
    size = np.stack([np.sqrt(area * aspect), np.sqrt(area / aspect)], axis=1)
    size = np.clip(np.rint(size), 1, image_size)
    corner = np.floor(random[:, 3:5] * (image_size - size + 1))
    box = np.concatenate([corner, corner + size], axis=1)
    return np.where(random[:, :1] < preset.erase, box, 0).astype(np.int32)


@dataclass(frozen=True)
class _Trivial:
    """One operator of TrivialAugment for each sample."""

    shift: np.ndarray  # [n, 2, 3], within the output
    factors: np.ndarray  # [n, 3]: brightness, contrast, saturation
    operator: np.ndarray  # [n] int32
    strength: np.ndarray  # [n] float32


def _draw_trivial(random: np.ndarray, image_size: int) -> _Trivial:
    """Choose an operator, one of 31 strengths and a direction, with TrivialAugment's ranges."""
    chosen = (random[:, 0] * len(TRIVIAL)).astype(int)
    level = np.floor(random[:, 1] * _BINS) / (_BINS - 1)
    signed = np.where(random[:, 2] < 0.5, -level, level)

    def of(name: str, value: np.ndarray, otherwise: float = 0.0) -> np.ndarray:
        return np.where(chosen == TRIVIAL.index(name), value, otherwise)

    linear = _rotations(np.deg2rad(of("rotate", 135 * signed)))
    linear[:, 0, 1] += of("shear_x", 0.99 * signed)
    linear[:, 1, 0] += of("shear_y", 0.99 * signed)
    reach = 32 / 224 * image_size
    centre = image_size / 2 + np.stack(
        [of("translate_x", reach * signed), of("translate_y", reach * signed)], axis=1
    )
    factor = 1 + 0.99 * signed
    names = [name if name in PIXEL_OPERATORS else "none" for name in TRIVIAL]
    codes = np.array([PIXEL_OPERATORS.index(name) for name in names], dtype=np.int32)
    strength = of("sharpness", factor) + of("posterize", 256 - 2 ** np.rint(6 * level))
    return _Trivial(
        shift=_about_centre(linear, centre, image_size),
        factors=np.stack(
            [of(name, factor, 1.0) for name in ("brightness", "contrast", "color")], axis=1
        ),
        operator=codes[chosen],
        strength=(strength + of("solarize", 255 * (1 - level))).astype(np.float32),
    )
