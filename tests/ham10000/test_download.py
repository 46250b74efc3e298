"""Download from a local Dataverse that drops connections, alters bytes and ignores Range."""

import hashlib
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from pipeline.errors import DataError
from pipeline.ham10000.download import download
from pipeline.ham10000.transfer import RETRY

ROOT = Path(__file__).resolve().parents[2]
QUICK = RETRY.new(total=3, backoff_factor=0.001)
ZIP_1, ZIP_2, TABLE = (
    "HAM10000_images_part_1.zip",
    "HAM10000_images_part_2.zip",
    "HAM10000_metadata.csv",
)

REFUSALS = {
    "forbidden": (403, "text/html", b"<html>Forbidden"),
    "challenge": (202, "text/plain", b""),
    "page": (200, "text/html; charset=utf-8", b"<html>Are you a person?"),
}
"""Answers of a firewall: status, kind and content."""


def noise(count: int, seed: int) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, count, dtype=np.uint8).tobytes()


@dataclass
class Deposit:
    """The files of the server, the faults of its next answers, and the requests it got."""

    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    listed_md5: dict[str, str] = field(default_factory=dict)
    first_id: int = 3172000
    url: str = ""

    def ids(self) -> dict[int, str]:
        return {self.first_id + n: name for n, name in enumerate(sorted(self.files))}

    def listing(self) -> dict:
        return {
            "status": "OK",
            "data": [
                {"label": name, "dataFile": self.entry(number, name)}
                for number, name in self.ids().items()
            ],
        }

    def entry(self, number: int, name: str) -> dict:
        data = self.files[name]
        md5 = self.listed_md5.get(name, hashlib.md5(data).hexdigest())
        if name.endswith(".zip"):
            return {"id": number, "filename": name, "filesize": len(data), "md5": md5}
        return {  # an ingested table: listed as .tab, with its original beside
            "id": number,
            "filename": name.replace(".csv", ".tab"),
            "filesize": len(data) + 7,
            "md5": md5,
            "originalFileFormat": "text/csv",
            "originalFileName": name,
            "originalFileSize": len(data),
        }

    def ranges(self, name: str) -> list[str]:
        return [range_ for asked, _, range_ in self.asked if asked == name]


class Handler(BaseHTTPRequestHandler):
    """Answers as Dataverse does, with the faults that ``Deposit.faults`` lists."""

    state: Deposit

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        assert "python-requests" not in self.headers["User-Agent"]  # Harvard's refuses it
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        if parts.path == "/api/datasets/:persistentId/versions/:latest-published/files":
            assert query["persistentId"] == ["doi:10.7910/DVN/DBW86T"]
            return self.list_files()
        name = self.state.ids()[int(parts.path.removeprefix("/api/access/datafile/"))]
        wanted = self.headers.get("Range", "")
        self.state.asked.append((name, parts.query, wanted))
        faults = self.state.faults.get(name, [])
        return self.send_file(name, query, wanted, faults.pop(0) if faults else "")

    def list_files(self) -> None:
        self.state.asked.append(("listing", "", ""))
        faults = self.state.faults.get("listing", [])
        fault = faults.pop(0) if faults else ""
        if fault == "busy":
            return self.send_error(503)
        if fault in REFUSALS:
            return self.refuse(fault)
        body = b"<html>" if fault == "html" else json.dumps(self.state.listing()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        return None

    def refuse(self, fault: str) -> None:
        status, kind, body = REFUSALS[fault]
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_file(self, name: str, query: dict, wanted: str, fault: str) -> None:
        data = self.state.files[name]
        if not name.endswith(".zip") and query.get("format") != ["original"]:
            data = data.replace(b",", b"\t")
        if fault.startswith("busy:"):
            self.send_response(429)
            self.send_header("Retry-After", fault.removeprefix("busy:"))
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if fault == "gone":
            return self.send_error(404)
        if fault in REFUSALS:
            return self.refuse(fault)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if fault == "ignore-range":
            start = 0
        if start >= len(data):
            return self.send_error(416)
        body = data[start:]
        if fault == "corrupt":
            body = bytes([body[0] ^ 1]) + body[1:]
        self.send_response(206 if start or fault == "other-range" else 200)
        if start or fault == "other-range":
            first = start + (fault == "other-range")
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault.startswith("drop:"):
            self.wfile.write(body[: int(fault.removeprefix("drop:"))])
            self.close_connection = True
            return None
        self.wfile.write(body)
        return None


@pytest.fixture
def deposit(monkeypatch: pytest.MonkeyPatch) -> Iterator[Deposit]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    state = Deposit(
        files={
            ZIP_1: noise(3_000_000, 1),
            ZIP_2: noise(1_000_000, 2),
            TABLE: b"lesion_id,image_id\nHAM_1,ISIC_1\n",
            "ISIC2018_Task3_Test_Images.zip": noise(1000, 3),
            "ISIC2018_Task3_Test_GroundTruth.csv": b"image,MEL\nISIC_2,1.0\n",
            "something_else.zip": noise(10, 4),
        }
    )

    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"state": state}))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    server.server_close()


