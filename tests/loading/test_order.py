"""The order of an epoch: complete, disjoint over ranks, new each epoch, balanced exactly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.loading.order import EpochPlan, choose_rows, epoch_order

SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=8)


def shards(sizes: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(sizes)), sizes)


def per_rank(shard_of: np.ndarray, phase: str, batch: int, ranks: int) -> list[list[list[int]]]:
    plans = [
        EpochPlan(phase, shard_of, batch, rank=rank, world_size=ranks) for rank in range(ranks)
    ]
    return [[request.rows.tolist() for request in plan.requests(2)] for plan in plans]


@given(SIZES, st.integers(1, 17), st.integers(1, 9))
def test_training_gives_full_batches_and_no_sample_twice(
    sizes: list[int], batch: int, ranks: int
) -> None:
    got = per_rank(shards(sizes), "train", batch, ranks)
    assert {len(batches) for batches in got} == {sum(sizes) // (batch * ranks)}
    assert all(len(each) == batch for batches in got for each in batches)
    seen = [row for batches in got for rows in batches for row in rows]
    assert len(seen) == len(set(seen))


@given(SIZES, st.integers(1, 17), st.integers(1, 9))
def test_evaluation_gives_each_sample_once_and_equal_batches(
    sizes: list[int], batch: int, ranks: int
) -> None:
    got = per_rank(shards(sizes), "eval", batch, ranks)
    assert len({len(batches) for batches in got}) == 1
    seen = [row for batches in got for rows in batches for row in rows]
    assert sorted(seen) == list(range(sum(sizes)))
    alone = per_rank(shards(sizes), "eval", batch, 1)[0]
    assert {tuple(e) for b in got for e in b} - {()} == {tuple(e) for e in alone}


@given(SIZES, st.integers(0, 5), st.integers(1, 60))
def test_an_order_has_each_sample_once_and_is_repeatable(
    sizes: list[int], epoch: int, window: int
) -> None:
    shard_of = shards(sizes)
    order = epoch_order(shard_of, seed=3, epoch=epoch, window=window)
    assert sorted(order.tolist()) == list(range(sum(sizes)))
    assert np.array_equal(order, epoch_order(shard_of, seed=3, epoch=epoch, window=window))


def test_each_epoch_and_each_seed_has_its_own_order() -> None:
    shard_of = shards([50] * 6)
    orders = {
        tuple(epoch_order(shard_of, seed=seed, epoch=epoch)) for seed in (0, 1) for epoch in (0, 1)
    }
    assert len(orders) == 4


def test_a_window_is_read_before_the_next_begins() -> None:
    shard_of = shards([10] * 8)
    order = epoch_order(shard_of, seed=0, epoch=0, window=20)
    windows = [set(shard_of[part]) for part in order.reshape(4, 20)]
    assert sum(len(window) for window in windows) == 8


@pytest.mark.parametrize("balance", ["oversample", "undersample"])
@given(counts=st.lists(st.integers(1, 30), min_size=2, max_size=7), epoch=st.integers(0, 3))
def test_balanced_epochs_hold_each_class_equally_often(
    balance: str, counts: list[int], epoch: int
) -> None:
    classes = np.repeat(np.arange(len(counts)), counts)
    chosen = choose_rows(len(classes), classes, balance=balance, seed=1, epoch=epoch)  # type: ignore[arg-type]
    target = max(counts) if balance == "oversample" else min(counts)
    assert np.bincount(classes[chosen]).tolist() == [target] * len(counts)
    often = np.bincount(chosen, minlength=len(classes))
    if balance == "undersample":
        assert often.max() == 1
    else:
        largest = classes == int(np.argmax(counts))
        assert set(often[largest]) == {1}
        assert all(np.ptp(often[classes == each]) <= 1 for each in range(len(counts)))
