"""What a GPU gets: the CPU's pixels, finished on the GPU, while the host goes on.

The consumer's stream is kept busy by a kernel that only waits, so whatever the loader does too
early, or what makes the host wait, shows.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from pipeline.loading.augment import draw
from pipeline.loading.backend import begin
from pipeline.loading.batch import Batch, Loader
from pipeline.loading.mix import Mix
from pipeline.loading.portable import (
    NORMALISE,
    decode_rgb,
    finish,
    opencv_matrix,
    resize,
    warp,
)
from pipeline.loading.presets import TRAIN_PRESETS
from pipeline.loading.samples import Samples
from pipeline.shards.dataset import Split

TOLERANCE = 1e-5
"""Normalised units: sums of float32 in another order; a grey level is 0.017."""

LEVELS = 0.1
"""Normalised units, 6 grey levels: more than nvJPEG's decoders differ by."""

SIZE, COUNT = 48, 32

BEHIND = 4 * 10**9
"""Clock cycles by which the consumer's stream is behind: some 2 s, far more than an epoch takes."""


def unequal(first: torch.Tensor, second: torch.Tensor) -> float:
    assert first.shape == second.shape and first.dtype == second.dtype
    return float((first.cpu() - second.cpu()).abs().max()) if len(first) else 0.0


def check(found: list[Batch], expected: list[Batch], tolerance: float) -> None:
    for first, second in zip(found, expected, strict=True):
        assert first.images.is_contiguous(memory_format=torch.channels_last)
        assert first.image_ids == second.image_ids
        assert torch.equal(first.labels.cpu(), second.labels.cpu())
        assert unequal(first.images, second.images) <= tolerance
        assert (first.lam is None) == (second.lam is None)
        if first.lam is not None and second.lam is not None:
            assert unequal(first.lam, second.lam) == 0


def finished(pixels: list[np.ndarray], colour: np.ndarray, erase: np.ndarray) -> torch.Tensor:
    images = finish(*map(torch.from_numpy, (np.stack(pixels), colour, erase)))
    assert images.is_contiguous(memory_format=torch.channels_last)
    return images


@pytest.mark.parametrize("augment", sorted(TRAIN_PRESETS))
def test_what_a_gpu_finishes_is_what_the_cpu_does(
    loader: Callable[..., Loader], train_split: Split, augment: str
) -> None:
    flags = {"backend": "portable", "augment": augment, "image_size": SIZE, "batch_size": COUNT}
    batch = next(iter(loader(**flags).epoch(1)))
    samples = Samples(train_split)
    rows = samples.rows(batch.image_ids)
    jpegs = [samples.read(row) for row in rows]
    where = {"image_size": SIZE, "seed": 7, "epoch": 1, "start": 0}
    drawn = draw(TRAIN_PRESETS[augment], samples.sizes(rows, jpegs), **where)  # type: ignore[index]
    assert drawn.erase.any() == (augment == "strong")
    matrix = opencv_matrix(drawn)
    pixels = [warp(jpeg, drawn, matrix, index, SIZE).copy() for index, jpeg in enumerate(jpegs)]
    images = finished(pixels, drawn.colour, drawn.erase)
    assert unequal(images, batch.images) <= TOLERANCE
    assert len(images) == COUNT and images.std() > 0.1


def test_what_a_gpu_finishes_in_evaluation_is_what_the_cpu_does(
    loader: Callable[..., Loader], train_split: Split
) -> None:
    flags = {"backend": "portable", "phase": "eval", "image_size": SIZE, "batch_size": COUNT}
    batch = next(iter(loader(**flags).epoch(0)))
    samples = Samples(train_split)
    pixels = [resize(decode_rgb(samples.read(row)), SIZE) for row in range(COUNT)]
    colour, erase = np.stack([NORMALISE] * COUNT), np.zeros((COUNT, 4), np.int32)
    assert unequal(finished(pixels, colour, erase), batch.images) <= TOLERANCE