def assert_complete(out: Path, deposit: Deposit, names: tuple[str, ...]) -> None:
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    for name in names:
        assert (out / name).read_bytes() == deposit.files[name]


def test_files_are_found_by_name_not_by_id(tmp_path: Path, deposit: Deposit) -> None:
    deposit.first_id = 77
    download(tmp_path / "ham", base_url=deposit.url, retry=QUICK)
    assert_complete(tmp_path / "ham", deposit, (ZIP_1, ZIP_2, TABLE))


def test_the_official_test_set_is_fetched_on_request(tmp_path: Path, deposit: Deposit) -> None:
    files = download(tmp_path, base_url=deposit.url, retry=QUICK, test_set=True)
    names = set(deposit.files) - {"something_else.zip"}
    assert_complete(tmp_path, deposit, tuple(names))
    assert {path.name for path in files} == names


def test_a_second_run_fetches_nothing_but_the_listing(tmp_path: Path, deposit: Deposit) -> None:
    download(tmp_path, base_url=deposit.url, retry=QUICK)
    deposit.asked.clear()
    download(tmp_path, base_url=deposit.url, retry=QUICK)
    assert [name for name, _, _ in deposit.asked] == ["listing"]


def test_a_dropped_transfer_resumes_where_it_broke(tmp_path: Path, deposit: Deposit) -> None:
    deposit.faults[ZIP_1] = ["drop:1000000", "drop:500000", "busy:0"]
    download(tmp_path, base_url=deposit.url, retry=QUICK)
    assert_complete(tmp_path, deposit, (ZIP_1, ZIP_2, TABLE))
    assert deposit.ranges(ZIP_1) == ["", "bytes=1000000-", "bytes=1500000-", "bytes=1500000-"]


def test_new_bytes_reset_the_count_of_failures(tmp_path: Path, deposit: Deposit) -> None:
    deposit.faults[ZIP_1] = ["drop:100000"] * 12
    download(tmp_path, base_url=deposit.url, retry=QUICK)
    assert_complete(tmp_path, deposit, (ZIP_1, ZIP_2, TABLE))


def test_the_next_run_resumes_the_part_of_the_last_one(tmp_path: Path, deposit: Deposit) -> None:
    deposit.faults[ZIP_1] = ["drop:1200000", *["drop:0"] * 3]
    with pytest.raises(DataError, match=r"broke off 4 times.*1,200,000 bytes are kept"):
        download(tmp_path, base_url=deposit.url, retry=QUICK)
    assert [path.name for path in tmp_path.iterdir()] == [ZIP_1 + ".part"]
    deposit.asked.clear()
    download(tmp_path, base_url=deposit.url, retry=QUICK)
    assert_complete(tmp_path, deposit, (ZIP_1, ZIP_2, TABLE))
    assert deposit.ranges(ZIP_1) == ["bytes=1200000-"]


