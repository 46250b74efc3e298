"""Where shards are written: a store publishes each file whole or not at all.

``LocalStore`` is a folder, ``object_store.ObjectStore`` a prefix in object storage. Names are paths
below the root with forward slashes; ``str(store)`` is the root. A store is pickled to the processes
that pack.
"""

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.errors import DataError
from pipeline.files import forget, is_unfinished, write_file, writing
from pipeline.owner import sole_writer

RESUMES = "Complete files stay: the same command continues from them"


class Store(Protocol):
    """What the builder needs of the place it writes to."""

    def publish(self, name: str, *pieces: bytes) -> None:
        """Write a file of these bytes, whole or not at all, or raise a DataError."""

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a file, None where there is none."""

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each complete file by name, sorted by name."""
        ...

    def delete(self, name: str) -> None:
        """Remove a file or everything below a folder; missing is fine."""

    def sweep(self) -> None:
        """Remove what an interrupted build left half-written."""

    def for_one(self) -> AbstractContextManager[None]:
        """Refuse other builds for the block, where the storage has a way to."""
        ...


@dataclass(frozen=True)
class LocalStore:
    """A folder on a file system, made with the first file; see ``Store``."""

    root: Path

    def __str__(self) -> str:
        """Return the folder."""
        return str(self.root)

    def publish(self, name: str, *pieces: bytes) -> None:
        """Write beside, flush to the disk, rename."""
        path, space = self.root / name, f"free some space ({sum(map(len, pieces)):,} bytes)"
        with writing(path, f"{space} or write elsewhere. {RESUMES}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, *pieces)

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a file."""
        try:
            return (self.root / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise DataError(f"cannot read {self.root / name}: {error.strerror or error}") from error

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each file."""
        paths = (path for path in sorted(self.root.rglob("*")) if path.is_file())
        return {
            path.relative_to(self.root).as_posix(): path.stat().st_size
            for path in paths
            if not is_unfinished(path.name)
        }

    def delete(self, name: str) -> None:
        """Remove a file or a folder."""
        forget(self.root / name)

    def sweep(self) -> None:
        """Remove unfinished files, those of earlier versions of this program too."""
        for path in list(self.root.rglob(".*")):
            if is_unfinished(path.name):
                forget(path)

    def for_one(self) -> AbstractContextManager[None]:
        """Refuse other builds by an owner file."""
        return sole_writer(self.root, "--out")


def cache_folder() -> Path:
    """Return this program's folder below the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(home) / "dermpipe"