@pytest.mark.gpu
@pytest.mark.parametrize("augment", ["eval", *sorted(TRAIN_PRESETS)])
def test_portable_batches_on_a_gpu_are_those_of_the_cpu(
    loader: Callable[..., Loader], cuda: torch.device, augment: str
) -> None:
    phase = {"phase": "eval"} if augment == "eval" else {"augment": augment}
    flags = {"backend": "portable", "image_size": SIZE, "batch_size": 8, **phase}
    found = list(loader(**flags, device=cuda).epoch(1))
    assert all(batch.images.is_cuda and batch.labels.is_cuda for batch in found)
    check(found, list(loader(**flags).epoch(1)), TOLERANCE)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["portable", "dali"])
def test_a_surplus_batch_on_a_gpu_is_empty(
    loader: Callable[..., Loader], train_split: Split, cuda: torch.device, backend: str
) -> None:
    ranks = {"rank": 1, "world_size": 2, "batch_size": len(train_split)}
    (batch,) = loader(backend=backend, phase="eval", device=cuda, **ranks).epoch(0)
    assert len(batch) == 0 and batch.images.is_cuda and batch.labels.is_cuda
    assert batch.images.shape == (0, 3, 64, 64) and batch.labels.shape == (0,)


def mixed(batches: Iterator[Batch]) -> list[Batch]:
    mix = Mix(mixup=1.0, cutmix=1.0)
    return [mix.apply(batch, epoch=0, number=number) for number, batch in enumerate(batches)]


def mixed_late(batches: Iterator[Batch]) -> tuple[list[Batch], torch.cuda.Event]:
    """Return ``mixed(batches)`` of a consumer who is behind, and what tells when he has caught up.

    A batch is dropped once mixed, so its memory is used again as soon as the loader allows it.
    """
    torch.cuda.synchronize()
    torch.cuda._sleep(BEHIND)
    caught_up = torch.cuda.Event()
    caught_up.record()
    return mixed(batches), caught_up


@pytest.mark.gpu
def test_the_host_goes_on_while_a_gpu_is_behind(
    loader: Callable[..., Loader], cuda: torch.device
) -> None:
    flags = {"backend": "portable", "augment": "strong", "image_size": SIZE, "batch_size": 8}
    used = loader(**flags, device=cuda)
    held = list(used.epoch(0))  # CUDA may wait to get memory, so torch has enough of it first
    held += mixed(iter(held))
    sizes = [2**power for power in range(4, 17) for _ in held]
    pinned = [torch.empty(size, dtype=torch.uint8, pin_memory=True) for size in sizes]
    del held, pinned
    found, caught_up = mixed_late(used.epoch(0))
    waited = caught_up.query()
    check(found, mixed(loader(**flags).epoch(0)), TOLERANCE)
    assert not waited


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["portable", "dali"])
def test_batches_for_a_stream_that_is_behind_are_those_of_one_that_is_not(
    loader: Callable[..., Loader], cuda: torch.device, backend: str
) -> None:
    flags = {"backend": backend, "augment": "none", "image_size": SIZE, "batch_size": 8}
    calm = []
    for batch in loader(**flags, device=cuda).epoch(0):
        torch.cuda.synchronize()
        calm.append(batch)
    used, expected = loader(**flags, device=cuda), mixed(iter(calm))
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream(cuda)):
        for _ in range(2):  # the second time in memory that was used before
            found, _ = mixed_late(used.epoch(0))
            torch.cuda.synchronize()
            check(found, expected, TOLERANCE if backend == "portable" else LEVELS)


@pytest.mark.gpu
def test_an_epoch_begun_in_a_thread_is_for_the_callers_gpu_and_stream(cuda: torch.device) -> None:
    def current() -> Iterator[tuple[int, torch.cuda.Stream]]:
        while True:
            yield torch.cuda.current_device(), torch.cuda.current_stream()

    last = torch.device("cuda", torch.cuda.device_count() - 1)
    with torch.cuda.stream(torch.cuda.Stream(last)):
        wanted = next(current())
        assert wanted[0] == last.index and wanted[1] != torch.cuda.default_stream(last)
        assert next(begin(current())) == wanted