@pytest.mark.parametrize("fault", ["ignore-range", "other-range", "corrupt"])
def test_an_answer_that_does_not_continue_the_part_is_not_appended(
    tmp_path: Path, deposit: Deposit, fault: str
) -> None:
    deposit.faults[ZIP_1] = ["drop:1000000", fault]
    download(tmp_path, base_url=deposit.url, retry=QUICK)
    assert_complete(tmp_path, deposit, (ZIP_1, ZIP_2, TABLE))


@pytest.mark.parametrize("size", [3_000_000, 3_000_001, 5])
def test_a_part_with_other_content_is_replaced(tmp_path: Path, deposit: Deposit, size: int) -> None:
    (tmp_path / (ZIP_1 + ".part")).write_bytes(b"x" * size)
    download(tmp_path, base_url=deposit.url, retry=QUICK)
    assert_complete(tmp_path, deposit, (ZIP_1, ZIP_2, TABLE))


def test_corrupted_bytes_are_fetched_again_and_never_kept(tmp_path: Path, deposit: Deposit) -> None:
    deposit.faults[ZIP_2] = ["corrupt", "corrupt"]
    download(tmp_path / "good", base_url=deposit.url, retry=QUICK)
    assert_complete(tmp_path / "good", deposit, (ZIP_1, ZIP_2, TABLE))
    deposit.faults[ZIP_2] = ["corrupt"] * 9
    with pytest.raises(DataError, match=r"fetched 3 times and its MD5 is .*, expected"):
        download(tmp_path / "bad", base_url=deposit.url, retry=QUICK)
    assert [path.name for path in (tmp_path / "bad").iterdir()] == [ZIP_1]


def test_a_damaged_file_is_replaced(tmp_path: Path, deposit: Deposit) -> None:
    download(tmp_path, base_url=deposit.url, retry=QUICK)
    (tmp_path / ZIP_2).write_bytes(b"y" * 1_000_000)
    (tmp_path / TABLE).write_bytes(b"")
    download(tmp_path, base_url=deposit.url, retry=QUICK)
    assert_complete(tmp_path, deposit, (ZIP_1, ZIP_2, TABLE))


def test_tables_are_fetched_as_deposited(tmp_path: Path, deposit: Deposit) -> None:
    download(tmp_path, base_url=deposit.url, retry=QUICK)
    assert ("HAM10000_metadata.csv", "format=original", "") in deposit.asked


def test_a_table_may_have_another_digest_than_listed_if_it_is_stable(
    tmp_path: Path, deposit: Deposit, capsys: pytest.CaptureFixture[str]
) -> None:
    deposit.listed_md5[TABLE] = "0" * 32
    download(tmp_path, base_url=deposit.url, retry=QUICK)
    assert_complete(tmp_path, deposit, (ZIP_1, ZIP_2, TABLE))
    assert "warning: HAM10000_metadata.csv has MD5" in capsys.readouterr().err


def test_a_busy_listing_is_asked_again(tmp_path: Path, deposit: Deposit) -> None:
    deposit.faults["listing"] = ["busy", "busy"]
    download(tmp_path, base_url=deposit.url, retry=QUICK)
    assert_complete(tmp_path, deposit, (ZIP_1, ZIP_2, TABLE))


def test_the_wait_that_a_server_asks_for_is_kept(tmp_path: Path, deposit: Deposit) -> None:
    deposit.faults[ZIP_2] = ["busy:1"]
    start = time.monotonic()
    download(tmp_path, base_url=deposit.url, retry=QUICK)
    assert time.monotonic() - start >= 1
    assert_complete(tmp_path, deposit, (ZIP_1, ZIP_2, TABLE))


def test_a_server_that_stays_busy_is_reported(tmp_path: Path, deposit: Deposit) -> None:
    deposit.faults[ZIP_1] = ["busy:0"] * 9
    with pytest.raises(DataError, match=r"429.*the same command again resumes"):
        download(tmp_path, base_url=deposit.url, retry=QUICK)
    assert len(deposit.ranges(ZIP_1)) == 4


