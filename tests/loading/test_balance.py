"""Balanced epochs, through the loaders: exact class frequencies, disjoint ranks, resumable."""

from collections import Counter

import numpy as np
import pytest
import torch

from pipeline.ham10000.taxonomy import HAM10000

COUNTS = {"nv": 24, "mel": 9, "bkl": 8, "bcc": 3}
"""Binary: 32 benign, 12 malignant. The smallest and largest classes make whole global batches."""

RANKS, BATCH = 2, 4


@pytest.fixture(scope="module")
def unequal(split_of, jpeg_of):
    """A split with ``COUNTS``, its classes mixed over its shards."""
    jpeg = jpeg_of(np.full((12, 16, 3), 90, dtype=np.uint8))
    dx = [name for name, count in COUNTS.items() for _ in range(count)]
    shuffled = np.random.default_rng(0).permutation(dx).tolist()
    return split_of([jpeg] * len(dx), shuffled, per_shard=10)


@pytest.fixture
def per_rank(loader, unequal):
    """``per_rank(epoch, start=0, **flags)``: the batches of each rank, from number ``start``."""

    def get(epoch: int, start: int = 0, **flags) -> list[list]:
        common = {"split": unequal, "image_size": 8, "batch_size": BATCH, "world_size": RANKS}
        return [
            list(loader(rank=rank, **common, **flags).epoch(epoch, start)) for rank in range(RANKS)
        ]

    return get


def samples(ranks: list[list]) -> list[tuple[str, int]]:
    """(image id, diagnosis) of every sample of all ranks."""
    return [
        pair
        for batches in ranks
        for batch in batches
        for pair in zip(batch.image_ids, batch.labels.tolist(), strict=True)
    ]


def classes_of(pairs: list[tuple[str, int]], by: str) -> Counter:
    return Counter(HAM10000.is_malignant[label] if by == "binary" else label for _, label in pairs)


@pytest.mark.parametrize("backend", ["dali", "portable"])
@pytest.mark.parametrize(
    ("balance", "by", "each", "classes"),
    [
        ("oversample", "binary", 32, 2),
        ("oversample", "dx", 24, 4),
        ("undersample", "binary", 12, 2),
        ("undersample", "dx", 3, 4),  # 12 samples: one global batch of 8, the other 4 are cut
    ],
)
def test_every_class_is_equally_frequent(
    per_rank, backend: str, balance: str, by: str, each: int, classes: int
) -> None:
    pairs = samples(per_rank(0, backend=backend, balance=balance, balance_by=by))
    length = each * classes // (RANKS * BATCH) * (RANKS * BATCH)
    assert len(pairs) == length
    found = classes_of(pairs, by)
    if length == each * classes:
        assert dict(found) == dict.fromkeys(found, each) and len(found) == classes
    assert all(count <= each for count in found.values())
    assert sum(each - found[name] for name in found) <= RANKS * BATCH


@pytest.mark.parametrize("backend", ["dali", "portable"])
@pytest.mark.parametrize("by", ["binary", "dx"])
def test_undersampling_repeats_no_sample_and_draws_anew_each_epoch(
    per_rank, backend: str, by: str
) -> None:
    seen = set()
    for epoch in range(3):
        ids = [
            name
            for name, _ in samples(
                per_rank(epoch, backend=backend, balance="undersample", balance_by=by)
            )
        ]
        assert len(ids) == len(set(ids))
        seen.add(frozenset(ids))
    assert len(seen) == 3


@pytest.mark.parametrize("backend", ["dali", "portable"])
@pytest.mark.parametrize(("by", "majority"), [("binary", 0), ("dx", 5)])
def test_oversampling_gives_each_sample_of_the_majority_once(
    per_rank, backend: str, by: str, majority: int
) -> None:
    pairs = samples(per_rank(1, backend=backend, balance="oversample", balance_by=by))
    often = Counter(pairs)
    for (_, label), count in often.items():
        group = HAM10000.is_malignant[label] if by == "binary" else label
        others = [
            n
            for (_, other), n in often.items()
            if (HAM10000.is_malignant[other] if by == "binary" else other) == group
        ]
        assert count == 1 if group == majority else max(others) - min(others) <= 1
    assert len(often) == sum(COUNTS.values())


@pytest.mark.parametrize("backend", ["dali", "portable"])
@pytest.mark.parametrize("balance", ["oversample", "undersample"])
def test_balanced_epochs_are_split_over_ranks_and_resume_in_mid_epoch(
    per_rank, backend: str, balance: str
) -> None:
    flags = {"backend": backend, "balance": balance, "augment": "strong"}
    whole, rest = per_rank(2, **flags), per_rank(2, start=1, **flags)
    for rank in range(RANKS):
        assert len(whole[rank]) == len(rest[rank]) + 1 > 1
        for first, second in zip(whole[rank][1:], rest[rank], strict=True):
            assert first.image_ids == second.image_ids
            assert torch.equal(first.images, second.images)
    if balance == "undersample":
        first, second = ({name for name, _ in samples([batches])} for batches in whole)
        assert not first & second
