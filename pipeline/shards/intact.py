"""Check every byte of some splits once, and remember which shards were found undamaged.

    shards = open_shards(Path("shards/ham10000"))
    ensure_intact(shards, ["train", "val"])

What was read is remembered in the user's cache folder by path, size and mtime, with the CRC-32 of
each JPEG, so the next training starts at once, and finds what has rotted since when it reads it.
Without a writable cache the shards are read again each time.
"""

import json
import os
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.errors import DataError
from pipeline.files import sha256, sha256_of, write_file
from pipeline.shards.dataset import ShardSet, Split
from pipeline.shards.format import read_index
from pipeline.shards.manifest import ShardEntry
from pipeline.shards.storage.store import cache_folder


def ensure_intact(shards: ShardSet, splits: Iterable[str], *, progress: bool = True) -> None:
    """Raise a DataError if a shard of ``splits`` is not, byte for byte, what the manifest says."""
    folds = shards.manifest.split["folds"]  # then val lies in the shards of train
    wanted = {"train" if folds and name == "val" else name for name in splits}
    entries = [entry for entry in shards.manifest.shards if entry.split in wanted]
    cache, known = _remembered(shards.root)
    unread = [entry for entry in entries if _crcs(known, shards.root, entry) is None]
    size, hidden = sum(entry.bytes for entry in unread), not (progress and unread)
    with tqdm(total=size, unit="B", unit_scale=True, desc="checking", disable=hidden) as bar:
        for entry in unread:
            path, stamp = shards.root / entry.path, _stamp(shards.root, entry)
            if sha256_of(path) != entry.sha256:
                raise DataError(
                    f"{path} is damaged: its sha256 is not the manifest's; restore it or build the "
                    f"shards again"
                )
            known[entry.path] = [*stamp, _crcs_of(path).hex()]
            bar.update(entry.bytes)
    if unread:
        with suppress(OSError):  # the shards are only read again next time
            cache.parent.mkdir(parents=True, exist_ok=True)
            write_file(cache, json.dumps(known))


def checksums(split: Split) -> NDArray[np.uint32] | None:
    """Return the CRC-32 of each JPEG, [n], as it was found intact; None unless known of all."""
    _, known = _remembered(split.root)
    found = [_crcs(known, split.root, entry) for entry in split.entries]
    return None if None in found else np.frombuffer(b"".join(filter(None, found)), "<u4")


def _crcs(known: dict[str, list[str | int]], root: Path, entry: ShardEntry) -> bytes | None:
    """Return the CRC-32 of a shard's JPEGs where it is as it was, 4 bytes each."""
    *stamp, crcs = known.get(entry.path, [""])
    return bytes.fromhex(str(crcs)) if stamp and stamp == _stamp(root, entry) else None


def _crcs_of(tar: Path) -> bytes:
    index = read_index(tar.with_suffix(".idx"))
    with tar.open("rb") as file:
        where = zip(index.jpg_size.tolist(), index.jpg_offset.tolist(), strict=True)
        found = [zlib.crc32(os.pread(file.fileno(), size, offset)) for size, offset in where]
    return np.array(found, "<u4").tobytes()


def _stamp(root: Path, entry: ShardEntry) -> list[str | int]:
    """Return what changes whenever the file or the digest expected of it does."""
    try:
        status = (root / entry.path).stat()
    except OSError as error:
        raise DataError(f"cannot read {root / entry.path}: {error.strerror}") from error
    return [entry.sha256, status.st_size, status.st_mtime_ns]


def _remembered(root: Path) -> tuple[Path, dict[str, list[str | int]]]:
    """Return the cache of a set, and what it holds: of each shard its stamp and CRCs."""
    path = cache_folder() / f"intact-{sha256(os.fsencode(root.resolve()))[:16]}.json"
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        content = {}
    return path, content if isinstance(content, dict) else {}
