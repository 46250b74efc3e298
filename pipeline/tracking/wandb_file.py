"""How far a W&B run's own files on disk go, so that a resumed run neither repeats nor skips.

A ``.wandb`` file is LevelDB's log format: 7 bytes of header, then blocks of 32 KiB with pieces of
records, each ``crc (4) length (2) kind (1)`` and so many bytes; a record is a protobuf message.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from wandb.proto import wandb_internal_pb2

messages: Any = wandb_internal_pb2
"""Its classes are made when it is imported."""

HEADER = struct.Struct("<IHB")
BLOCK = 32 * 1024
FILE_HEADER = 7
WHOLE, LAST = 1, 4
"""Kinds of pieces that end a record; 2 and 3 are a first and a middle one."""


def last_step(run_dir: Path, run_id: str) -> int:
    """Return the highest step in all files of a run (each start makes one), -1 where none is."""
    steps = [
        step
        for path in sorted(run_dir.glob(f"wandb/*run-*-{run_id}/run-{run_id}.wandb"))
        for step in history_steps(path)
    ]
    return max(steps, default=-1)


def history_steps(path: Path) -> Iterator[int]:
    """Yield the step of each row of history in a file."""
    for content in contents(path.read_bytes()):
        record: Any = messages.Record()
        try:
            record.ParseFromString(content)
        except DecodeError:
            return
        if record.HasField("history"):
            yield record.history.step.num


def contents(data: bytes) -> Iterator[bytes]:
    """Yield the records of a file; a torn end, which a kill leaves, ends it."""
    place, whole = FILE_HEADER, b""
    while place + HEADER.size <= len(data):
        left = BLOCK - place % BLOCK
        if left < HEADER.size:
            place += left
            continue
        crc, length, kind = HEADER.unpack_from(data, place)
        start = place + HEADER.size
        piece, place = data[start : start + length], start + length
        if crc != zlib.crc32(piece, zlib.crc32(bytes([kind]))):
            return
        whole += piece
        if kind in (WHOLE, LAST):
            yield whole
            whole = b""
