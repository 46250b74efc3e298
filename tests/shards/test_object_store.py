"""Object storage over HTTP: an S3 server on loopback, and the same bytes as on a disk."""

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import boto3
import pytest
from obstore.exceptions import GenericError

from pipeline.errors import DataError
from pipeline.shards.dataset import open_shards
from pipeline.shards.intact import ensure_intact
from pipeline.shards.storage.object_store import (
    ObjectStore,
    cached,
    is_remote,
    mirrored,
    store_for,
)
from pipeline.shards.storage.refusal import reason_of
from pipeline.shards.storage.store import LocalStore

Contents = Callable[[Path], dict[str, bytes]]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(900):
        try:
            opener.open(url + "/moto-api/", timeout=1)
            break
        except OSError:
            assert server.poll() is None, "the S3 server did not start"
            time.sleep(0.1)
    before = dict(os.environ)
    os.environ |= {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }
    boto3.client("s3").create_bucket(Bucket="shards")
    yield url
    server.terminate()
    server.wait(10)
    os.environ.clear()
    os.environ.update(before)


def objects(prefix: str) -> dict[str, bytes]:
    """What lies below a prefix, read with boto3 alone."""
    client = boto3.client("s3")
    found = client.list_objects_v2(Bucket="shards", Prefix=prefix).get("Contents", [])
    return {
        entry["Key"].removeprefix(prefix): client.get_object(Bucket="shards", Key=entry["Key"])[
            "Body"
        ].read()
        for entry in found
    }


def upload(folder: Path, prefix: str) -> None:
    client = boto3.client("s3")
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            key = prefix + path.relative_to(folder).as_posix()
            client.put_object(Bucket="shards", Key=key, Body=path.read_bytes())


def test_urls_and_paths_are_told_apart(tmp_path: Path) -> None:
    assert is_remote("s3://bucket/a") and is_remote(Path("s3://bucket/a"))
    assert not is_remote("shards/ham10000") and not is_remote(tmp_path)
    assert isinstance(store_for(tmp_path), LocalStore)
    assert str(store_for(Path("https://host/a/"))) == "https://host/a"
    with pytest.raises(DataError, match="cannot reach nosuch://x/y"):
        store_for("nosuch://x/y")


def test_a_store_holds_what_was_published_and_nothing_else(endpoint: str) -> None:
    store = ObjectStore("s3://shards/plain")
    assert store.sizes() == {} and store.read("a/b") is None
    store.publish("a/b", b"one")
    store.publish("a/c", b"two")
    store.publish("d", b"")
    assert objects("plain/") == {"a/b": b"one", "a/c": b"two", "d": b""}
    assert store.sizes() == {"a/b": 3, "a/c": 3, "d": 0}
    assert list(store.sizes("a")) == ["a/b", "a/c"]
    for folder in ("plain/", "plain/a/", "plain/empty/"):  # as a console makes them
        boto3.client("s3").put_object(Bucket="shards", Key=folder, Body=b"")
    assert list(store.sizes("a")) == ["a/b", "a/c"]
    assert store.read("a/c") == b"two"
    store.publish("a/b", b"newer")
    assert store.read("a/b") == b"newer"
    store.delete("a")
    store.delete("nothing")
    assert list(store.sizes()) == ["d"]


def test_a_build_in_a_bucket_has_the_bytes_of_one_on_a_disk(
    endpoint: str,
    synthetic_source: Path,
    tmp_path: Path,
    command: Callable[..., subprocess.CompletedProcess[str]],
    contents: Contents,
) -> None:
    words = ["-m", "pipeline.shards", "build", "--source", synthetic_source]
    words += ["--image-size", "32", "--samples-per-shard", "20", "--workers", "2", "--out"]
    for out in (tmp_path / "disk", "s3://shards/built", "s3://shards/built"):
        done = command(*words, out)
        assert done.returncode == 0, done.stderr
    assert objects("built/") == {
        name: data for name, data in contents(tmp_path / "disk").items() if "/." not in f"/{name}"
    }


