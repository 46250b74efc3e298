"""Augmented images have the distribution that their preset states, measured from the pixels.

Geometry is measured on pictures whose red and green are their own x and y: the values of an
augmented picture give the source position of each pixel, so the whole matrix (flips, rotation,
crop) can be fitted. Colours are measured on plain pictures. Expectations come from NumPy's and
Pillow's draws and operators, not from the code under test; distributions are compared by the
Kolmogorov-Smirnov test. Seeds are fixed, so results are repeatable.
"""

import colorsys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp, kstest

from pipeline.loading.flags import Backend
from pipeline.loading.loader import loader_of
from pipeline.loading.order import EpochPlan
from pipeline.loading.presets import MEAN, STD, TRAIN_PRESETS, Augment
from pipeline.loading.samples import Samples

SIZE, WIDTH, HEIGHT = 32, 96, 72
"""Pixels: side of the output; width and height of the source, whose sides are as HAM10000's."""

DRAWS = 1200
"""Augmented pictures of each measurement."""

SEEDS = {"dali": 11, "portable": 12}
"""Different ones, because equal draws would make the agreement of the backends trivial."""

PLAIN = (151, 110, 90)
"""The colour of the plain picture, RGB; JPEG compression does not change it."""

SURE = 1e-4
"""p-value below which two distributions differ; some sixty pairs are compared below."""

COLOURLESS = dict.fromkeys(("brightness", "contrast", "saturation", "hue", "erase"), 0.0)
"""Changes to a preset that leave only its geometry."""

