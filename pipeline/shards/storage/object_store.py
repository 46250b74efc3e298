"""Shards and sources in object storage: ``s3://bucket/prefix`` and whatever else fsspec reaches.

``ObjectStore`` is what ``build`` writes to: each object is put whole, so a reader sees all of it or
nothing. ``cached`` copies finished shards to a local folder, each file once and checked against the
manifest; ``mirrored`` copies a source. Endpoint, credentials and region are set as for any S3
client (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_PROFILE, ...).

    python -m pipeline.shards build --source data/ham10000 --out s3://bucket/ham10000
    root = cached("s3://bucket/ham10000", Path("cache"))
"""

import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import fsspec
from botocore.exceptions import BotoCoreError, ClientError
from tqdm import tqdm

from pipeline.errors import DataError
from pipeline.files import sha256, sha256_of
from pipeline.shards.manifest import MANIFEST_NAME, Manifest
from pipeline.shards.storage.store import LocalStore, Store, cache_folder

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


class ObjectStore:
    """A prefix in object storage; see ``Store``. Cheap to pickle: each process connects itself."""

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

    def __str__(self) -> str:
        """Return the URL."""
        return self.url

    def _connect(self) -> tuple[Any, str]:
        """Return the file system, which fsspec keeps for this process, and the root on it."""
        try:
            return fsspec.url_to_fs(self.url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise DataError(f"cannot reach {self.url}: {error}") from error

    @contextmanager
    def _connected(self, action: str) -> Iterator[tuple[Any, str]]:
        """Yield file system and root; a FileNotFoundError of the block passes through.

        Raises:
            DataError: the storage refuses the ``action`` ("list") or cannot be reached.
        """
        try:
            yield self._connect()
        except FileNotFoundError:
            raise
        except (OSError, BotoCoreError, ClientError) as error:
            raise DataError(
                f"cannot {action} {self.url}: {reason_of(error)}; check bucket, credentials and "
                f"endpoint (AWS_ENDPOINT_URL). Complete files stay: the same command continues "
                f"from them"
            ) from error

    def publish(self, name: str, *pieces: bytes) -> None:
        """Put one object."""
        data = b"".join(pieces)
        action = f"write {name} ({len(data):,} bytes) to"
        try:
            with self._connected(action) as (system, root):
                system.pipe_file(f"{root}/{name}", data)
        except FileNotFoundError as error:  # of a bucket; a key needs no folder
            raise DataError(f"cannot {action} {self}: {error}; create the bucket first") from error

    def read(self, name: str) -> bytes | None:
        """Return the bytes of an object."""
        try:
            with self._connected(f"read {name} from") as (system, root):
                return system.cat_file(f"{root}/{name}")
        except FileNotFoundError:
            return None

    def sha256(self, name: str) -> str | None:
        """Return the digest of an object."""
        data = self.read(name)
        return None if data is None else sha256(data)

    def list(self, prefix: str = "") -> list[str]:
        """Return the names of all objects below ``prefix``."""
        return sorted(self.sizes(prefix))

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Return the bytes of each object below ``prefix``, by name."""
        try:
            with self._connected("list") as (system, root):
                system.invalidate_cache()
                found = system.find(f"{root}/{prefix}".rstrip("/"), detail=True)
                start = len(system._strip_protocol(root)) + 1
        except FileNotFoundError:
            return {}
        return {
            name[start:]: int(entry["size"])
            for name, entry in found.items()
            if name[start:] and not name.endswith("/")
        }

    def delete(self, name: str) -> None:
        """Remove an object or everything below a prefix."""
        for one in self.list(name) or [name]:
            with (
                suppress(FileNotFoundError),
                self._connected(f"remove {name} from") as (system, root),
            ):
                system.rm_file(f"{root}/{one}")

    def sweep(self) -> None:
        """Do nothing: an object is never half-written."""

    def fetch(self, name: str, target: Path, digest: str | None = None) -> None:
        """Copy one object to ``target``, which appears when it is whole and has the digest.

        Raises:
            DataError: there is no such object, or twice its sha256 was not ``digest``.
        """
        for _ in range(2):
            data = self.read(name)
            if data is None:
                raise DataError(f"{self.url} has no {name}: is the upload complete?")
            if digest in (None, sha256(data)):
                LocalStore(target.parent).publish(target.name, data)
                return
        raise DataError(
            f"{self.url}/{name} is damaged: its sha256 is not the manifest's; restore it or build "
            f"the shards again"
        )


def reason_of(error: Exception) -> str:
    """Return an error's text, or its type and HTTP status where the storage sent no text."""
    text = re.sub(r"^\[Errno -?\d+\]", "", str(error)).strip()
    if text:
        return str(error)
    cause = error.__cause__ or error
    response = getattr(cause, "response", None) or {}
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return type(cause).__name__ + (f", HTTP status {status}" if status else "")


class RemoteFile(NamedTuple):
    """A file to copy, and how a local copy is recognised: by its size, else by its digest."""

    name: str
    size: int | None = None
    """Bytes."""
    sha256: str | None = None
    """Checked after the download where it is known."""

    def is_at(self, path: Path) -> bool:
        """Say whether the copy at ``path`` can be kept."""
        if not path.is_file():
            return False
        if self.size is not None:
            return path.stat().st_size == self.size
        return sha256_of(path) == self.sha256


def cached(root: str | Path, cache_dir: Path, *, progress: bool = True) -> Path:
    """Copy the shards at a URL below ``cache_dir`` and return their folder; a path stays.

    Files that are there already are kept when they have the size (shards) or the digest (tables,
    indexes) of the manifest; ``ensure_intact`` reads the shards' bytes as it always does. The
    folder is named after the manifest, so that two sets never mix.

    Raises:
        DataError: there are no finished shards, a file is missing or damaged.
    """
    if not is_remote(root):
        return Path(root)
    store = ObjectStore(str(root))
    data = store.read(MANIFEST_NAME)
    if data is None:
        raise DataError(f"{store} has no {MANIFEST_NAME}: no finished shards are there")
    manifest = Manifest.from_json(data, f"{store}/{MANIFEST_NAME}")
    folder = cache_dir / f"{PurePosixPath(store.url).name}-{sha256(data)[:12]}"
    files = [RemoteFile(name, sha256=digest) for name, digest in manifest.files.items()]
    for entry in manifest.shards:
        files.append(RemoteFile(entry.index_path, sha256=entry.index_sha256))
        files.append(RemoteFile(entry.path, entry.bytes, entry.sha256))
    _copy(store, files, folder, progress=progress)
    LocalStore(folder).publish(MANIFEST_NAME, data)
    return folder


def mirrored(source: str | Path, cache_dir: Path | None = None, *, progress: bool = True) -> Path:
    """Copy the source at a URL below ``cache_dir`` and return its folder; a path stays.

    Args:
        source: URL or path.
        cache_dir: folder on this machine; below the user's cache folder when None.
        progress: show a bar.

    Raises:
        DataError: there is nothing, or the storage cannot be reached.
    """
    if not is_remote(source):
        return Path(source)
    store = ObjectStore(str(source))
    files = [RemoteFile(name, size) for name, size in store.sizes().items()]
    if not files:
        raise DataError(f"there is nothing at {store}")
    name = f"{PurePosixPath(store.url).name}-{sha256(store.url.encode())[:12]}"
    folder = (cache_dir or cache_folder() / "sources") / name
    _copy(store, files, folder, progress=progress)
    return folder


def _copy(store: ObjectStore, files: Iterable[RemoteFile], folder: Path, *, progress: bool) -> None:
    """Copy the files that ``folder`` does not have yet, several at a time."""
    missing = [file for file in files if not file.is_at(_inside(folder, file.name))]
    with ThreadPoolExecutor(DOWNLOADS) as pool:
        copied = pool.map(lambda f: store.fetch(f.name, folder / f.name, f.sha256), missing)
        for _ in tqdm(copied, f"fetching {store}", len(missing), disable=not progress):
            pass


def _inside(folder: Path, name: str) -> Path:
    """Return ``folder / name``; a name that leads out of the folder is refused."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"the name {name!r} leads out of its folder; nothing was written")
    return folder / name