def test_cached_shards_are_fetched_once_and_proven(
    endpoint: str,
    packed: Path,
    tmp_path: Path,
    contents: Contents,
) -> None:
    upload(packed, "packed/")
    root = cached("s3://shards/packed", tmp_path, progress=False)
    assert contents(root) == contents(packed)
    ensure_intact(open_shards(root), ["train", "val", "test"], progress=False)
    assert len(open_shards(root).samples) == 120
    tar = next(root.glob("train/*.tar"))
    stamps = {path: path.stat().st_mtime_ns for path in root.rglob("*.*")}
    tar.unlink()
    assert cached(Path("s3://shards/packed"), tmp_path, progress=False) == root
    assert contents(root) == contents(packed)
    changed = [p for p in stamps if p.stat().st_mtime_ns != stamps[p]]
    assert {path.name for path in changed} == {tar.name, "manifest.json"}


def test_a_damaged_or_missing_object_is_never_kept(
    endpoint: str, packed: Path, tmp_path: Path
) -> None:
    upload(packed, "damaged/")
    name = next(packed.glob("train/*.tar")).relative_to(packed).as_posix()
    data = (packed / name).read_bytes()
    client = boto3.client("s3")
    client.put_object(Bucket="shards", Key=f"damaged/{name}", Body=data[:-1] + b"x")
    with pytest.raises(DataError, match="is damaged"):
        cached("s3://shards/damaged", tmp_path, progress=False)
    client.delete_object(Bucket="shards", Key=f"damaged/{name}")
    with pytest.raises(DataError, match=f"has no {name}"):
        cached("s3://shards/damaged", tmp_path, progress=False)
    assert not list(tmp_path.rglob(Path(name).name)) and not list(tmp_path.rglob("manifest.json"))
    with pytest.raises(DataError, match="no finished shards"):
        cached("s3://shards/nothing-here", tmp_path, progress=False)


def test_a_source_can_come_from_a_bucket(
    endpoint: str,
    synthetic_source: Path,
    tmp_path: Path,
    contents: Contents,
) -> None:
    upload(synthetic_source, "source/")
    folder = mirrored("s3://shards/source", tmp_path, progress=False)
    assert contents(folder) == contents(synthetic_source)
    shutil.rmtree(folder / "HAM10000_images_part_1")
    mirrored("s3://shards/source", tmp_path, progress=False)
    assert contents(folder) == contents(synthetic_source)


def test_a_missing_bucket_is_one_clear_message(endpoint: str) -> None:
    with pytest.raises(DataError, match=r"cannot write a .*s3://no-such-bucket/x"):
        ObjectStore("s3://no-such-bucket/x").publish("a", b"data")


BODY = bytes(range(256)) * 4000


def answer(head: str, body: bytes = b"") -> bytes:
    return f'HTTP/1.1 {head}\r\nConnection: close\r\nETag: "1"\r\n'.encode() + body


