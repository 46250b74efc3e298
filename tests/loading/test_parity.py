"""The backends agree with each other, and evaluation with Pillow and NumPy.

Tolerances are in grey levels of 0 to 255, after undoing the normalisation.
"""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.loading import loose_batches
from pipeline.loading.presets import MEAN, STD

EVAL_TOLERANCE = 1.01
"""Grey levels, for every pixel: each resampler rounds to whole levels once."""


def levels(images: torch.Tensor) -> np.ndarray:
    """``[B, H, W, 3]``, 0 to 255, of a batch's normalised images."""
    return (images.permute(0, 2, 3, 1).numpy() * STD + MEAN) * 255


def oracle(jpeg: bytes, size: int) -> np.ndarray:
    """The eval preset in Pillow and NumPy alone."""
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    short = min(image.size)
    width, height = (side * size // short for side in image.size)
    resized = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), dtype=float)
    top, left = (height - size) // 2, (width - size) // 2
    return resized[top : top + size, left : left + size]


@pytest.mark.parametrize("backend", ["dali", "portable"])
@pytest.mark.parametrize("size", [48, 64, 80])
def test_eval_pixels_are_those_of_pillow(loader, train_split, backend: str, size: int) -> None:
    batch = next(iter(loader(phase="eval", backend=backend, image_size=size).epoch(0)))
    where = train_split.locations()
    for index, pixels in enumerate(levels(batch.images)):
        data = train_split.tars[where.shard[index]].read_bytes()
        jpeg = data[where.offset[index] : where.offset[index] + where.size[index]]
        assert np.abs(pixels - oracle(jpeg, size)).max() <= EVAL_TOLERANCE


@pytest.mark.realdata
def test_eval_pixels_of_real_images_are_those_of_pillow(ham10000_originals: Path) -> None:
    paths = sorted(ham10000_originals.rglob("*.jpg"))[:12]
    batches = list(loose_batches(paths, image_size=224, batch_size=5, device=torch.device("cpu")))
    pixels = np.concatenate([levels(batch.images) for batch in batches])
    for path, found in zip(paths, pixels, strict=True):
        assert np.abs(found - oracle(path.read_bytes(), 224)).max() <= EVAL_TOLERANCE


@pytest.mark.parametrize(
    ("augment", "image_size", "mean", "high"),
    [
        ("none", 48, 0.1, 1.5),
        ("basic", 48, 0.1, 1.5),
        ("strong", 48, 0.1, 3),
        ("trivial", 48, 0.6, 30),
        # Sources are halved first: one averages while decoding, the other filters afterwards, and
        # they differ along the hard edges of drawn images (real ones: mean 0.5, high 5).
        ("basic", 24, 1.5, 25),
    ],
)
def test_train_pixels_agree_between_backends(
    loader, augment: str, image_size: int, mean: float, high: float
) -> None:
    flags = {"augment": augment, "image_size": image_size, "batch_size": 32}
    both = [
        next(iter(loader(backend=backend, **flags).epoch(1))) for backend in ("dali", "portable")
    ]
    assert both[0].image_ids == both[1].image_ids
    assert torch.equal(both[0].labels, both[1].labels)
    difference = np.abs(levels(both[0].images) - levels(both[1].images))
    assert difference.mean() <= mean
    assert np.quantile(difference, 0.999) <= high
