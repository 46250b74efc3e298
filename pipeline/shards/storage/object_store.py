"""Shards and sources in object storage: ``s3://bucket/prefix`` and whatever else fsspec reaches.

``ObjectStore`` is what ``build`` writes to: each object is put whole, so a reader sees all of it or
nothing. ``cached`` brings finished shards to a local folder, each file once and proven against the
manifest; ``mirrored`` brings a source. Endpoint, credentials and region come the usual ways
(AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_PROFILE, ...).

    python -m pipeline.shards build --source data/ham10000 --out s3://bucket/ham10000
    root = cached("s3://bucket/ham10000", Path("cache"))
"""

import hashlib
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from botocore.exceptions import BotoCoreError, ClientError
from tqdm import tqdm

from pipeline.errors import DataError
from pipeline.files import sha256_of
from pipeline.shards.manifest import MANIFEST_NAME, Manifest
from pipeline.shards.storage.store import LocalStore, Store

REMOTE = re.compile(r"([a-z][a-z0-9+]+):/+(.+)")
"""A URL; with one slash too, because a Path makes one of two."""

DOWNLOADS = 8
"""Files fetched at a time."""


def is_remote(root: str | Path) -> bool:
    """Say whether ``root`` is a URL and not a path."""
    return REMOTE.fullmatch(str(root)) is not None


def store_for(root: str | Path) -> Store:
    """Return the store at a path or a URL."""
    return ObjectStore(str(root)) if is_remote(root) else LocalStore(Path(root).absolute())


def source_cache() -> Path:
    """Return the user's folder for sources that came from object storage."""
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(home) / "dermpipe" / "sources"