def cut_at_first(request: str) -> bytes:
    """BODY, cut off in the middle, or its rest from the asked place on."""
    asked = re.search(r"range: bytes=(\d+)-", request, re.IGNORECASE)
    start = int(asked[1]) if asked else 0
    rest = BODY[start:]
    span = f"Content-Range: bytes {start}-{len(BODY) - 1}/{len(BODY)}\r\n" if asked else ""
    date = "Last-Modified: Wed, 25 Nov 2026 10:00:00 GMT\r\n"
    head = f"{span}{date}Content-Length: {len(rest)}\r\n\r\n"
    sent = rest if asked else rest[: len(rest) // 2]
    return answer("206 Partial Content" if asked else "200 OK", head.encode() + sent)


def refused(request: str) -> bytes:
    said = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>No.</Message></Error>"
    return answer("403 Forbidden", f"Content-Length: {len(said)}\r\n\r\n".encode() + said)


def refused_without_a_word(request: str) -> bytes:
    return answer("400 ", b"Content-Length: 0\r\n\r\n")


def away_at_first(request: str) -> bytes:
    seen.append(request)
    if len(seen) < 2:
        return answer("503 Slow Down", b"Content-Length: 0\r\n\r\n")
    head = f"Last-Modified: Wed, 25 Nov 2026 10:00:00 GMT\r\nContent-Length: {len(BODY)}\r\n\r\n"
    return answer("200 OK", head.encode() + BODY)


seen: list[str] = []


@pytest.fixture
def store_that(request: pytest.FixtureRequest, endpoint: str) -> Iterator[ObjectStore]:
    """A store on a server that gives one answer a connection."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def serve() -> None:
            with suppress(OSError):
                while True:
                    with server.accept()[0] as connection:
                        connection.sendall(request.param(connection.recv(65536).decode()))

        threading.Thread(target=serve, daemon=True).start()
        os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{server.getsockname()[1]}"
        yield ObjectStore(f"s3://shards/{request.param.__name__}")
        os.environ["AWS_ENDPOINT_URL"] = endpoint


@pytest.mark.parametrize("store_that", [cut_at_first, away_at_first], indirect=True)
def test_a_cut_connection_and_a_store_that_is_away_for_a_moment_do_no_harm(store_that) -> None:
    assert store_that.read("a") == BODY


@pytest.mark.parametrize("store_that", [refused], indirect=True)
def test_a_refusal_is_told_in_the_stores_own_words(store_that) -> None:
    for action in (lambda: store_that.read("a"), lambda: store_that.publish("a", b"1")):
        with pytest.raises(DataError, match=r"cannot \w+ a .*: AccessDenied, No\.;") as refusal:
            action()
        assert "Debug" not in str(refusal.value) and "<" not in str(refusal.value)


@pytest.mark.parametrize("store_that", [refused_without_a_word], indirect=True)
def test_a_refusal_without_a_word_is_named_by_its_status(store_that) -> None:
    with pytest.raises(DataError, match=r"cannot write a \(1 bytes\) to .*: .*\b400\b.*; check"):
        store_that.publish("a", b"1")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "GenericError"),
        ("Generic S3 error: ", "GenericError"),
        (
            "Generic S3 error: \n\nDebug source:\ninner: Status { status: 411,",
            "GenericError, status 411",
        ),
        ("Generic S3 error: <?xml version='1.0'?><Error/>", "GenericError"),
        ("status code: 503: <html><h1>503</h1></html>\n\nDebug", "status code: 503"),
        (
            'HTTP error\n\nDebug source: message: "Connection refused"',
            "HTTP error: Connection refused",
        ),
    ],
)
def test_an_error_is_never_told_without_a_reason(text: str, reason: str) -> None:
    assert reason_of(GenericError(text)) == reason


@pytest.mark.slow
def test_a_store_that_has_gone_is_told_after_seconds_and_named_at_the_end(
    endpoint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ObjectStore("s3://shards/gone-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    gone = ObjectStore("s3://shards/gone-2")
    with pytest.raises(DataError, match=r"cannot read a from .*Connection refused; check"):
        gone.read("a")
    assert "cannot yet read a from s3://shards/gone-2 after 10 s" in capsys.readouterr().err
    assert store.read("a") is None


def test_credentials_and_endpoint_come_from_a_profile_too(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ENDPOINT_URL", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "DEFAULT_REGION"):
        monkeypatch.delenv(f"AWS_{name}")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with pytest.raises(DataError, match=r"no credentials were found; check"):
        ObjectStore("s3://shards/profile-none")
    monkeypatch.setenv("AWS_PROFILE", "lab")
    with pytest.raises(DataError, match=r"profile \(lab\) could not be found"):
        ObjectStore("s3://shards/profile-lab")
    keys = "aws_access_key_id = testing\naws_secret_access_key = testing\n"
    (tmp_path / "config").write_text(f"[profile lab]\n{keys}endpoint_url = {endpoint}\n")
    store = ObjectStore("s3://shards/profile-lab")
    store.publish("a", b"one")
    assert store.read("a") == b"one"


@pytest.mark.slow
def test_training_and_judging_read_shards_from_a_bucket(
    endpoint: str,
    packed: Path,
    tmp_path: Path,
    command: Callable[..., subprocess.CompletedProcess[str]],
    contents: Contents,
) -> None:
    upload(packed, "trained/")
    where = ("--shards", "s3://shards/trained", "--cache", tmp_path / "cache", "--threads", "1")
    size = ("--arch", "resnet18", "--weights", "none", "--image-size", "32", "--epochs", "1")
    run = ("--run-dir", tmp_path / "run", "--batch-size", "8", "--tracker", "none")
    done = command("train.py", *where, *size, *run)
    assert done.returncode == 0, done.stderr
    best = ("--checkpoint", tmp_path / "run" / "best", "--out", tmp_path / "report")
    done = command("eval.py", *where, *best)
    assert done.returncode == 0, done.stderr
    judged = (tmp_path / "report" / "predictions.csv").read_text().splitlines()
    assert len(judged) - 1 == len(open_shards(packed).split("test"))
    assert contents(next((tmp_path / "cache").iterdir())) == contents(packed)
