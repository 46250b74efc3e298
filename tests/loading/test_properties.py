"""The batches of every rank, for uneven numbers of samples, batches and ranks."""

import json
import math
import os
import socket
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
ACCELERATE = str(Path(sys.executable).with_name("accelerate"))
JUDGE = Path(__file__).with_name("judge_ranks.py")

ANY_SIZES = given(samples=st.integers(1, 30), batch=st.integers(1, 9), ranks=st.integers(1, 5))
FEW = settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)


@pytest.fixture(scope="module")
def splits(split_of, jpeg_of):
    """``splits(n)``: a split of n samples in shards of 4, so the last is seldom full."""
    jpeg = jpeg_of(np.full((12, 16, 3), 90, dtype=np.uint8))
    return lru_cache(lambda samples: split_of([jpeg] * samples, per_shard=4))


def epoch_of_all_ranks(loader, ranks: int, **flags) -> list[list]:
    """Batches of epoch 1 of each rank."""
    found = []
    for rank in range(ranks):
        one = loader(rank=rank, world_size=ranks, image_size=8, threads=1, **flags)
        found.append(list(one.epoch(1)))
        assert len(found[-1]) == one.batches_per_epoch
        one.close()
    return found


@pytest.mark.parametrize("backend", ["dali", "portable"])
@ANY_SIZES
@FEW
def test_evaluation_gives_each_sample_exactly_once(
    loader, splits, backend: str, samples: int, batch: int, ranks: int
) -> None:
    split = splits(samples)
    flags = {"split": split, "phase": "eval", "backend": backend, "batch_size": batch}
    got = epoch_of_all_ranks(loader, ranks, **flags)
    assert {len(batches) for batches in got} == {math.ceil(math.ceil(samples / batch) / ranks)}
    ids = [each for batches in got for one in batches for each in one.image_ids]
    assert sorted(ids) == split.samples["image_id"].to_list()
    for one in (one for batches in got for one in batches):
        assert one.images.shape == (len(one), 3, 8, 8) and one.labels.shape == (len(one),)


@pytest.mark.parametrize("backend", ["dali", "portable"])
@ANY_SIZES
@FEW
def test_training_gives_full_batches_and_no_sample_twice(
    loader, splits, backend: str, samples: int, batch: int, ranks: int
) -> None:
    flags = {"split": splits(samples), "backend": backend, "batch_size": batch}
    if samples < batch * ranks:
        with pytest.raises(DataError, match="too small"):
            epoch_of_all_ranks(loader, ranks, **flags)
        return
    got = epoch_of_all_ranks(loader, ranks, **flags)
    assert {len(batches) for batches in got} == {samples // (batch * ranks)}
    assert {len(one) for batches in got for one in batches} == {batch}
    ids = [each for batches in got for one in batches for each in one.image_ids]
    assert len(ids) == len(set(ids))


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture(scope="module")
def judged(packed: Path, tmp_path_factory: pytest.TempPathFactory):
    """Metrics of one process and of two launched ones (gloo), by number of processes."""
    folder, found = tmp_path_factory.mktemp("judged"), {}
    launch = [ACCELERATE, "launch", "--num_machines", "1", "--main_process_port", free_port()]
    launch += ["--multi_gpu", "--num_processes", "2"]
    for ranks, words in ((1, [sys.executable]), (2, launch)):
        out = folder / f"{ranks}.json"
        done = subprocess.run(
            [*words, str(JUDGE), str(packed), str(out)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found[ranks] = json.loads(out.read_text())
    return found


def test_a_rank_with_an_empty_last_batch_neither_hangs_nor_changes_a_metric(judged) -> None:
    """23 samples: in batches of 8 rank 1 has an empty second one, in batches of 32 only that."""
    assert judged[2]["sizes"] == {"8": [[8, 7], [8, 0]], "32": [[23], [0]]}
    for batch in ("8", "32"):
        alone, together = (judged[ranks]["figures"][batch] for ranks in (1, 2))
        assert len(together["ids"]) == len(set(together["ids"])) == 23
        assert together["ids"] == alone["ids"]
        assert together["logits"] == alone["logits"]
        assert together["metrics"] == alone["metrics"]
        assert all(math.isfinite(value) for value in together["metrics"].values())
