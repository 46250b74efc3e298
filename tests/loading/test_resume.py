"""A loader resumes exactly where another stopped, whatever the number of threads."""

import itertools

import pytest
import torch

from pipeline.errors import DataError
from pipeline.loading.order import cuts


def same(first, second) -> bool:
    return torch.equal(first.images, second.images) and first.image_ids == second.image_ids


@pytest.mark.parametrize("backend", ["dali", "portable"])
@pytest.mark.parametrize("flags", [{"augment": "strong"}, {"mixup": 0.4, "cutmix": 1.0}])
@pytest.mark.parametrize("rank", [0, 1])
def test_resumed_batches_are_those_of_an_undisturbed_loader(
    loader, backend: str, flags: dict, rank: int
) -> None:
    common = {"backend": backend, "rank": rank, "world_size": 2, "batch_size": 8, **flags}
    whole = list(loader(threads=2, **common).epoch(3))
    rest = list(loader(threads=1, **common).epoch(3, start=2))
    assert len(whole) > 2
    assert len(rest) == len(whole) - 2
    assert all(same(a, b) for a, b in zip(whole[2:], rest, strict=True))


@pytest.mark.parametrize("backend", ["dali", "portable"])
def test_other_ranks_get_the_same_pixels(loader, backend: str) -> None:
    """Two ranks with 8, then one with 16 from the second step on; then three with 5, cut anew."""
    common = {"backend": backend, "augment": "strong"}
    two = [loader(rank=r, world_size=2, batch_size=8, **common).epoch(3) for r in (0, 1)]
    expected = [torch.cat([batch.images for batch in step]) for step in zip(*two, strict=True)]
    one = loader(batch_size=16, **common)
    got = [batch.images for batch in one.epoch(3, start=1)]
    assert len(got) > 1 and all(map(torch.equal, expected[1:], got))
    bounds = cuts(16, len(expected) * 16, batch_size=5, world_size=3)
    three = [
        loader(rank=r, world_size=3, batch_size=5, **common).epoch(3, 1, bounds) for r in range(3)
    ]
    images = torch.cat([b.images for step in zip(*three, strict=True) for b in step])
    assert torch.equal(images, torch.cat(expected[1:]))


@pytest.mark.parametrize("backend", ["dali", "portable"])
def test_an_abandoned_epoch_does_not_change_the_next(loader, backend: str) -> None:
    used = loader(backend=backend)
    list(itertools.islice(used.epoch(0), 2))
    fresh = list(loader(backend=backend).epoch(1))
    assert all(same(a, b) for a, b in zip(used.epoch(1), fresh, strict=True))


@pytest.mark.parametrize("backend", ["dali", "portable"])
def test_more_ranks_than_batches_get_empty_ones(loader, train_split, backend: str) -> None:
    flags = {"phase": "eval", "backend": backend, "batch_size": 50, "world_size": 5}
    got = [list(loader(rank=rank, **flags).epoch(0)) for rank in range(5)]
    assert {len(batches) for batches in got} == {1}
    assert got[4][0].images.shape == (0, 3, 64, 64)
    ids = [each for batches in got for batch in batches for each in batch.image_ids]
    assert ids == train_split.samples["image_id"].to_list()


def test_a_split_smaller_than_a_global_batch_is_refused(loader) -> None:
    with pytest.raises(DataError, match="too small"):
        loader(batch_size=1000)


@pytest.mark.parametrize("backend", ["dali", "portable"])
def test_referenced_pixels_are_not_overwritten(loader, backend: str) -> None:
    """Loaders recycle memory, but not that of a batch which a NumPy view still refers to."""
    views, copies = [], []
    for epoch in range(2):
        for batch in loader(backend=backend, augment="strong", batch_size=4).epoch(epoch):
            views.append(batch.images[1:].numpy()[:, 0])
            copies.append(batch.images[1:].clone().numpy()[:, 0])
    assert len(views) > 30
    assert all((view == copy).all() for view, copy in zip(views, copies, strict=True))
