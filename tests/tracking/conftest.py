"""What W&B's own files say of a run, read record by record."""

import json
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from wandb.proto import wandb_internal_pb2

BLOCK = 32768
"""Bytes of a block in a .wandb file."""


@dataclass
class Written:
    """What all .wandb files of a folder say."""

    files: list[Path]
    rows: list[dict]
    """History, in order, values as logged."""
    config: dict
    summary: dict
    metrics: dict
    """By name or pattern, as define_metric has sent them."""
    artifacts: list
    runs: list
    exits: int


def wandb_records(path: Path) -> Iterator[wandb_internal_pb2.Record]:  # pyright: ignore
    """Read a .wandb file: LevelDB's log format, checksummed, with protobuf records."""
    data, place, whole = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while place + 7 <= len(data):
        if BLOCK - place % BLOCK < 7:
            place += BLOCK - place % BLOCK
            continue
        crc, length, kind = struct.unpack("<IHB", data[place : place + 7])
        part = data[place + 7 : place + 7 + length]
        if len(part) < length:  # torn by a kill
            return
        assert crc == zlib.crc32(part, zlib.crc32(bytes([kind])))
        whole, place = whole + part, place + 7 + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()  # pyright: ignore
            record.ParseFromString(whole)
            yield record
            whole = b""


def put(values: dict, items: Iterable) -> None:
    """Set items of a record, nested keys included."""
    for item in items:
        *above, last = item.nested_key or [item.key]
        place = values
        for name in above:
            place = place.setdefault(name, {})
        place[last] = json.loads(item.value_json)


def written(folder: Path) -> Written:
    """Return what the .wandb files under FOLDER/wandb say, in the order of their making."""
    files = sorted(folder.glob("wandb/*run-*/*.wandb"), key=lambda path: path.parent.name)
    said = Written(files, [], {}, {}, {}, [], [], 0)
    for record in (record for path in files for record in wandb_records(path)):
        kind = record.WhichOneof("record_type")
        if kind == "history":
            said.rows.append({})
            put(said.rows[-1], record.history.item)
        elif kind == "run":
            said.runs.append(record.run)
            put(said.config, record.run.config.update)
        elif kind == "summary":
            put(said.summary, record.summary.update)
        elif kind == "metric":
            said.metrics[record.metric.name or record.metric.glob_name] = record.metric
        elif kind == "artifact":
            said.artifacts.append(record.artifact)
        said.exits += kind == "exit"
    return said


@pytest.fixture(scope="session")
def read_wandb() -> Callable[[Path], Written]:
    """``read_wandb(RUN)``: what W&B has on disk of a run."""
    return written
