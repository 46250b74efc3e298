"""Searches that share a study on a real PostgreSQL server, which the test starts by itself."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SHORT = ("--only", "lr", "--epochs", 3, "--pruner", "none")
LONG = ("--only", "lr", "--epochs", 12, "--pruner", "none")


@dataclass
class Server:
    """A cluster on a loopback port, as an unprivileged user."""

    url: str
    control: Callable[..., None]


def account() -> str | None:
    """PostgreSQL refuses root: the user to run it as, None for the present one."""
    if os.getuid():
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in names)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    pytest.importorskip("psycopg", reason="no driver: pip install 'dermpipe[postgres]'")
    found = [*sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")), shutil.which("initdb")]
    if not (programs := [Path(path) for path in found if path]):
        pytest.skip("no PostgreSQL server installed: apt-get install postgresql")
    user = account()
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    if user:
        shutil.chown(folder, user)
    data, log = folder / "data", folder / "log"

    def run(program: str, *words: object) -> None:
        command = [str(programs[0].with_name(program)), "-D", str(data), *map(str, words)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(command, cwd=folder, user=user, check=True, timeout=100, **quiet)

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    run("initdb", "--auth=trust", "--username=search", "--no-sync")

    def control(what: str) -> None:
        run("pg_ctl", "-w", "-l", log, "-o", options, "-m", "immediate", what)

    control("start")
    yield Server(f"postgresql://search@127.0.0.1:{port}/postgres", control)
    control("stop")
    shutil.rmtree(folder)


@pytest.fixture
def shared(server: Server, request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Flags of a study of the test's own."""
    return ("--storage", server.url, "--study-name", request.node.name)


def test_eight_trials_by_two_processes_one_of_which_is_killed_in_mid_trial(desk, shared):
    words = (*LONG, "--trials", 8, *shared)
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


def test_process_suspended_past_the_grace_gives_its_trial_up(desk, shared):
    words = (*LONG, "--trials", 1, *shared)
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
