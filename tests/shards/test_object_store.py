"""Object storage over HTTP: an S3 server on loopback, and the same bytes as on a disk."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError

from pipeline.errors import DataError
from pipeline.shards.dataset import open_shards
from pipeline.shards.intact import ensure_intact
from pipeline.shards.storage.object_store import (
    ObjectStore,
    cached,
    is_remote,
    mirrored,
    reason_of,
    store_for,
)
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
    assert str(store_for(Path("memory://bucket/a/"))) == "memory://bucket/a"
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


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(5, ""), "OSError"),
        (PermissionError(13, "Access Denied"), "[Errno 13] Access Denied"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_an_error_without_text_is_named_by_its_type(error: OSError, reason: str) -> None:
    assert reason_of(error) == reason


def test_a_refusal_without_text_names_the_http_status() -> None:
    refused = ClientError({"ResponseMetadata": {"HTTPStatusCode": 503}}, "GetObject")
    error = OSError(5, "")
    error.__cause__ = refused
    assert reason_of(error) == "ClientError, HTTP status 503"


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
