"""Trainings that take a second: a process that forks them, and the flags of a tiny one.

And what W&B's own files say of a run, read record by record.
"""

import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from wandb.proto import wandb_internal_pb2

ROOT = Path(__file__).resolve().parents[2]

TINY = (
    *("--arch", "shufflenet_v2_x0_5", "--weights", "none", "--image-size", "32", "--lr", "1e-3"),
    *(
        "--epochs",
        "3",
        "--batch-size",
        "6",
        "--threads",
        "1",
        "--tracker",
        "none",
        "--dropout",
        "0.2",
    ),
    *("--optimizer", "adamw", "--schedule", "onecycle", "--ema-decay", "0.9"),
)
"""Flags of a training that has dropout, an average and a moving rate, in a second or two."""


BLOCK = 32768
"""Bytes of a block in a .wandb file."""


@dataclass(frozen=True)
class Outcome:
    """What became of the ranks of a training."""

    codes: list[int]
    text: str
    """What all ranks printed."""


Train = Callable[..., Outcome]


@pytest.fixture(scope="session")
def train(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Train]:
    """``train(*flags, ranks=1, die=None, env=None, file_limit=0) -> Outcome``."""
    logs = tmp_path_factory.mktemp("logs")
    pad = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("launchpad.py"))],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert pad.stdin and pad.stdout
    stdin, stdout = pad.stdin, pad.stdout

    def order(
        *flags: str | Path,
        ranks: int = 1,
        die: Sequence[object] | None = None,
        env: dict[str, str] | None = None,
        file_limit: int = 0,
    ) -> Outcome:
        log = logs / "log"
        words = {"argv": [*map(str, flags)], "ranks": ranks, "die": die, "log": str(log)}
        words["file_limit"] = file_limit
        stdin.write(json.dumps({**words, "env": env or {}}) + "\n")
        stdin.flush()
        codes = json.loads(stdout.readline())
        text = "".join(Path(f"{log}.{rank}").read_text() for rank in range(ranks))
        return Outcome(codes, text)

    yield order
    stdin.close()
    pad.wait(timeout=30)


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


@pytest.fixture(scope="session")
def tiny(packed: Path) -> list[str]:
    """The flags of a tiny training on made-up shards, but for its run folder."""
    return ["--shards", str(packed), *TINY]