TO_IQ = np.array([[0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
"""RGB to the two colour components of YIQ (NTSC)."""

backends = pytest.mark.parametrize("backend", ["dali", "portable"])


def position_picture(width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A picture whose red is its x, whose green is its y, from 16 to 240."""
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    return np.rint(16 + 224 * np.stack([x, y, np.full_like(x, 0.5)], axis=2)).astype(np.uint8)


def fit_matrix(picture: np.ndarray, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Return ``[2, 3]``: output (x, y, 1) to source, both from 0 at the centre, in pixels.

    Fitted to those pixels of ``[S, S, 3]`` (0 to 255) that were taken from inside the source.
    """
    size = len(picture)
    x, y = np.meshgrid(*[np.arange(size) + 0.5 - size / 2] * 2)
    source = (picture[:, :, :2] - 16) / 224
    inside = ((source > 0.04) & (source < 0.96)).all(axis=2)
    places = np.stack([x, y, np.ones_like(x)], axis=2)[inside]
    wanted = (source[inside] - 0.5) * (width, height)
    return np.linalg.lstsq(places, wanted, rcond=None)[0].T


def fit_error(picture: np.ndarray) -> float:
    """Return how far, in source pixels (root mean square), a picture is from any matrix."""
    size = len(picture)
    x, y = np.meshgrid(*[np.arange(size) + 0.5] * 2)
    places = np.stack([x, y, np.ones_like(x)], axis=2).reshape(-1, 3)
    source = (picture[:, :, :2].reshape(-1, 2) - 16) / 224 * (WIDTH, HEIGHT)
    fitted = places @ np.linalg.lstsq(places, source, rcond=None)[0]
    return float(np.sqrt(((fitted - source) ** 2).mean()))


@dataclass(frozen=True)
class Geometry:
    """The geometry of some augmented pictures."""

    mirrored: np.ndarray
    """bool: an odd number of flips."""
    angle: np.ndarray
    """Degrees, -180 to 180, once a mirrored picture is flipped back from left to right."""
    scale: np.ndarray
    """``[n, 2]``: source pixels an output pixel, across and down the crop."""


def geometry(pictures: np.ndarray) -> Geometry:
    matrices = np.stack([fit_matrix(picture) for picture in pictures])[:, :, :2]
    mirrored = np.linalg.det(matrices) < 0
    matrices[mirrored, :, 0] *= -1
    angle = np.degrees(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]))
    return Geometry(mirrored, angle, np.linalg.norm(matrices, axis=1))


@pytest.fixture(scope="module")
def augmented(split_of, jpeg_of) -> Callable[..., np.ndarray]:
    """``augmented(picture, backend, augment, **changes)``: ``[DRAWS, S, S, 3]``, levels 0 to 255.

    ``changes`` are to the preset.
    """
    splits = {}

    @lru_cache
    def get(name: str, backend: Backend, augment: Augment, **changes: float) -> np.ndarray:
        if name not in splits:
            plain = np.tile(np.uint8(PLAIN), (HEIGHT, WIDTH, 1))
            picture = position_picture() if name == "position" else plain
            splits[name] = Samples(split_of([jpeg_of(picture)] * 100, per_shard=100))
        samples, seed = splits[name], SEEDS[backend]
        made = loader_of(
            samples,
            EpochPlan("train", samples.shard_of, batch_size=100, seed=seed),
            backend=backend,
            preset=replace(TRAIN_PRESETS[augment], **changes),
            image_size=SIZE,
            device=torch.device("cpu"),
            threads=1,
        )
        batches = [batch for epoch in range(DRAWS // 100) for batch in made.epoch(epoch)]
        images = np.concatenate([batch.images.permute(0, 2, 3, 1).numpy() for batch in batches])
        return (images * STD + MEAN) * 255

    return get


def without_erased(pictures: np.ndarray) -> np.ndarray:
    """NaN where a picture was erased: there it has the mean colour exactly."""
    erased = (np.abs(pictures - 255 * np.array(MEAN)) < 1e-3).all(axis=3, keepdims=True)
    return np.where(erased, np.nan, pictures)


@lru_cache
def measured(get: Callable[..., np.ndarray], backend: str, augment: str) -> Geometry:
    """The geometry of ``augment``, without changes of colour and erasing."""
    return geometry(get("position", backend, augment, **COLOURLESS))


@pytest.mark.parametrize("degrees", [-150, -40, 25, 90])
@pytest.mark.parametrize("mirror", [False, True])
def test_fitted_matrices_agree_with_pillows_rotations(degrees: int, mirror: bool) -> None:
    picture = Image.fromarray(position_picture(96, 96))
    if mirror:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    turned = picture.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=(0, 0, 0))
    matrix = fit_matrix(np.asarray(turned, dtype=float), 96, 96)[:, :2]
    assert (np.linalg.det(matrix) < 0) == mirror
    assert np.allclose(np.abs(np.linalg.det(matrix)), 1, atol=0.02)
    # Pillow turns counter-clockwise, so a pixel comes from that far clockwise; y points down
    flipped = matrix * [[-1], [1]] if mirror else matrix
    assert np.degrees(np.arctan2(flipped[1, 0], flipped[0, 0])) == pytest.approx(degrees, abs=0.7)


@backends
def test_basic_rotates_to_30_degrees_either_way_and_flips_half(augmented, backend: str) -> None:
    found = measured(augmented, backend, "basic")
    assert abs(found.mirrored.mean() - 0.5) < 4 * np.sqrt(0.25 / DRAWS)
    assert kstest(found.angle, "uniform", (-30, 60)).pvalue > SURE
    assert np.allclose(found.scale, HEIGHT / SIZE, rtol=0.02)  # the centre square, whole


@backends
def test_strong_rotates_by_any_angle_flips_both_ways_and_crops_40_to_100_percent(
    augmented, backend: str
) -> None:
    found = measured(augmented, backend, "strong")
    assert abs(found.mirrored.mean() - 0.5) < 4 * np.sqrt(0.25 / DRAWS)
    assert kstest(found.angle, "uniform", (-180, 360)).pvalue > SURE
    random = np.random.default_rng(0)
    area = random.uniform(0.4, 1, 20000) * WIDTH * HEIGHT
    aspect = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3), 20000))
    width, height = (
        np.minimum(np.sqrt(area * a), side) for a, side in ((aspect, WIDTH), (1 / aspect, HEIGHT))
    )
    share = found.scale.prod(axis=1) * SIZE**2 / (WIDTH * HEIGHT)
    assert ks_2samp(share, width * height / (WIDTH * HEIGHT)).pvalue > SURE
    assert ks_2samp(found.scale[:, 0] / found.scale[:, 1], width / height).pvalue > SURE


@backends
def test_trivial_flips_both_ways_and_changes_a_plain_colour_as_often_as_its_operators(
    augmented, backend: str
) -> None:
    pictures = augmented("position", backend, "trivial")
    # posterize, solarize and equalize bend the positions; the others leave them straight
    straight = np.array([fit_error(picture) < 1 for picture in pictures])
    assert straight.sum() > DRAWS / 2
    mirrored = geometry(pictures[straight]).mirrored
    assert abs(mirrored.mean() - 0.5) < 4 * np.sqrt(0.25 / straight.sum())
    found = augmented("plain", backend, "trivial").mean(axis=(1, 2))
    rate = (np.abs(found - PLAIN) > 1).any(axis=1).mean()
    expected = plain_changes()
    assert abs(rate - expected) < 4 * np.sqrt(expected * (1 - expected) / DRAWS)


def plain_changes() -> float:
    """Probability that TrivialAugment (wide) changes PLAIN by more than a level.

    Of 14 operators, these five change a plain colour; each has 31 strengths and most a direction.
    """
    plain, luma = np.array(PLAIN), np.dot(PLAIN, [0.299, 0.587, 0.114])
    changed = []
    for level in np.linspace(0, 1, 31):
        for factor in (1 - 0.99 * level, 1 + 0.99 * level):
            changed.append(plain * factor)
            changed.append((plain - 127.5) * factor + 127.5)
            changed.append((plain - luma) * factor + luma)
            changed.append(plain & ~(2 ** int(np.rint(6 * level)) - 1))
            changed.append(np.where(plain >= 255 * (1 - level), 255 - plain, plain))
    return 5 / 14 * float(np.mean([(np.abs(each - plain) > 1).any() for each in changed]))


