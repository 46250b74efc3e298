"""W&B's files on disk, read record by record."""

import json
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from wandb.proto import wandb_internal_pb2

BLOCK = 32768
"""Bytes of a block in a .wandb file."""


@dataclass
class Stored:
    """The content of all .wandb files below a folder."""

    files: list[Path]
    rows: list[dict] = field(default_factory=list)
    """History, in order, values as logged."""
    config: dict = field(default_factory=dict)
    summary: dict = field(default_factory=dict)
    metrics: dict = field(default_factory=dict)
    """Definitions by name or pattern."""
    artifacts: list = field(default_factory=list)
    runs: list = field(default_factory=list)
    exits: int = 0
    """Starts that ended well."""


def records(path: Path) -> Iterator[wandb_internal_pb2.Record]:  # pyright: ignore
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


def stored(folder: Path) -> Stored:
    """Read the .wandb files under FOLDER/wandb in the order in which they were made."""
    files = sorted(folder.glob("wandb/*run-*/*.wandb"), key=lambda path: path.parent.name)
    found = Stored(files)
    for record in (record for path in files for record in records(path)):
        kind = record.WhichOneof("record_type")
        if kind == "history":
            found.rows.append({})
            put(found.rows[-1], record.history.item)
        elif kind == "run":
            found.runs.append(record.run)
            put(found.config, record.run.config.update)
        elif kind == "summary":
            put(found.summary, record.summary.update)
        elif kind == "metric":
            found.metrics[record.metric.name or record.metric.glob_name] = record.metric
        elif kind == "artifact":
            found.artifacts.append(record.artifact)
        found.exits += kind == "exit"
    return found


@pytest.fixture(scope="session")
def read_wandb() -> Callable[[Path], Stored]:
    """``read_wandb(RUN)``: what W&B has on disk of a run."""
    return stored
