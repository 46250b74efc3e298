"""The memory of a batch is recycled once unreferenced, and never earlier."""

import gc
from collections.abc import Callable

import pytest
import torch

from pipeline.loading.batch import Buffers


def place(images: torch.Tensor) -> int:
    return images.untyped_storage().data_ptr()


def test_unreferenced_memory_is_recycled() -> None:
    buffers = Buffers((2, 3), keep=2)
    first = place(buffers.take())
    assert place(buffers.take()) == first


@pytest.mark.parametrize(
    "hold",
    [
        lambda images: images[1:, :, :2],
        lambda images: images.permute(0, 2, 1).detach(),
        lambda images: images.numpy()[0],
        lambda images: iter([images]),
        lambda images: torch.nn.Parameter(torch.ones(4)).mul(images).sum(),  # saved for backward
    ],
    ids=["slice", "view", "array", "container", "graph"],
)
def test_referenced_memory_is_not_recycled(
    hold: Callable[[torch.Tensor], object],
) -> None:
    buffers = Buffers((2, 3, 4), keep=5)
    images = buffers.take().fill_(1)
    where = place(images)
    held = hold(images)
    del images
    gc.collect()
    others = [buffers.take() for _ in range(3)]
    assert where not in {place(each) for each in others}
    del held
    gc.collect()
    assert place(buffers.take()) == where


@pytest.mark.parametrize("phase", ["train", "eval"])
def test_batches_that_are_kept_stay_as_they_were(loader, phase: str) -> None:
    used = loader(backend="portable", phase=phase)
    kept = list(used.epoch(0))
    copies = [batch.images.clone() for batch in kept]
    for epoch in (1, 2):
        assert sum(len(batch) for batch in used.epoch(epoch)) > 0
    assert all(torch.equal(a.images, b) for a, b in zip(kept, copies, strict=True))
    again = list(used.epoch(0))
    assert all(torch.equal(a.images, b) for a, b in zip(again, copies, strict=True))
