"""Shards and sources in object storage, by obstore: ``s3://bucket/prefix``, ``gs://``, ``az://``.

``ObjectStore`` is what ``build`` writes to: each object is put whole, so a reader sees all of it or
nothing. ``cached`` copies finished shards to a local folder, each file once and checked against the
manifest; ``mirrored`` copies a source. Endpoint, credentials and region are set as for any S3
client (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_PROFILE, ...).

    python -m pipeline.shards build --source data/ham10000 --out s3://bucket/ham10000
    root = cached("s3://bucket/ham10000", Path("cache"))
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import obstore
from obstore.exceptions import BaseError
from obstore.store import from_url
from tqdm.contrib.concurrent import thread_map

from pipeline.errors import DataError, told_if_slow
from pipeline.files import sha256, sha256_of
from pipeline.folders import is_clutter
from pipeline.shards.manifest import MANIFEST_NAME, Manifest
from pipeline.shards.storage.refusal import reason_of
from pipeline.shards.storage.store import RESUMES, LocalStore, Store, cache_folder

REMOTE = re.compile(r"([a-z][a-z0-9+]+):/+(.+)")
"""A URL; with one slash too, because a Path makes one of two."""

DOWNLOADS = 8
"""Files fetched at a time."""

PIECE = 64 * 2**20
"""Bytes put in one request; larger objects are put in pieces and appear with the last one."""

PATIENCE = {"timeout": "1d", "connect_timeout": "10s", "read_timeout": "300s"}
"""Limits of a request, of a connection, and of silence on it."""

REGION = "us-east-1"
"""Where none is set; it is only part of signatures at most stores."""

RETRIES: Any = {
    "max_retries": 8,
    "retry_timeout": timedelta(minutes=3),
    "backoff": {
        "init_backoff": timedelta(seconds=1),
        "max_backoff": timedelta(seconds=5),
        "base": 3,
    },
}
"""A store that is away is asked again for some 20 to 60 seconds."""

SLOW = 10.0
"""Seconds after which a request that is not through is told."""

Known = tuple[int | None, str | None]
"""Size (bytes) and sha256 of a file to copy, as far as they are known."""


def is_remote(root: str | Path) -> bool:
    """Say whether ``root`` is a URL and not a path."""
    return REMOTE.fullmatch(str(root)) is not None


def store_for(root: str | Path) -> Store:
    """Return the store at a path or a URL."""
    return ObjectStore(str(root)) if is_remote(root) else LocalStore(Path(root).absolute())


class ObjectStore:
    """A prefix in object storage; see ``Store``. Cheap to pickle: each process connects itself."""

    def __init__(self, url: str) -> None:
        """Use the prefix at ``url``; raise a DataError if it or its credentials will not do."""
        found = REMOTE.fullmatch(url)
        if found is None:
            raise DataError(f"{url} is no URL; expected s3://bucket/prefix")
        self.url = f"{found[1]}://{found[2]}".rstrip("/")
        with self._connected("reach"):
            pass

    def __str__(self) -> str:
        """Return the URL."""
        return self.url

    @contextmanager
    def _connected(self, action: str) -> Iterator[Any]:
        """Yield obstore's store; errors in the block, but FileNotFoundError, become a DataError."""
        slow = f"cannot yet {action} {self.url} after {SLOW:.0f} s: slow or away; still trying"
        try:
            with told_if_slow(slow, SLOW):
                yield connect(self.url)
        except FileNotFoundError:
            raise
        except Exception as error:
            from botocore.exceptions import BotoCoreError

            if not isinstance(error, (BaseError, BotoCoreError, OSError, ValueError)):
                raise
            raise DataError(
                f"cannot {action} {self.url}: {reason_of(error)}; check bucket, credentials and "
                f"endpoint (AWS_ENDPOINT_URL). {RESUMES}"
            ) from error

    def publish(self, name: str, *pieces: bytes) -> None:
        """Put one object."""
        data = b"".join(pieces)
        action = f"write {name} ({len(data):,} bytes) to"
        try:
            with self._connected(action) as store:
                obstore.put(store, name, data, chunk_size=PIECE, max_concurrency=2)
        except FileNotFoundError as error:  # of a bucket; a key needs no folder
            raise DataError(
                f"cannot {action} {self}: {reason_of(error)}; create the bucket first"
            ) from error

    def read(self, name: str) -> bytes | None:
        """Return the bytes of an object."""
        try:
            with self._connected(f"read {name} from") as store:
                return obstore.get(store, name).bytes().to_bytes()
        except FileNotFoundError:
            return None

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Return the bytes of each object below ``prefix``."""
        try:
            with self._connected("list") as store:
                listed = [entry for part in obstore.list(store, prefix or None) for entry in part]
        except FileNotFoundError:
            return {}
        # consoles make empty objects that stand for folders; obstore drops the slash at their end
        return {
            entry["path"]: entry["size"]
            for entry in sorted(listed, key=lambda entry: entry["path"])
            if entry["size"] or self.read(entry["path"]) is not None
        }

    def delete(self, name: str) -> None:
        """Remove an object or everything below a prefix."""
        for one in self.sizes(name) or [name]:
            with suppress(FileNotFoundError), self._connected(f"remove {name} from") as store:
                obstore.delete(store, one)

    def sweep(self) -> None:
        """Do nothing: an object is never half-written."""

    def for_one(self) -> AbstractContextManager[None]:
        """Refuse nobody: the build whose key was replaced by another's publishes no manifest."""
        return nullcontext()

    def fetch(self, name: str, target: Path, digest: str | None = None) -> None:
        """Copy one object to ``target``, whole and with the digest, or raise a DataError."""
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


