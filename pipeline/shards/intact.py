"""Check every byte of some splits once, and remember which shards were found undamaged.

    shards = open_shards(Path("shards/ham10000"))
    ensure_intact(shards, ["train", "val"])

What was read is remembered in the user's cache folder by path, size and mtime, so the next
training starts at once. Without a writable cache the shards are read again each time.
"""

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from pipeline.errors import DataError
from pipeline.files import sha256, sha256_of, write_file
from pipeline.shards.dataset import ShardSet
from pipeline.shards.manifest import ShardEntry
from pipeline.shards.storage.store import cache_folder


def ensure_intact(shards: ShardSet, splits: Iterable[str], *, progress: bool = True) -> None:
    """Raise if a shard of ``splits`` is not, byte for byte, what the manifest says.

    Splits without samples are fine.

    Raises:
        DataError: a shard is damaged.
    """
    folds = shards.manifest.split["folds"]  # then val lies in the shards of train
    wanted = {"train" if folds and name == "val" else name for name in splits}
    entries = [entry for entry in shards.manifest.shards if entry.split in wanted]
    name = sha256(os.fsencode(shards.root.resolve()))[:16]
    cache = cache_folder() / f"intact-{name}.json"
    known = _load(cache)
    unread = [entry for entry in entries if known.get(entry.path) != _stamp(shards.root, entry)]
    size, hidden = sum(entry.bytes for entry in unread), not (progress and unread)
    with tqdm(total=size, unit="B", unit_scale=True, desc="checking", disable=hidden) as bar:
        for entry in unread:
            path, stamp = shards.root / entry.path, _stamp(shards.root, entry)
            if sha256_of(path) != entry.sha256:
                raise DataError(
                    f"{path} is damaged: its sha256 is not the manifest's; restore it or build the "
                    f"shards again"
                )
            known[entry.path] = stamp
            bar.update(entry.bytes)
    if unread:
        _save(cache, known)


def _stamp(root: Path, entry: ShardEntry) -> list[str | int]:
    """Return what changes whenever the file or the digest expected of it does."""
    try:
        status = (root / entry.path).stat()
    except OSError as error:
        raise DataError(f"cannot read {root / entry.path}: {error.strerror}") from error
    return [entry.sha256, status.st_size, status.st_mtime_ns]


def _load(path: Path) -> dict[str, list[str | int]]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _save(path: Path, known: dict[str, list[str | int]]) -> None:
    """Write the cache; where that fails, the shards are only read again next time."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps(known))