def test_permanent_errors_are_reported_at_once(tmp_path: Path, deposit: Deposit) -> None:
    deposit.faults[ZIP_1] = ["gone"]
    with pytest.raises(DataError, match=r"cannot fetch .*404"):
        download(tmp_path, base_url=deposit.url, retry=QUICK)
    assert len(deposit.ranges(ZIP_1)) == 1
    deposit.faults["listing"] = ["html"]
    with pytest.raises(DataError, match="did not answer with a Dataverse file listing"):
        download(tmp_path, base_url=deposit.url, retry=QUICK)
    del deposit.files[ZIP_2]
    with pytest.raises(DataError, match=f"lists no file {ZIP_2}; it lists .*something_else"):
        download(tmp_path, base_url=deposit.url, retry=QUICK)
    with pytest.raises(DataError, match="cannot fetch no-address"):
        download(tmp_path, base_url="no-address", retry=QUICK)
    with pytest.raises(DataError, match="Connection refused"):
        download(tmp_path, base_url="http://127.0.0.1:1", retry=QUICK)


@pytest.mark.parametrize("network", ["closed", "silent"])
def test_without_a_network_the_command_says_so_within_ten_seconds(
    tmp_path: Path, network: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # silent: it never answers
        port = 1 if network == "closed" else server.getsockname()[1]
        words = ["-m", "pipeline.ham10000", "download", "--out", tmp_path / "d"]
        words += ["--base-url", f"http://127.0.0.1:{port}"]
        begun = time.monotonic()
        with subprocess.Popen(
            [sys.executable, *map(str, words)], cwd=ROOT, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr
            line = process.stderr.readline()
            assert time.monotonic() - begun < 10
            process.kill()
    if network == "closed":
        assert line.startswith("error: cannot fetch") and "Connection refused" in line
    else:
        assert line.startswith("warning: no answer from http://127.0.0.1:")
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("fault", REFUSALS)
@pytest.mark.parametrize("asked", ["listing", ZIP_1])
def test_a_firewall_gets_the_way_by_hand(
    tmp_path: Path, deposit: Deposit, fault: str, asked: str
) -> None:
    deposit.faults[asked] = [fault] * 9
    with pytest.raises(DataError, match=rf"(?s){ZIP_1}, {ZIP_2}.*put them.*{tmp_path}") as failure:
        download(tmp_path, base_url=deposit.url, retry=QUICK, test_set=fault == "page")
    assert "in a browser" in str(failure.value)
    assert ("ISIC2018_Task3_Test_GroundTruth" in str(failure.value)) == (fault == "page")
    assert [name for name, _, _ in deposit.asked].count(asked) == 1
    assert not list(tmp_path.iterdir())


def test_the_command_prints_the_licence_and_reports_failure_in_one_message(
    tmp_path: Path, deposit: Deposit, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    out = tmp_path / "d"
    words = ["-m", "pipeline.ham10000", "download", "--out", str(out), "--base-url", deposit.url]
    good = command(*words)
    assert good.returncode == 0, good.stderr
    assert "CC BY-NC 4.0" in good.stdout and "10.1038/sdata.2018.161" in good.stdout
    deposit.faults[ZIP_1] = ["gone"]
    (out / ZIP_1).unlink()
    bad = command(*words)
    assert bad.returncode == 2
    assert "error: " in bad.stderr and "Traceback" not in bad.stderr


def test_a_full_disk_is_reported_and_what_arrived_is_kept(tmp_path: Path, deposit: Deposit) -> None:
    command = f"{sys.executable} -m pipeline.ham10000 download --out {tmp_path}"
    limited = ["bash", "-c", f"ulimit -f 2000; exec {command} --base-url {deposit.url}"]
    done = subprocess.run(limited, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 2
    assert re.search(r"error: cannot write .*part: File too large; make room", done.stderr)
    deposit.asked.clear()
    download(tmp_path, base_url=deposit.url, retry=QUICK)
    assert_complete(tmp_path, deposit, (ZIP_1, ZIP_2, TABLE))
    assert deposit.ranges(ZIP_1) == [f"bytes={2000 * 1024}-"]