@backends
def test_strong_erases_a_quarter_with_2_to_20_percent(augmented, backend: str) -> None:
    erased = np.isnan(without_erased(augmented("plain", backend, "strong"))).any(axis=3)
    share = erased.mean(axis=(1, 2))
    assert abs((share > 0).mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / DRAWS)
    some = share[share > 0]
    assert some.min() > 0.015 and some.max() < 0.22  # whole pixels of 32 x 32
    assert kstest(some, "uniform", (0.02, 0.18)).pvalue > SURE
    assert not np.isnan(without_erased(augmented("plain", backend, "basic"))).any()


@pytest.mark.parametrize(("augment", "jitter", "hue"), [("basic", 0.2, 7), ("strong", 0.4, 18)])
@backends
def test_colours_are_spread_as_the_preset_says(
    augmented, backend: str, augment: str, jitter: float, hue: float
) -> None:
    pictures = without_erased(augmented("plain", backend, augment))
    found = np.nanmean(pictures, axis=(1, 2))
    assert np.nanmax(np.nanstd(pictures, axis=(1, 2))) < 1.5  # a plain picture stays plain
    expected = jittered(jitter, hue, 20000)
    for measure in (lambda rgb: rgb.mean(axis=1), chroma_angle, lambda rgb: np.ptp(rgb, axis=1)):
        assert ks_2samp(measure(found), measure(expected)).pvalue > SURE
    error = expected.std(axis=0) / np.sqrt(DRAWS)
    assert (np.abs(found.mean(axis=0) - expected.mean(axis=0)) < 4 * error + 0.5).all()
    assert np.allclose(found.std(axis=0), expected.std(axis=0), rtol=0.1)


@pytest.mark.parametrize(("augment", "jitter", "hue"), [("basic", 0.2, 7), ("strong", 0.4, 18)])
@backends
def test_saturation_alone_is_spread_as_the_preset_says(
    augmented, backend: str, augment: str, jitter: float, hue: float
) -> None:
    pictures = augmented("plain", backend, augment, brightness=0.0, contrast=0.0, erase=0.0)
    found, grey = pictures.mean(axis=(1, 2)), np.dot(PLAIN, [0.299, 0.587, 0.114])
    # in YIQ, saturation is the length of the colour's part beside its luma
    length = np.linalg.norm((found - grey) @ TO_IQ.T, axis=1)
    ratio = length / np.linalg.norm((np.array(PLAIN) - grey) @ TO_IQ.T)
    assert kstest(ratio, "uniform", (1 - jitter, 2 * jitter)).pvalue > SURE


def jittered(jitter: float, hue: float, count: int) -> np.ndarray:
    """``[n, 3]``: PLAIN jittered by the standard library's YIQ and NumPy's draws."""
    random = np.random.default_rng(1)
    factors = random.uniform(1 - jitter, 1 + jitter, (count, 3))
    turns = np.radians(random.uniform(-hue, hue, count))
    luma, i, q = colorsys.rgb_to_yiq(*(value / 255 for value in PLAIN))
    out = np.empty((count, 3))
    for number, ((brightness, contrast, saturation), turn) in enumerate(
        zip(factors, turns, strict=True)
    ):
        turned = (complex(i, q) * np.exp(1j * turn)) * saturation
        matrix = np.linalg.inv(
            [[0.30, 0.59, 0.11], [0.599, -0.2773, -0.3217], [0.213, -0.5251, 0.3121]]
        )
        rgb = matrix @ [luma, turned.real, turned.imag]
        out[number] = brightness * ((rgb - 0.5) * contrast + 0.5) * 255
    return out


def chroma_angle(rgb: np.ndarray) -> np.ndarray:
    """Direction of a colour away from grey, radians."""
    return np.arctan2(np.sqrt(3) * (rgb[:, 1] - rgb[:, 2]), 2 * rgb[:, 0] - rgb[:, 1] - rgb[:, 2])


@pytest.mark.parametrize("augment", ["basic", "strong", "trivial"])
def test_the_backends_agree_in_mean_and_spread(augmented, augment: str) -> None:
    """To some four levels: their filters smooth the JPEG's noise differently, below a level."""
    blur = np.random.default_rng(0).uniform(-4, 4, (2, DRAWS, 3))
    pictures = [augmented("position", backend, augment) for backend in SEEDS]
    for measure in (np.mean, np.std):
        first, second = np.stack([measure(each, axis=(1, 2)) for each in pictures]) + blur
        for channel in range(3):
            assert ks_2samp(first[:, channel], second[:, channel]).pvalue > SURE
