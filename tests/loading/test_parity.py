"""The backends agree with each other, and evaluation with Pillow and NumPy.

Tolerances are in grey levels of 0 to 255, after undoing the normalisation.
"""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.evaluation.image_files import read_image
from pipeline.loading.portable import render_eval
from pipeline.loading.presets import MEAN, STD, TRAIN_PRESETS
from pipeline.loading.samples import Samples
from pipeline.shards.dataset import Split

EVAL_TOLERANCE = 1.01
"""Grey levels, for every pixel: each resampler rounds to whole levels once."""

BORDER_TOLERANCE = 8
"""Grey levels, for DALI's outermost pixels, where its filter repeats the source's last pixel and
Pillow's leaves out what is missing; seen on real images: up to 7, in 4 of 100,000 values."""

GPU_MEAN, GPU_HIGH = 1.0, 6.0
"""Grey levels, with nvJPEG: the mean, and what 99.9 % of values (99 % in training) keep to."""


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


@pytest.fixture(scope="module")
def originals(ham10000_originals: Path, split_of) -> tuple[list[bytes], Split]:
    """Twelve real images at full size, and a split of the same bytes."""
    jpegs = [path.read_bytes() for path in sorted(ham10000_originals.rglob("*.jpg"))[:12]]
    assert Image.open(io.BytesIO(jpegs[0])).size == (600, 450)
    return jpegs, split_of(jpegs, per_shard=5)


@pytest.mark.realdata
@pytest.mark.parametrize("backend", ["dali", "portable"])
@pytest.mark.parametrize("size", [64, 224, 450])
def test_eval_pixels_of_real_images_are_those_of_pillow(
    loader, originals, backend: str, size: int
) -> None:
    jpegs, split = originals
    flags = {"split": split, "phase": "eval", "backend": backend, "image_size": size}
    pixels = np.concatenate([levels(batch.images) for batch in loader(**flags).epoch(0)])
    for jpeg, found in zip(jpegs, pixels, strict=True):
        difference = np.abs(found - oracle(jpeg, size))
        assert difference[1:-1, 1:-1].max() <= EVAL_TOLERANCE
        assert difference.max() <= (BORDER_TOLERANCE if backend == "dali" else EVAL_TOLERANCE)


def test_loose_images_are_preprocessed_like_packed_ones(
    loader, train_split, tmp_path: Path
) -> None:
    """An image file that `eval.py predict` reads becomes the pixels of its packed twin, exactly."""
    flags = {"phase": "eval", "backend": "portable", "image_size": 48, "batch_size": 20}
    batch = next(loader(**flags).epoch(0))
    samples = Samples(train_split)
    for row, packed in enumerate(batch.images.permute(0, 2, 3, 1).numpy()):
        (tmp_path / "loose.jpg").write_bytes(samples.read(row))
        loose = np.empty((48, 48, 3), dtype=np.float32)
        render_eval(read_image(tmp_path / "loose.jpg"), loose)
        assert np.array_equal(loose, packed)


@pytest.mark.realdata
def test_loose_images_at_full_size_are_those_of_pillow(ham10000_originals: Path) -> None:
    for path in sorted(ham10000_originals.rglob("*.jpg"))[:12]:
        loose = np.empty((224, 224, 3), dtype=np.float32)
        render_eval(read_image(path), loose)
        difference = (loose * STD + MEAN) * 255 - oracle(path.read_bytes(), 224)
        assert np.abs(difference).max() <= EVAL_TOLERANCE


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("augment", "mean", "high"),
    [
        ("none", 1, 8),
        ("basic", 1, 8),
        ("strong", 1, 8),
        ("trivial", 2, 40),  # posterize and equalize make steps of what differs by a level
    ],
)
def test_train_pixels_of_real_images_agree_between_backends(
    loader, originals, augment: str, mean: float, high: float
) -> None:
    flags = {"split": originals[1], "augment": augment, "image_size": 224, "batch_size": 12}
    both = [
        levels(next(iter(loader(backend=backend, **flags).epoch(0))).images)
        for backend in ("dali", "portable")
    ]
    difference = np.abs(both[0] - both[1])
    assert difference.mean() <= mean
    assert np.quantile(difference, 0.999) <= high


