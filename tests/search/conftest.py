"""A desk: starts searches whose trainings take milliseconds, and shows what they started."""

import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FAKE = HERE / "fake_training.py"


@dataclass
class Desk:
    """Where a test starts searches and sees what they started."""

    ask: Callable[[dict], int]
    folder: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def study(self) -> Path:
        return self.folder / "study"

    @property
    def manifest(self) -> Path:
        return self.folder / "shards" / "manifest.json"

    def start(self, *words: object, name: str = "log", draw: bool = False) -> int:
        if not self.manifest.exists():
            self.manifest.parent.mkdir()
            self.manifest.write_text("{}")
        flags = ["--out", self.study, "--shards", self.manifest.parent]
        argv = [*flags, "--command", f"python {FAKE}", *words]
        env = {"FAKE_DIARY": str(self.folder / "diary"), **self.env}
        log = str(self.folder / name)
        return self.ask({"start": list(map(str, argv)), "log": log, "env": env, "draw": draw})

    def wait(self, pid: int) -> int:
        return self.ask({"wait": pid})

    def run(self, *words: object, draw: bool = False) -> int:
        return self.wait(self.start(*words, draw=draw))

    def said(self, name: str = "log") -> str:
        path = self.folder / name
        return path.read_text() if path.exists() else ""

    def diary(self) -> list[list[str]]:
        """Lines of: folder, event, process, epochs in the table."""
        path = self.folder / "diary"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def events(self, folder: str) -> list[str]:
        return [event.partition("[")[0] for name, event, *_ in self.diary() if name == folder]

    def starts(self, folder: str) -> list[tuple[str, int]]:
        """Flags of each start of a trial, and the epochs that were trained before."""
        lines = [line for line in self.diary() if line[0] == folder and "[" in line[1]]
        flags = [line[1][len("start[") : -1].replace("|", " ") for line in lines]
        return list(zip(flags, [int(line[3]) for line in lines], strict=True))

    def let_go(self) -> None:
        """End FAKE_STALL."""
        (self.folder / "diary.go").touch()

    def table(self) -> pd.DataFrame:
        return pd.read_csv(self.study / "trials.csv").set_index("trial").sort_index()

    def until(self, holds: Callable[[], object]) -> None:
        give_up = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < give_up, self.said()
            time.sleep(0.02)

    def trainings(self) -> list[int]:
        """Processes of trainings of this test that are alive."""
        mark, found = f"FAKE_DIARY={self.folder}/".encode(), []
        for pid in [p.name for p in Path("/proc").iterdir() if p.name.isdigit()]:
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                ours = mark in Path(f"/proc/{pid}/environ").read_bytes()
            except OSError:
                continue
            if ours and words[1:2] == [str(FAKE).encode()]:
                found.append(int(pid))
        return found


@pytest.fixture(scope="session")
def pad() -> Iterator[Callable[[dict], int]]:
    process = subprocess.Popen(
        [sys.executable, str(HERE / "search_pad.py")],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin and process.stdout
    stdin, stdout = process.stdin, process.stdout

    def ask(order: dict) -> int:
        stdin.write(json.dumps(order) + "\n")
        stdin.flush()
        return json.loads(stdout.readline())

    yield ask
    stdin.close()
    process.wait(timeout=30)


@pytest.fixture
def desk(pad: Callable[[dict], int], tmp_path: Path) -> Desk:
    return Desk(pad, tmp_path)


@pytest.fixture
def other_desk(pad: Callable[[dict], int], tmp_path: Path) -> Desk:
    folder = tmp_path / "other"
    folder.mkdir()
    return Desk(pad, folder)


# -- databases


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


@pytest.fixture(params=["postgresql", "sqlite"])
def either(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Flags of a study of the test's own, on a server or in STUDY/study.db."""
    if request.param == "sqlite":
        return ()
    server = request.getfixturevalue("server")
    return ("--storage", server.url, "--study-name", request.node.name)
