"""Training beside a W&B server that is well, refuses, stalls, drops connections, falls silent."""

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KEY = "0123456789abcdef" * 2 + "c0ffee00"
"""A made-up key of the right length."""


class Handler(BaseHTTPRequestHandler):
    """What the server does with a connection."""

    server: "Listener"
    protocol_version = "HTTP/1.1"

    def log_message(self, *words): ...

    def handle_one_request(self):
        if self.server.outer.manner == "drop":
            self.close_connection = True
            return
        if self.server.outer.manner == "stall":
            self.server.outer.over.wait()
            self.close_connection = True
            return
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def do_GET(self):
        self.answer({})

    def do_PUT(self):
        self.body()
        self.answer({})

    def do_POST(self):
        sent = self.body()
        if self.path.endswith("/file_stream"):
            self.server.outer.take(json.loads(sent))
            if self.server.outer.manner == "silent" and self.server.outer.rows:
                self.server.outer.manner = "stall"
                self.server.outer.over.wait()
            self.answer({})
        elif self.path.endswith("/graphql"):
            question = json.loads(sent)
            self.answer({"data": self.server.outer.reply(question)})
        else:
            self.answer({})

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        zipped = self.headers.get("Content-Encoding") == "gzip"
        return gzip.decompress(content) if zipped else content

    def answer(self, reply):
        content = json.dumps(reply).encode()
        self.send_response(500 if self.server.outer.manner == "error" else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class Listener(ThreadingHTTPServer):
    """Knows whose connections it takes."""

    daemon_threads = True
    outer: "Server"


class Server:
    """Speaks enough of W&B's protocol for a run, or misbehaves.

    ``manner``: "well"; "stall" (takes connections, never answers); "drop" (closes them at once);
    "error" (status 500); "silent" (well until the first rows have come, then like "stall").
    """

    def __init__(self, manner: str) -> None:
        self.manner, self.over = manner, threading.Event()
        self.rows: list[dict] = []
        self.operations: list[tuple[str, dict]] = []
        self.runs: list[dict] = []
        self.http = Listener(("127.0.0.1", 0), Handler)
        self.http.outer = self
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def take(self, sent: dict) -> None:
        lines = sent.get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
        self.rows += [json.loads(line) for line in lines]

    def reply(self, question: dict) -> dict:
        given = question.get("variables") or {}
        name = re.findall(r"(?:query|mutation) (\w+)", question["query"])[0]
        self.operations.append((name, given))
        put, artifact = f"{self.url}/put", {"id": "a", "digest": "d", "state": "PENDING"}
        where = {"id": "p", "name": "p", "entity": {"id": "e", "name": "e"}}
        match name:
            case "UpsertBucket":
                self.runs.append(given)
                bucket = {"id": "r", "name": given["name"], "displayName": "run", "project": where}
                found = {"bucket": {**bucket, "sweepName": ""}, "inserted": True}
            case "CreateRunFiles":
                files = [{"name": n, "uploadUrl": put} for n in given["files"]]
                found = {"runID": "r", "uploadHeaders": [], "files": files}
            case "CreateArtifact":
                sequence = {"id": "s", "name": "s", "latestArtifact": None}
                found = {"artifact": {**artifact, "aliases": [], "artifactSequence": sequence}}
            case "CreateArtifactManifest":
                file = {"id": "f", "name": "m", "uploadUrl": put, "uploadHeaders": []}
                found = {"artifactManifest": {"id": "m", "file": file}}
            case "CreateArtifactFiles":
                upload = {"uploadUrl": put, "uploadHeaders": [], "artifact": {"id": "a"}}
                nodes = [{"id": "f", **f, **upload} for f in given["input"]["artifactFiles"]]
                found = {"files": {"edges": [{"node": {**n, "storagePath": "x"}} for n in nodes]}}
            case "CommitArtifact":
                found = {"artifact": artifact}
            case "RunResumeStatus":
                return {"model": self.stored(where)}
            case "Viewer":
                return {"viewer": {"id": "u", "entity": "e", "username": "u", "flags": "{}"}}
            case "ArtifactType":
                return {"project": {"artifact": None}}
            case _:
                return {}
        return {name[0].lower() + name[1:]: found}

    def stored(self, where: dict) -> dict | None:
        """What the server holds of the run."""
        if not self.rows:
            return None
        bucket = {"id": "r", "name": self.runs[0]["name"], "displayName": "run", "config": "{}"}
        tail = json.dumps([json.dumps(self.rows[-1])])
        lines = {"historyLineCount": len(self.rows), "eventsLineCount": 0, "logLineCount": 0}
        bucket |= {**lines, "historyTail": tail, "eventsTail": "[]", "summaryMetrics": "{}"}
        return {**where, "bucket": {**bucket, "tags": [], "notes": "", "wandbConfig": '{"t": 1}'}}

    def close(self) -> None:
        self.over.set()
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server():
    made = []

    def make(manner: str) -> Server:
        made.append(Server(manner))
        return made[-1]

    yield make
    for each in made:
        each.close()


def surroundings(url: str) -> dict[str, str]:
    """Logged in to ``url``, with little patience at the end."""
    env = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": url, "WANDB_MODE": "online"}
    return {**env, "WANDB_FINISH_TIMEOUT": "5", "WANDB_INIT_TIMEOUT": "10"}


def holds_no_key(folder: Path) -> bool:
    """Whether no file of a run has the key, or any stretch of it, in it."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    return not any(KEY[8:32].encode() in path.read_bytes() for path in files)


def steps(rows: list[dict]) -> list[int]:
    return [row["step"] for row in rows if "train/loss" in row]


TRACKED = ("--tracker", "wandb", "--epochs", "2", "--log-steps", "1")


@pytest.fixture(scope="module")
def calm(train, tiny, tmp_path_factory):
    """history.csv of the same training without a tracker."""
    run = tmp_path_factory.mktemp("calm")
    assert train(*tiny, *TRACKED, "--tracker", "none", "--run-dir", run).codes == [0]
    return (run / "history.csv").read_bytes()


@pytest.mark.parametrize(
    "manner", ["refuse", pytest.param("stall", marks=pytest.mark.slow), "drop", "error"]
)
def test_training_goes_on_offline_beside_a_server_that_does_not_answer(
    train, tiny, tmp_path, server, read_wandb, calm, manner
):
    url = "http://127.0.0.1:9" if manner == "refuse" else server(manner).url
    outcome = train(*tiny, *TRACKED, "--run-dir", tmp_path, env=surroundings(url))
    assert outcome.codes == [0], outcome.text
    assert (tmp_path / "history.csv").read_bytes() == calm
    assert steps(read_wandb(tmp_path).rows) == list(range(1, 27))
    assert list(tmp_path.glob("wandb/offline-run-*"))
    assert "does not answer; the run is written offline" in outcome.text
    assert "Traceback" not in outcome.text and KEY not in outcome.text
    assert holds_no_key(tmp_path)


@pytest.mark.slow
def test_server_that_is_well_gets_each_row_once_and_the_lineage(
    train, tiny, tmp_path, server, calm, read_wandb
):
    beside = server("well")
    flags = [*tiny, *TRACKED, "--run-dir", tmp_path, "--group", "moles"]
    outcome = train(*flags, env=surroundings(beside.url))
    assert outcome.codes == [0], outcome.text
    assert (tmp_path / "history.csv").read_bytes() == calm
    assert steps(beside.rows) == list(range(1, 27))
    assert [row["_step"] for row in beside.rows] == [6 * step for step in range(1, 27)]
    assert beside.runs[0]["groupName"] == "moles" and beside.runs[0]["jobType"] == "train"
    assert "offline" not in outcome.text and "tracking failed" not in outcome.text
    assert "curves and pictures" not in outcome.text
    assert KEY not in outcome.text
    made = {g["input"]["artifactTypeName"]: g["input"] for n, g in beside.operations
            if n == "CreateArtifact"}  # fmt: skip
    assert {alias["alias"] for alias in made["model"]["aliases"]} == {"best", "latest"}
    assert made["dataset"]["artifactCollectionName"] == "shards-packed"
    assert "UseArtifact" in {name for name, _ in beside.operations}
    assert holds_no_key(tmp_path)


@pytest.mark.slow
def test_server_that_falls_silent_does_not_hold_the_training_up(
    train, tiny, tmp_path, server, calm, read_wandb
):
    beside = server("silent")
    outcome = train(*tiny, *TRACKED, "--run-dir", tmp_path, env=surroundings(beside.url))
    assert outcome.codes == [0], outcome.text
    assert (tmp_path / "history.csv").read_bytes() == calm
    assert steps(read_wandb(tmp_path).rows) == list(range(1, 27))  # to be sent by wandb sync


@pytest.mark.slow
def test_killed_online_run_goes_on_where_the_server_stands(train, tiny, tmp_path, server, calm):
    beside = server("well")
    flags = [*tiny, *TRACKED, "--run-dir", tmp_path, "--checkpoint-steps", 4]
    assert train(*flags, die=[0, "step", 18], env=surroundings(beside.url)).codes == [-9]
    give_up = time.monotonic() + 20  # the service may send what it still has
    while not beside.rows and time.monotonic() < give_up:
        time.sleep(0.1)
    time.sleep(1)
    assert train(*flags, env=surroundings(beside.url)).codes == [0]
    assert steps(beside.rows) == list(range(1, 27))
    assert (tmp_path / "history.csv").read_bytes() == calm


@pytest.fixture
def inherited():
    """The environment of a process whose parent, as a notebook or this one, has used W&B."""
    begin = "import os, wandb; wandb.setup().ensure_service(); print(os.environ['WANDB_SERVICE'])"
    parent = subprocess.Popen(
        [sys.executable, "-c", f"{begin}; import sys; sys.stdout.flush(); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdin and parent.stdout
    yield {**os.environ, "WANDB_SERVICE": parent.stdout.readline().strip()}
    parent.stdin.close()
    parent.wait(timeout=60)


@pytest.mark.slow
def test_killed_with_all_its_processes_and_started_again_by_the_same_command(
    tiny, tmp_path, read_wandb, inherited
):
    command = [sys.executable, "train.py", *tiny, *TRACKED, "--run-dir", str(tmp_path)]
    command += ["--epochs", "6", "--checkpoint-steps", "4", "--wandb", "offline"]
    for reached in (6, 30):
        process = subprocess.Popen(
            command, cwd=ROOT, env=inherited, stdout=subprocess.DEVNULL, start_new_session=True
        )
        give_up = time.monotonic() + 120
        folders = tmp_path / "checkpoints"
        while not any(int(p.name[5:]) >= reached for p in folders.glob("step-*")):
            assert process.poll() is None and time.monotonic() < give_up
            time.sleep(0.01)
        service = children(process.pid)
        os.killpg(process.pid, signal.SIGKILL)
        for pid in service:  # W&B's own process has a group of its own
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait()
    assert subprocess.run(command, cwd=ROOT, env=inherited, check=False).returncode == 0
    said = read_wandb(tmp_path)
    assert len({run.run_id for run in said.runs}) == 1
    assert steps(said.rows) == list(range(1, 6 * 13 + 1))
    assert [row["epoch"] for row in said.rows if "epoch" in row] == [1, 2, 3, 4, 5, 6]


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
def test_training_goes_on_when_the_service_dies(tiny, tmp_path, calm):
    command = [sys.executable, "train.py", *tiny, *TRACKED, "--run-dir", str(tmp_path)]
    command += ["--epochs", "4", "--wandb", "offline"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    give_up = time.monotonic() + 120
    while not list((tmp_path / "checkpoints").glob("step-*")):
        assert process.poll() is None and time.monotonic() < give_up
        time.sleep(0.01)
    for pid in children(process.pid):
        if b"wandb-core" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert errors.count("tracking failed and is left out") == 1
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 5
