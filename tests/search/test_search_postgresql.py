"""Searches that share a study on a real PostgreSQL server, or in SQLite."""

import os
import signal

import pytest

pytestmark = pytest.mark.slow

SHORT = ("--only", "lr", "--epochs", 3, "--pruner", "none")
LONG = ("--only", "lr", "--epochs", 12, "--pruner", "none")


@pytest.fixture
def shared(server, request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Flags of a study of the test's own."""
    return ("--storage", server.url, "--study-name", request.node.name)


def test_eight_trials_by_two_processes_one_of_which_is_killed_in_mid_trial(desk, either):
    words = (*LONG, "--trials", 8, *either)
    desk.env = {"FAKE_STALL": "3"}
    first = desk.start(*words, name="first")
    desk.until(lambda: "trial 0, epoch 3/" in desk.said("first"))
    desk.env = {"FAKE_SECONDS": "0.05"}
    second = desk.start(*words, name="second")
    desk.until(lambda: "trial 1, epoch 1/" in desk.said("second"))
    os.kill(first, signal.SIGKILL)
    desk.wait(first)
    assert desk.wait(second) == 0, desk.said("second")
    assert desk.events("000") == ["start", "saved", "start", "done"]
    (before, _), (after, epochs) = desk.starts("000")
    assert before == after and epochs >= 3
    assert len(desk.table()) in (8, 9) and set(desk.table()["state"]) == {"complete"}


def test_two_processes_make_the_tables_at_once_and_run_no_trial_twice(desk, shared):
    pids = [desk.start(*SHORT, "--trials", 8, *shared, name=f"log{k}") for k in range(2)]
    assert [desk.wait(pid) for pid in pids] == [0, 0], desk.said("log0") + desk.said("log1")
    starts = [line[0] for line in desk.diary() if "[" in line[1]]
    assert len(starts) == len(set(starts)) == len(desk.table()) and len(starts) in (8, 9)


def test_process_suspended_past_the_grace_gives_its_trial_up(desk, either):
    words = (*LONG, "--trials", 1, *either)
    desk.env = {"FAKE_STALL": "3"}
    first = desk.start(*words, name="first")
    desk.until(lambda: "trial 0, epoch 3/" in desk.said("first"))
    os.kill(first, signal.SIGSTOP)
    second = desk.start(*words, name="second")
    desk.until(lambda: "trial 0: lr" in desk.said("second"))
    os.kill(first, signal.SIGCONT)
    assert [desk.wait(first), desk.wait(second)] == [0, 0]
    assert "another process retries it" in desk.said("first")
    assert desk.events("000") == ["start", "saved", "start", "done"]
    assert desk.table()["state"].to_list() == ["complete"]


def test_restart_of_the_server_does_not_disturb_a_training(desk, server, shared):
    desk.env = {"FAKE_STALL": "3"}
    pid = desk.start(*LONG, "--trials", 2, *shared)
    desk.until(lambda: "trial 0, epoch 3/" in desk.said())
    server.control("stop")
    desk.let_go()
    desk.until(lambda: "done" in desk.events("000"))
    server.control("start")
    assert desk.wait(pid) == 0, desk.said()
    assert desk.events("000") == desk.events("001") == ["start", "done"]
    assert "Traceback" not in desk.said()
    assert desk.table()["state"].to_list() == ["complete"] * 2


def test_server_that_is_not_there_is_named_before_the_first_trial(desk):
    words = (*SHORT, "--storage", "postgresql://nobody@127.0.0.1:1/none")
    pytest.importorskip("psycopg", reason="no driver: pip install 'dermpipe[postgres]'")
    assert desk.run(*words) == 2
    assert "--storage postgresql, --out" in desk.said()
    assert "Traceback" not in desk.said() and not desk.diary()
