"""Searches that are killed, interrupted, stopped, or share a study."""

import os
import signal
import time

import optuna
import pytest

LONG = ("--only", "lr", "augment", "--epochs", 12, "--pruner", "none")
STALLING = {"FAKE_STALL": "3"}


@pytest.mark.parametrize("launcher", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_killed_search_leaves_no_training_and_its_trial_is_retried_in_its_folder(desk, launcher):
    assert desk.run(*LONG, "--trials", 1) == 0, desk.said()
    under = {"FAKE_CHILD": "1"} if launcher else {}
    words, desk.env = (*LONG, "--trials", 3), {**STALLING, **under}
    pid = desk.start(*words)
    desk.until(lambda: "trial 1, epoch 3/" in desk.said())
    os.kill(pid, signal.SIGKILL)
    assert desk.wait(pid) == -signal.SIGKILL
    desk.until(lambda: not desk.trainings())
    assert desk.events("001") == ["start", "saved"]
    desk.env = under
    assert desk.run(*words) == 0, desk.said()
    assert desk.events("000") == ["start", "done"]
    assert desk.events("001") == ["start", "saved", "start", "done"]
    (before, _), (after, epochs) = desk.starts("001")
    assert before == after and epochs >= 3  # the same parameters, from where it was
    assert desk.table()["state"].to_list() == ["complete"] * 3
    assert len({*desk.table().index} - {0, 1}) == 1
    assert len(list((desk.study / "trials").iterdir())) == 3


def test_search_started_again_at_once_waits_for_the_training_that_still_saves(desk):
    desk.env = {**STALLING, "FAKE_HANG": "1"}
    words = (*LONG, "--trials", 1)
    pid = desk.start(*words)
    desk.until(lambda: "epoch 2/" in desk.said())
    os.kill(pid, signal.SIGKILL)
    desk.wait(pid)
    (former,) = desk.trainings()  # it ignores SIGTERM
    desk.env = {}
    again = desk.start(*words)
    desk.until(lambda: former not in desk.trainings() or len(desk.starts("000")) == 2)
    assert former not in desk.trainings()  # two trainings have never shared the folder
    assert desk.wait(again) == 0, desk.said()
    assert desk.events("000") == ["start", "start", "done"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_interrupted_search_saves_its_trial_and_continues_with_it(desk, number, code):
    words, desk.env = (*LONG, "--trials", 2), STALLING
    pid = desk.start(*words)
    desk.until(lambda: "trial 0, epoch 2/" in desk.said())
    os.kill(pid, number)
    assert desk.wait(pid) == code
    assert not desk.trainings() and desk.events("000") == ["start", "saved"]
    assert "the same command continues" in desk.said()
    assert desk.table()["state"].to_list() == ["running"]
    desk.env = {}
    assert desk.run(*words) == 0, desk.said()
    assert desk.events("000") == ["start", "saved", "start", "done"]
    assert desk.table()["state"].to_list() == ["complete"] * 2


@pytest.mark.slow
def test_training_that_somebody_else_terminates_is_started_again(desk):
    desk.env = STALLING
    pid = desk.start(*LONG, "--trials", 1)
    desk.until(lambda: "trial 0, epoch 2/" in desk.said())
    os.kill(desk.trainings()[0], signal.SIGTERM)
    assert desk.wait(pid) == 0, desk.said()
    assert desk.events("000") == ["start", "saved", "start", "done"]


def test_training_that_hung_is_started_again_and_goes_on(desk):
    desk.env = {"FAKE_HUNG": "2"}
    assert desk.run(*LONG, "--trials", 1) == 0, desk.said()
    assert desk.events("000") == ["start", "hung", "start", "hung", "start", "done"]
    assert desk.table()["state"].to_list() == ["complete"]


def test_training_that_hangs_at_each_of_three_starts_has_failed(desk):
    desk.env = {"FAKE_HUNG": "9"}
    assert desk.run(*LONG, "--trials", 1) == 2, desk.said()
    assert desk.events("000") == ["start", "hung"] * 3


def test_trial_that_died_before_its_first_heartbeat_does_not_hold_up_the_study(desk):
    assert desk.run(*LONG, "--trials", 1) == 0, desk.said()
    storage = f"sqlite:///{desk.study}/study.db"
    optuna.load_study(study_name="study", storage=storage).ask()  # and nothing after that
    assert desk.run(*LONG, "--trials", 2) == 0, desk.said()
    assert desk.table()["state"].to_list() == ["complete"] * 2


# -- several processes


def test_two_searches_share_the_trials_and_run_none_twice(desk):
    words = ("--only", "lr", "--epochs", 3, "--pruner", "none", "--trials", 8)
    pids = [desk.start(*words, name=f"log{k}") for k in range(2)]
    assert [desk.wait(pid) for pid in pids] == [0, 0], desk.said("log0") + desk.said("log1")
    starts = [line[0] for line in desk.diary() if "[" in line[1]]
    assert len(starts) == len(set(starts)) and len(starts) in (8, 9)
    shares = [desk.said(f"log{k}").count(": complete, best") for k in range(2)]
    assert sum(shares) == len(starts) and min(shares) >= 1, shares
    assert desk.run(*words) == 0  # there is nothing left to do
    assert len(desk.diary()) == 2 * len(starts) and len(desk.table()) == len(starts)


def test_trial_of_a_process_at_work_is_waited_for_not_taken_over(desk):
    desk.env = STALLING
    first = desk.start(*LONG, "--trials", 1, name="first")
    desk.until(lambda: "trial 0, epoch 3/" in desk.said("first"))
    second = desk.start(*LONG, "--trials", 1, name="second")
    desk.until(lambda: "waiting for 1 running trial" in desk.said("second"))
    time.sleep(5)  # longer than the grace
    desk.let_go()
    assert [desk.wait(first), desk.wait(second)] == [0, 0]
    assert desk.events("000") == ["start", "done"]


def test_process_suspended_past_the_grace_gives_its_trial_up_and_continues_with_others(desk):
    desk.env = STALLING
    first = desk.start(*LONG, "--trials", 3, name="first")
    desk.until(lambda: "trial 0, epoch 3/" in desk.said("first"))
    os.kill(first, signal.SIGSTOP)
    desk.env = {}
    second = desk.start(*LONG, "--trials", 1, name="second")
    desk.until(lambda: "trial 0: lr" in desk.said("second"))  # it waits for the folder
    time.sleep(1)
    assert desk.events("000") == ["start"]
    os.kill(first, signal.SIGCONT)
    desk.until(lambda: "trial 0: stopped: another process" in desk.said("first"))
    desk.until(lambda: "trial 0: complete" in desk.said("second"))
    desk.let_go()
    assert [desk.wait(first), desk.wait(second)] == [0, 0]
    assert "Traceback" not in desk.said("first") + desk.said("second")
    assert desk.events("000") == ["start", "saved", "start", "done"]
    (before, _), (after, epochs) = desk.starts("000")
    assert before == after and epochs >= 3
    assert desk.table()["state"].to_list() == ["complete"] * 3
    assert desk.said("first").count(": complete") == 2  # trials that it has begun since


# -- one folder, one study


@pytest.mark.parametrize("which", ["name", "storage"])
def test_a_folder_that_holds_another_study_is_refused_while_that_runs_and_afterwards(desk, which):
    desk.env = STALLING
    first = desk.start(*LONG, "--trials", 1, name="first")
    desk.until(lambda: "trial 0, epoch 3/" in desk.said("first"))
    other = {
        "name": ("--study-name", "other"),
        "storage": ("--study-name", "study", "--storage", f"sqlite:///{desk.folder}/other.db"),
    }[which]
    words = ("--only", "lr", "--epochs", 3, "--pruner", "none", "--trials", 2, *other)
    second = desk.start(*words, name="second")
    assert desk.wait(second) == 2
    assert f"--out {desk.study} holds the trials of another study ('study')" in desk.said("second")
    assert "Traceback" not in desk.said("second")
    desk.let_go()
    assert desk.wait(first) == 0
    kept = {p: p.read_bytes() for p in desk.study.rglob("*") if p.is_file() and p.suffix != ".db"}
    assert desk.run(*words) == 2
    assert kept == {p: p.read_bytes() for p in kept} and desk.events("000") == ["start", "done"]


def test_a_folder_of_an_earlier_version_goes_on(desk):
    words = ("--only", "lr", "--epochs", 3, "--pruner", "none", "--trials")
    assert desk.run(*words, 1) == 0
    (desk.study / "study.json").unlink()
    assert desk.run(*words, 2) == 0, desk.said()
    assert desk.events("000") == desk.events("001") == ["start", "done"]
