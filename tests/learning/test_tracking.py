"""Weights & Biases offline: what a run writes, read back from its own file."""

import netrc
import struct
import zlib
from pathlib import Path

import pytest
import wandb
from wandb.proto import wandb_internal_pb2

from pipeline.learning.tracking import NullTracker, logged_in, make_tracker

BLOCK = 32768


def records(path: Path):
    """Read a .wandb file: LevelDB's log format, checksummed, with protobuf records."""
    data, place, whole = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while place + 7 <= len(data):
        if BLOCK - place % BLOCK < 7:
            place += BLOCK - place % BLOCK
            continue
        crc, length, kind = struct.unpack("<IHB", data[place : place + 7])
        part = data[place + 7 : place + 7 + length]
        assert crc == zlib.crc32(part, zlib.crc32(bytes([kind])))
        whole, place = whole + part, place + 7 + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


@pytest.fixture
def nobody(monkeypatch, tmp_path):
    """Nobody is logged in, and nothing else says how to run."""
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))


def test_without_a_login_a_run_is_written_offline_and_complete(nobody, tmp_path):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    tracker = make_tracker(
        "auto", run_dir, run_id="abc123", config={"manifest_sha256": "f00d"}, main=True
    )
    tracker.log({"step": 1, "train/loss": 0.5})
    tracker.log({"epoch": 1, "epoch/val_roc_auc": 0.9})
    tracker.summary({"best_roc_auc": 0.9})
    tracker.finish()
    wandb.teardown()  # as at the end of a process: waits until its service has written everything
    (file,) = run_dir.glob("wandb/offline-run-*-abc123/*.wandb")
    found = list(records(file))
    text = "".join(str(record) for record in found)
    assert "f00d" in text and "train/loss" in text and "epoch/val_roc_auc" in text
    axes = {r.metric.glob_name: r.metric.step_metric for r in found if r.HasField("metric")}
    assert axes.get("train/*") == "step" and axes.get("epoch/*") == "epoch"
    assert any(record.HasField("exit") for record in found)


def test_off_and_other_ranks_keep_nothing(tmp_path):
    for wanted, main in (("off", True), ("offline", False)):
        tracker = make_tracker(wanted, tmp_path, run_id="x", config={}, main=main)
        assert isinstance(tracker, NullTracker)
        tracker.log({"step": 1})
        tracker.finish()
    assert not list(tmp_path.iterdir())


def test_login_is_seen_in_the_environment_and_in_netrc(nobody, monkeypatch, tmp_path):
    assert not logged_in()
    file = tmp_path / "netrc"
    file.write_text("machine api.wandb.ai\n  login user\n  password made-up\n")
    assert netrc.netrc(file).authenticators("api.wandb.ai")
    monkeypatch.setenv("NETRC", str(file))
    assert logged_in()
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_API_KEY", "made-up")
    assert logged_in()