@cache
def connect(url: str) -> Any:
    """Return obstore's store at ``url``, one for each process; nothing is sent yet.

    What botocore finds (environment, profiles, single sign-on, the machine's role) holds for S3.
    """
    settings: dict[str, Any] = {"client_options": dict(PATIENCE), "retry_config": RETRIES}
    if not url.startswith("s3"):
        return from_url(url, **settings)
    import botocore.session  # takes 0.2 s, which local shards need not wait for

    session = botocore.session.get_session()
    client = session.create_client(
        "s3", region_name=session.get_config_variable("region") or REGION
    )
    found = session.get_credentials()
    if found is None:
        raise ValueError("no credentials were found")

    def credentials() -> Any:
        frozen = found.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + timedelta(minutes=5),  # then asked again
        }

    settings["client_options"]["allow_http"] = True
    authority = session.get_config_variable("ca_bundle")
    if authority:
        settings["client_options"]["root_certificate"] = Path(authority).read_bytes()
    return from_url(
        url,
        endpoint=client.meta.endpoint_url,
        region=client.meta.region_name,
        credential_provider=credentials,
        **settings,
    )


def cached(root: str | Path, cache_dir: Path, *, progress: bool = True) -> Path:
    """Copy the shards at a URL below ``cache_dir`` and return their folder; a path stays.

    Files that are there already are kept when they have the size (shards) or the digest (tables,
    indexes) of the manifest; ``ensure_intact`` reads the shards' bytes as it always does. The
    folder is named after the manifest, so that two sets never mix. Shards that are not finished, a
    missing and a damaged file are a DataError.
    """
    if not is_remote(root):
        return Path(root)
    store = ObjectStore(str(root))
    data = store.read(MANIFEST_NAME)
    if data is None:
        raise DataError(f"{store} has no {MANIFEST_NAME}: no finished shards are there")
    manifest = Manifest.from_json(data, f"{store}/{MANIFEST_NAME}")
    folder = cache_dir / f"{PurePosixPath(store.url).name}-{sha256(data)[:12]}"
    files: dict[str, Known] = {name: (None, sha) for name, sha in manifest.files.items()}
    for entry in manifest.shards:
        files[entry.index_path] = (None, entry.index_sha256)
        files[entry.path] = (entry.bytes, entry.sha256)
    _copy(store, files, folder, progress=progress)
    LocalStore(folder).publish(MANIFEST_NAME, data)
    return folder


def mirrored(source: str | Path, cache_dir: Path | None = None, *, progress: bool = True) -> Path:
    """Copy the source at a URL below ``cache_dir`` (None: the user's cache); a path stays."""
    if not is_remote(source):
        return Path(source)
    store = ObjectStore(str(source))
    sizes = store.sizes().items()
    files = {n: (size, None) for n, size in sizes if not any(map(is_clutter, n.split("/")))}
    if not files:
        raise DataError(f"there is nothing at {store}")
    name = f"{PurePosixPath(store.url).name}-{sha256(store.url.encode())[:12]}"
    folder = (cache_dir or cache_folder() / "sources") / name
    _copy(store, files, folder, progress=progress)
    return folder


def _copy(store: ObjectStore, files: Mapping[str, Known], folder: Path, *, progress: bool) -> None:
    """Copy the files that ``folder`` lacks, several at a time."""
    missing = [n for n, known in files.items() if not _is_copy(_inside(folder, n), *known)]
    thread_map(
        lambda name: store.fetch(name, folder / name, files[name][1]),
        missing,
        max_workers=DOWNLOADS,
        desc=f"fetching {store}",
        disable=not progress,
    )


def _is_copy(path: Path, size: int | None, digest: str | None) -> bool:
    """Say whether the file at ``path`` can be kept, by its size where known, else its digest."""
    if not path.is_file():
        return False
    return path.stat().st_size == size if size is not None else sha256_of(path) == digest


def _inside(folder: Path, name: str) -> Path:
    """Return ``folder / name``; a name that leads out of the folder is refused."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"the name {name!r} leads out of its folder; nothing was written")
    return folder / name