class ObjectStore:
    """A prefix in object storage; cheap to pickle, each process connects by itself."""

    def __init__(self, url: str) -> None:
        """Use the prefix at ``url``.

        Raises:
            DataError: it is no URL, or what reads that kind of URL is not installed.
        """
        found = REMOTE.fullmatch(url)
        if found is None:
            raise DataError(f"{url} is no URL; expected s3://bucket/prefix")
        self.url = f"{found[1]}://{found[2]}".rstrip("/")
        self._connect()

    def _connect(self) -> tuple[Any, str]:
        """Return the file system, which fsspec keeps for this process, and the root on it."""
        try:
            return fsspec.url_to_fs(self.url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise DataError(f"cannot reach {self.url}: {error}") from error

    def publish(self, name: str, *pieces: bytes) -> None:
        """Put one object; it appears whole or not at all.

        Raises:
            DataError: the storage refuses or cannot be reached.
        """
        system, root = self._connect()
        data = b"".join(pieces)
        what = f"write {name} ({len(data):,} bytes) to"
        try:
            with self._told(what):
                system.pipe_file(f"{root}/{name}", data)
        except FileNotFoundError as error:  # of a bucket; a key needs no folder
            raise DataError(f"cannot {what} {self.url}: {error}; make the bucket first") from error

    def read(self, name: str) -> bytes | None:
        """Return the bytes of an object, None where there is none."""
        system, root = self._connect()
        try:
            with self._told(f"read {name} from"):
                return system.cat_file(f"{root}/{name}")
        except FileNotFoundError:
            return None

    def sha256(self, name: str) -> str | None:
        """Return the digest of an object, None where there is none."""
        data = self.read(name)
        return None if data is None else hashlib.sha256(data).hexdigest()

    def list(self, prefix: str = "") -> list[str]:
        """Return the names of all objects below ``prefix``, sorted."""
        return sorted(self.sizes(prefix))

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Return the bytes of each object below ``prefix``, by name."""
        system, root = self._connect()
        where = f"{root}/{prefix}".rstrip("/")
        try:
            with self._told("list"):
                system.invalidate_cache()
                found = system.find(where, detail=True)
        except FileNotFoundError:
            return {}
        start = len(system._strip_protocol(root)) + 1
        return {
            name[start:]: int(entry["size"])
            for name, entry in found.items()
            if name[start:] and not name.endswith("/")
        }

    def delete(self, name: str) -> None:
        """Remove an object or everything below a prefix; missing is fine."""
        system, root = self._connect()
        names = self.list(name) or [name]
        with self._told(f"remove {name} from"):
            for one in names:
                try:
                    system.rm_file(f"{root}/{one}")
                except FileNotFoundError:
                    continue

    def sweep(self) -> None:
        """Nothing is ever half-written here."""

    def fetch(self, name: str, target: Path, sha256: str | None = None) -> None:
        """Bring one object to ``target``, which appears when it is whole and, if known, right.

        Raises:
            DataError: there is no such object, or its digest is not ``sha256``, twice over.
        """
        for attempt in (1, 2):
            data = self.read(name)
            if data is None:
                raise DataError(f"{self.url} has no {name}: is the upload complete?")
            if sha256 is None or hashlib.sha256(data).hexdigest() == sha256:
                LocalStore(target.parent).publish(target.name, data)
                return
            if attempt == 2:
                raise DataError(
                    f"{self.url}/{name} is damaged: its sha256 is not the manifest's; restore it "
                    f"or build the shards anew"
                )

    def describe(self) -> str:
        """Return the URL."""
        return self.url

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Turn what the storage refuses into a message; a missing object passes through."""
        try:
            yield
        except FileNotFoundError:
            raise
        except (OSError, BotoCoreError, ClientError) as error:
            raise DataError(
                f"cannot {what} {self.url}: {error}; check bucket, credentials and endpoint "
                f"(AWS_ENDPOINT_URL). What is complete stays: the same command goes on from it"
            ) from error


def cached(root: str | Path, cache_dir: Path, *, progress: bool = True) -> Path:
    """Bring the shards at ``root`` below ``cache_dir``, each file once, and return their folder.

    Files that are there already are kept when they have the size (shards) or the digest (tables,
    indexes) of the manifest; ``ensure_intact`` reads the shards' bytes once more as it always
    does. The folder is named after the manifest, so that two sets never mix.

    Args:
        root: URL (or path) of finished shards.
        cache_dir: folder on this machine.
        progress: whether to show a bar on standard error.

    Raises:
        DataError: there are no finished shards, a file is missing or damaged.
    """
    if not is_remote(root):
        return Path(root)
    store = ObjectStore(str(root))
    data = store.read(MANIFEST_NAME)
    if data is None:
        raise DataError(f"{store.url} has no {MANIFEST_NAME}: no finished shards are there")
    manifest = Manifest.from_json(data, f"{store.url}/{MANIFEST_NAME}")
    name = f"{PurePosixPath(store.url).name}-{hashlib.sha256(data).hexdigest()[:12]}"
    folder = Path(cache_dir) / name
    wanted: list[tuple[str, str, int | None]] = [
        (file, digest, None) for file, digest in manifest.files.items()
    ]
    for entry in manifest.shards:
        wanted.append((entry.index_path, entry.index_sha256, None))
        wanted.append((entry.path, entry.sha256, entry.bytes))
    missing = [file for file in wanted if not _is_there(_inside(folder, file[0]), *file[1:])]

    def bring(file: tuple[str, str, int | None]) -> None:
        store.fetch(file[0], _inside(folder, file[0]), file[1])

    with ThreadPoolExecutor(DOWNLOADS) as pool:
        fetched = pool.map(bring, missing)
        for _ in tqdm(fetched, f"fetching {store.url}", len(missing), disable=not progress):
            pass
    LocalStore(folder).publish(MANIFEST_NAME, data)
    return folder


def mirrored(source: str | Path, cache_dir: Path, *, progress: bool = True) -> Path:
    """Bring the files of a source below ``cache_dir`` and return their folder; a path stays.

    Raises:
        DataError: there is nothing, or the storage cannot be reached.
    """
    if not is_remote(source):
        return Path(source)
    store = ObjectStore(str(source))
    sizes = store.sizes()
    if not sizes:
        raise DataError(f"there is nothing at {store.url}")
    digest = hashlib.sha256(store.url.encode()).hexdigest()[:12]
    folder = Path(cache_dir) / f"{PurePosixPath(store.url).name}-{digest}"
    missing = [name for name, size in sizes.items() if _size(_inside(folder, name)) != size]

    def bring(name: str) -> None:
        store.fetch(name, _inside(folder, name))

    with ThreadPoolExecutor(DOWNLOADS) as pool:
        fetched = pool.map(bring, missing)
        for _ in tqdm(fetched, f"fetching {store.url}", len(missing), disable=not progress):
            pass
    return folder


def _inside(folder: Path, name: str) -> Path:
    """Return ``folder / name``; a name that leads out of the folder is refused."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"the name {name!r} leads out of its folder; nothing was written")
    return folder / name


def _is_there(path: Path, sha256: str, size: int | None) -> bool:
    if size is not None:
        return _size(path) == size
    return path.is_file() and sha256_of(path) == sha256


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