@pytest.mark.gpu
@pytest.mark.realdata
@pytest.mark.parametrize("size", [64, 224, 450])
def test_eval_pixels_of_mixed_decoding_are_those_of_pillow(
    loader, originals, cuda: torch.device, size: int
) -> None:
    """nvJPEG's inverse transform and chroma upsampling differ from libjpeg's."""
    jpegs, split = originals
    flags = {"split": split, "phase": "eval", "backend": "dali", "image_size": size}
    batches = list(loader(**flags, device=cuda).epoch(0))
    assert all(batch.images.is_cuda for batch in batches)
    pixels = np.concatenate([levels(batch.images.cpu()) for batch in batches])
    difference = np.abs(pixels - np.stack([oracle(jpeg, size) for jpeg in jpegs]))
    assert difference.mean() <= GPU_MEAN
    assert np.quantile(difference, 0.999) <= GPU_HIGH


@pytest.mark.gpu
@pytest.mark.realdata
@pytest.mark.parametrize("augment", ["none", "basic", "strong", "trivial"])
def test_train_pixels_of_mixed_decoding_agree_with_the_cpu(
    loader, originals, cuda: torch.device, augment: str
) -> None:
    flags = {"split": originals[1], "backend": "dali", "augment": augment, "image_size": 224}
    found = [
        levels(next(iter(loader(**flags, batch_size=12, device=device).epoch(0))).images.cpu())
        for device in (torch.device("cpu"), cuda)
    ]
    difference = np.abs(found[0] - found[1])
    assert difference.mean() <= GPU_MEAN
    assert np.quantile(difference, 0.99) <= GPU_HIGH


@pytest.mark.gpu
@pytest.mark.parametrize("augment", ["none", "basic", "strong", "trivial"])
def test_mixed_decoding_gives_the_samples_and_pixels_of_the_cpu(
    loader, cuda: torch.device, augment: str
) -> None:
    flags = {"backend": "dali", "augment": augment, "image_size": 48, "batch_size": 16}
    pairs = zip(loader(**flags).epoch(1), loader(**flags, device=cuda).epoch(1), strict=True)
    for on_cpu, on_gpu in pairs:
        assert on_gpu.images.is_cuda and on_gpu.labels.is_cuda
        assert on_gpu.images.is_contiguous(memory_format=torch.channels_last)
        assert on_cpu.image_ids == on_gpu.image_ids
        assert torch.equal(on_cpu.labels, on_gpu.labels.cpu())
        difference = np.abs(levels(on_cpu.images) - levels(on_gpu.images.cpu()))
        assert difference.mean() <= 2 * GPU_MEAN  # hard edges of drawn images


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["dali", "portable"])
def test_resumed_batches_on_a_gpu_have_the_same_samples_and_parameters(
    loader, cuda: torch.device, backend: str
) -> None:
    flags = {"backend": backend, "augment": "strong", "batch_size": 16, "device": cuda}
    whole, rest = list(loader(**flags).epoch(2)), list(loader(**flags).epoch(2, start=2))
    for first, second in zip(whole[2:], rest, strict=True):
        assert first.image_ids == second.image_ids
        assert np.abs(levels(first.images.cpu()) - levels(second.images.cpu())).max() <= 1.01


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


@pytest.mark.parametrize("phase", ["train", "eval"])
@pytest.mark.parametrize("augment", sorted(TRAIN_PRESETS))
def test_every_graph_can_be_made_of_gpu_operators(augment, phase):
    """Without a GPU it cannot run, but a wrong argument or device is refused here too."""
    pytest.importorskip("nvidia.dali")
    from pipeline.loading.dali.graph import graph

    made = {}
    for operators in ("gpu", "cpu"):
        pipe = graph(
            lambda: (),
            phase=phase,
            preset=TRAIN_PRESETS[augment],
            image_size=64,
            batch_size=4,
            threads=2,
            operators=operators,
            device_id=None,
            largest=(341, 256),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a preset need not use every parameter
            made[operators] = pipe.serialize()
    devices = (b"\x05mixed", b"\x03gpu")  # with their lengths: a folder's name may hold them too
    sized = (b"hw_decoder_load", b"preallocate_width_hint", b"device_memory_padding")
    assert all(word in made["gpu"] for word in (*devices, *sized))
    assert not any(word in made["cpu"] for word in devices)
