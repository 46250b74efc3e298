"""What a training says when it waits for data."""

import time
from collections.abc import Callable, Iterator

import pandas as pd
import pytest
import torch

from pipeline.loading.batch import Batch
from pipeline.training.pace import Pace, advice

BATCHES = 20
EMPTY = Batch(torch.empty(0), torch.empty(0), ("a",))

Busy = Callable[[float], None]


def test_slow_loader_is_reported_with_what_helps(train, tiny, tmp_path):
    outcome = train(*tiny, "--epochs", 2, "--run-dir", tmp_path, die=[0, "slow", 60])
    assert outcome.codes == [0], outcome.text
    (line,) = [line for line in outcome.text.splitlines() if "waiting for data:" in line]
    for flag in ("--threads", "--image-size", "--backend", "--cache"):
        assert flag in line
    timing = pd.read_csv(tmp_path / "timing.csv")
    assert (timing["waiting_share"] > 0.1).all()
    assert timing["images_per_second"].max() < 6 / 0.06  # 6 images a batch, 60 ms each at least
    assert "images/s" in outcome.text


def test_slow_validation_counts_neither_as_training_nor_as_waiting(train, tiny, tmp_path):
    slow = [0, "slow", 4000, "validation"]
    outcome = train(*tiny, "--epochs", 2, "--run-dir", tmp_path, die=slow)
    assert outcome.codes == [0], outcome.text
    timing = pd.read_csv(tmp_path / "timing.csv")
    assert (timing["validation_seconds"] >= 4).all()  # a batch at least
    assert timing["seconds"].iloc[-1] < timing["validation_seconds"].iloc[-1]


def test_what_follows_the_end_of_training_is_not_its_time():
    pace = Pace(torch.device("cpu"))
    for _ in pace.waiting(time.sleep(0.05) or EMPTY for _ in range(4)):
        time.sleep(0.05)
    during = pace.total(1)
    pace.end = time.perf_counter()
    time.sleep(1.5)
    after = pace.total(1)
    assert after["seconds"] == pytest.approx(during["seconds"], abs=0.2)
    assert after["waiting_share"] == pytest.approx(during["waiting_share"], abs=0.1)
    assert after["validation_seconds"] >= 1.5 > during["validation_seconds"]


def test_ten_percent_of_waiting_are_not_reported():
    assert advice(0.1) is None and "11%" in str(advice(0.11))


@pytest.fixture(scope="module")
def busy() -> Busy:
    """Queue work of so many milliseconds on the GPU's current stream."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")

    def milliseconds(cycles: int) -> float:
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        torch.cuda._sleep(cycles)
        ended.record()
        ended.synchronize()
        return began.elapsed_time(ended)

    milliseconds(10**8)  # the clock goes up
    cycles = 10**8 / milliseconds(10**8)
    return lambda wanted: torch.cuda._sleep(int(wanted * cycles))


def host_sleeps(busy: Busy) -> Iterator[Batch]:
    for _ in range(BATCHES):
        time.sleep(0.02)
        yield EMPTY


def stream_waits(busy: Busy) -> Iterator[Batch]:
    side = torch.cuda.Stream()
    for _ in range(BATCHES):
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            busy(15)
        torch.cuda.current_stream().wait_stream(side)
        yield EMPTY


def ready(busy: Busy) -> Iterator[Batch]:
    yield from [EMPTY] * BATCHES


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("loader", "step", "share"),
    [
        (host_sleeps, 5, 0.75),  # 15 of 20 ms
        (host_sleeps, 40, 0.025),  # the first batch alone: the others come while the GPU works
        (stream_waits, 5, 0.75),  # 15 of 20 ms, none of them on the host
        (ready, 5, 0),
    ],
)
def test_a_gpu_waits_where_its_stream_has_no_work_but_the_next_batch(busy, loader, step, share):
    pace = Pace(torch.device("cuda"))
    for number, _ in enumerate(pace.waiting(loader(busy))):
        busy(step)
        if number % 10 == 9:
            assert 0 <= pace.look(1)["waiting_share"] <= 1
    torch.cuda.synchronize()
    assert pace.total(1)["waiting_share"] == pytest.approx(share, abs=0.1)
