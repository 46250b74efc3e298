"""Read every byte of some splits once, and remember that they were whole.

What was found good is remembered in the user's cache folder by path, size and mtime, so the next
training starts at once. A machine without a writable cache only reads again.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from pipeline.errors import DataError
from pipeline.files import sha256_of
from pipeline.shards.manifest import ShardEntry


def check_bytes(root: Path, entries: Sequence[ShardEntry], *, progress: bool) -> None:
    """Raise if one of ``entries`` below ``root`` is not, byte for byte, what the manifest says.

    Raises:
        DataError: a shard is damaged.
    """
    cache = cache_path(root)
    known = _load(cache)
    unread = [e for e in entries if known.get(e.path) != _stamp(root, e)]
    total = sum(entry.bytes for entry in unread)
    with tqdm(
        total=total,
        unit="B",
        unit_scale=True,
        desc="checking shards",
        disable=not progress or not total,
    ) as bar:
        for entry in unread:
            stamp = _stamp(root, entry)
            if sha256_of(root / entry.path) != entry.sha256:
                raise DataError(
                    f"{root / entry.path} is damaged: its sha256 is not the manifest's; restore it "
                    f"or build the shards anew"
                )
            known[entry.path] = stamp
            bar.update(entry.bytes)
    if unread:
        _save(cache, known)


def cache_path(root: Path) -> Path:
    """Return the file that remembers the shards below ``root``."""
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    name = hashlib.sha256(str(Path(root).resolve()).encode()).hexdigest()[:16]
    return Path(home) / "dermpipe" / f"intact-{name}.json"


def _stamp(root: Path, entry: ShardEntry) -> list[str | int]:
    """Return what changes whenever the file or what is expected of it does."""
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
    """Remember; a cache that cannot be written costs a second reading, no more."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump(known, file)
        Path(file.name).replace(path)
    except OSError:
        return
