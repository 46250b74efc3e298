"""Points arrive once whatever is killed; a tracker that fails or hangs costs a warning."""

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import DataError
from pipeline.tracking.journal import KEPT_POINTS, PointJournal, Tracker
from pipeline.tracking.tracker import BackgroundTracker, run_id


class Memory(Tracker):
    """A tracker whose store outlives it; a kill can lose the last points."""

    def __init__(self, store: list[int]) -> None:
        self.store, self.delivered = store, max(store, default=-1)

    def log(self, point, views):
        self.store.append(point["samples"])


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9), st.integers(0, 5)), max_size=6),
    st.integers(1, 9),
)
def test_whatever_is_killed_each_point_arrives_once(lives, last):
    store: list[int] = []
    reached, farthest, saved = 0, 0, []
    for steps, checkpoint_at, lost in lives:
        points = [dict(point) for point in saved]
        journal = PointJournal(Memory(store), points)
        for number in range(1, steps + 1):
            journal.add(reached + number, {"loss": 1.0})
            if number == checkpoint_at:
                kept, saved = reached + number, [dict(point) for point in points]
        farthest = max(farthest, reached + steps)
        if checkpoint_at and checkpoint_at <= steps:
            reached = kept
        del store[len(store) - min(lost, len(store)) :]  # never reached the disk
    journal = PointJournal(Memory(store), saved)
    for samples in range(reached + 1, farthest + last + 1):
        journal.add(samples, {"loss": 1.0})
    journal.close(0, model=Path())
    assert store == list(range(1, farthest + last + 1))


def test_points_in_a_checkpoint_stay_few():
    points: list[dict] = []
    journal = PointJournal(Memory([]), points)
    for number in range(1, KEPT_POINTS + 50):
        journal.add(number, {})
    assert len(points) == KEPT_POINTS and points[-1]["samples"] == KEPT_POINTS + 49


def test_failing_tracker_costs_one_warning_and_is_switched_off(capsys):
    class Broken(Memory):
        def log(self, point, views):
            raise BrokenPipeError("the service is gone")

    tracker = BackgroundTracker(lambda: Broken([]))
    for _ in range(3):
        tracker.log({"samples": 1}, None)
    tracker.finish()
    assert capsys.readouterr().err.count("the service is gone") == 1
    BackgroundTracker(lambda: 1 / 0).finish()  # type: ignore[arg-type]
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_tracker_that_hangs_delays_nothing(capsys):
    hang = threading.Event()

    class Hanging(Memory):
        def log(self, point, views):
            hang.wait()

    tracker = BackgroundTracker(lambda: Hanging([]), patience=0.1)
    for number in range(100):
        tracker.log({"samples": number}, None)
    tracker.finish()
    assert "is not done after" in capsys.readouterr().err
    hang.set()


def test_id_of_the_wandb_run_is_made_once(tmp_path):
    made = run_id(tmp_path)
    assert made == run_id(tmp_path) == (tmp_path / "wandb_id.txt").read_text().strip()
    assert len(made) == 16 and made.isalnum()


def test_a_damaged_id_of_the_wandb_run_is_refused_and_an_earlier_versions_is_taken(tmp_path):
    path = tmp_path / "wandb_id.txt"
    made = run_id(tmp_path)
    path.write_text(f"{made[:3]}{'1' if made[3] == '0' else '0'}{made[4:]}\n")
    with pytest.raises(DataError, match=r"wandb_id\.txt: damaged: .*remove it"):
        run_id(tmp_path)
    path.write_text("0123abcd\n")
    assert run_id(tmp_path) == "0123abcd"
