"""Training beside a W&B server that is well, refuses, stalls, drops connections or falls silent."""

import gzip
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

KEY = "0123456789abcdef" * 2 + "c0ffee00"
"""A made-up API key of the right length."""


class Handler(BaseHTTPRequestHandler):
    server: "WandbServer"
    protocol_version = "HTTP/1.1"

    def log_message(self, *words): ...

    def handle_one_request(self):
        if self.server.manner == "stall":
            self.server.closing.wait()
        if self.server.manner in ("stall", "drop"):
            self.close_connection = True
            return
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def do_GET(self):
        self.answer({})

    do_PUT = do_GET

    def do_POST(self):
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            sent = gzip.decompress(sent)
        if self.path.endswith("/graphql"):
            self.answer(self.server.reply(json.loads(sent)))
            return
        if self.path.endswith("/file_stream"):
            files = json.loads(sent).get("files", {})
            lines = files.get("wandb-history.jsonl", {}).get("content", [])
            self.server.rows += map(json.loads, lines)
            if self.server.manner == "silent" and lines:
                self.server.manner = "stall"
                self.server.closing.wait()
        self.answer({})

    def answer(self, reply: dict):
        content = json.dumps(reply).encode()
        self.send_response(500 if self.server.manner == "error" else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class WandbServer(ThreadingHTTPServer):
    """Speaks enough of W&B's protocol for a run to start and send its rows, or misbehaves.

    Requests that a training does not depend on are refused by a GraphQL error.
    ``manner``: "well"; "stall" (takes connections, never answers); "drop" (closes them at once);
    "error" (status 500); "deny" (refuses every GraphQL request); "silent" (well until the first
    rows have come, then like "stall").
    """

    daemon_threads = True

    def __init__(self, manner: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.manner, self.closing = manner, threading.Event()
        self.rows: list[dict] = []
        """History that was received, in order."""
        self.runs: list[dict] = []
        """Variables of the requests that create or change a run."""
        self.artifacts: dict[str, dict] = {}
        """Variables of the last request to create an artifact, by type."""
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def reply(self, question: dict) -> dict:
        given = question.get("variables") or {}
        name = re.findall(r"(?:query|mutation) (\w+)", question["query"])[0]
        if name == "CreateArtifact":
            self.artifacts[given["input"]["artifactTypeName"]] = given["input"]
        data = None if self.manner == "deny" else self.data(name, given)
        return {"data": data} if data else {"data": None, "errors": [{"message": "unknown"}]}

    def data(self, name: str, given: dict) -> dict | None:
        match name:
            case "Viewer":
                return {"viewer": {"id": "u", "entity": "e", "username": "u", "flags": "{}"}}
            case "RunResumeStatus":
                return {"model": self.stored()}
            case "UpsertBucket":
                self.runs.append(given)
                project = {"id": "p", "name": "p", "entity": {"id": "e", "name": "e"}}
                bucket = {"id": "r", "name": given["name"], "displayName": "run"}
                bucket |= {"project": project, "sweepName": ""}
                return {"upsertBucket": {"bucket": bucket, "inserted": True}}
            case "CreateRunFiles":
                files = [{"name": n, "uploadUrl": f"{self.url}/put"} for n in given["files"]]
                return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        return None

    def stored(self) -> dict | None:
        """What the server has of the run."""
        if not self.rows:
            return None
        bucket = {"id": "r", "name": self.runs[0]["name"], "displayName": "run", "config": "{}"}
        tail = json.dumps([json.dumps(self.rows[-1])])
        bucket |= {"historyLineCount": len(self.rows), "eventsLineCount": 0, "logLineCount": 0}
        bucket |= {"historyTail": tail, "eventsTail": "[]", "summaryMetrics": "{}"}
        bucket |= {"tags": [], "notes": "", "wandbConfig": '{"t": 1}'}
        return {"id": "p", "name": "p", "entity": {"id": "e", "name": "e"}, "bucket": bucket}

    def close(self) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()


def logged_in(url: str) -> dict[str, str]:
    """The environment of somebody who is logged in to ``url``, with little patience."""
    env = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": url, "WANDB_MODE": "online"}
    return {**env, "WANDB_FINISH_TIMEOUT": "5", "WANDB_INIT_TIMEOUT": "10"}


@pytest.fixture
def server():
    made = []

    def make(manner: str) -> WandbServer:
        made.append(WandbServer(manner))
        return made[-1]

    yield make
    for each in made:
        each.close()


def holds_no_key(folder: Path) -> bool:
    """Whether no file of a run has the key, or any stretch of it, in it."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    return not any(KEY[8:32].encode() in path.read_bytes() for path in files)


FLAGS = ("--tracker", "wandb", "--epochs", "2", "--mixed-precision", "no")
POINTS = [10, 13, 20, 26]
"""Steps of the points of two epochs: every tenth, and the ends of epochs."""


def steps(rows: list[dict]) -> list[int]:
    return [row["step"] for row in rows]


@pytest.fixture(scope="module")
def calm(train, tiny, tmp_path_factory):
    """history.csv of the same training without a tracker."""
    run = tmp_path_factory.mktemp("calm")
    assert train(*tiny, *FLAGS, "--tracker", "none", "--run-dir", run).codes == [0]
    return (run / "history.csv").read_bytes()


@pytest.mark.parametrize(
    "manner", ["refuse", "drop", "error", "deny", pytest.param("stall", marks=pytest.mark.slow)]
)
def test_training_is_tracked_offline_beside_a_server_that_is_of_no_use(
    train, tiny, tmp_path, server, read_wandb, calm, manner
):
    url = "http://127.0.0.1:9" if manner == "refuse" else server(manner).url
    outcome = train(*tiny, *FLAGS, "--run-dir", tmp_path, env=logged_in(url))
    assert outcome.codes == [0], outcome.text
    assert (tmp_path / "history.csv").read_bytes() == calm
    assert steps(read_wandb(tmp_path).rows) == POINTS
    assert list(tmp_path.glob("wandb/offline-run-*"))
    (line,) = [line for line in outcome.text.splitlines() if "warning: W&B" in line]
    assert f"{url} cannot be used" in line and "written offline, `wandb sync` sends it" in line
    assert "Traceback" not in outcome.text and KEY not in outcome.text
    assert holds_no_key(tmp_path)


@pytest.mark.slow
def test_server_gets_each_row_once_and_the_lineage(train, tiny, tmp_path, server, calm):
    beside = server("well")
    flags = [*tiny, *FLAGS, "--run-dir", tmp_path, "--group", "moles"]
    outcome = train(*flags, env=logged_in(beside.url))
    assert outcome.codes == [0], outcome.text
    assert (tmp_path / "history.csv").read_bytes() == calm
    assert steps(beside.rows) == POINTS
    assert [row["_step"] for row in beside.rows] == [6 * step for step in POINTS]
    assert beside.runs[0]["groupName"] == "moles" and beside.runs[0]["jobType"] == "train"
    assert "offline" not in outcome.text and "tracking failed" not in outcome.text
    assert "curves and pictures" not in outcome.text and KEY not in outcome.text
    model, shards = beside.artifacts["model"], beside.artifacts["dataset"]
    assert {alias["alias"] for alias in model["aliases"]} == {"best", "latest"}
    assert shards["artifactCollectionName"] == "shards-packed"
    assert holds_no_key(tmp_path)


@pytest.mark.slow
def test_server_that_falls_silent_does_not_delay_the_training(
    train, tiny, tmp_path, server, calm, read_wandb
):
    beside = server("silent")
    outcome = train(*tiny, *FLAGS, "--run-dir", tmp_path, env=logged_in(beside.url))
    assert outcome.codes == [0], outcome.text
    assert (tmp_path / "history.csv").read_bytes() == calm
    assert steps(read_wandb(tmp_path).rows) == POINTS  # for wandb sync


@pytest.mark.slow
def test_killed_online_run_continues_from_what_the_server_has(train, tiny, tmp_path, server, calm):
    beside = server("well")
    flags = [*tiny, *FLAGS, "--run-dir", tmp_path, "--checkpoint-steps", 4]
    assert train(*flags, die=[0, "step", "24"], env=logged_in(beside.url)).codes == [-9]
    give_up = time.monotonic() + 20  # the service may send what it still has
    while not beside.rows and time.monotonic() < give_up:
        time.sleep(0.1)
    time.sleep(1)
    assert train(*flags, env=logged_in(beside.url)).codes == [0]
    assert steps(beside.rows) == POINTS
    assert (tmp_path / "history.csv").read_bytes() == calm
