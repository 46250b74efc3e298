"""Where shards are written: a store publishes each file whole or not at all.

``LocalStore`` is a folder. Another store (object storage) has the same methods; names are
paths below the root with forward slashes. A store is pickled to the workers that pack.
"""

import os
import shutil
from pathlib import Path
from typing import Protocol

from pipeline.errors import DataError
from pipeline.files import sha256_of

PARTIAL = ".partial-"
"""Part of the name of a file that is still being written."""


class Store(Protocol):
    """What the builder needs of the place it writes to."""

    def publish(self, name: str, *pieces: bytes) -> None:
        """Write a file of these bytes; it appears under its name whole or not at all."""
        ...

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a file, None where there is none."""
        ...

    def sha256(self, name: str) -> str | None:
        """Return the digest of a file as it lies there, None where there is none."""
        ...

    def list(self, prefix: str = "") -> list[str]:
        """Return the names of all files below ``prefix``, sorted; partial ones left out."""
        ...

    def delete(self, name: str) -> None:
        """Remove a file or everything below a folder; missing is fine."""
        ...

    def sweep(self) -> None:
        """Remove what a killed build left half-written."""
        ...

    def describe(self) -> str:
        """Return the root, for a message."""
        ...


class LocalStore:
    """A folder on a file system."""

    def __init__(self, root: Path) -> None:
        """Use ``root``, which is made with the first file."""
        self.root = root

    def publish(self, name: str, *pieces: bytes) -> None:
        """Write beside, flush to the disk, rename.

        Raises:
            DataError: the disk is full, the folder cannot be written, and the like.
        """
        path = self.root / name
        partial = path.with_name(f"{PARTIAL}{os.getpid()}-{path.name}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.writelines(pieces)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError as error:
            _forget(partial)
            size = sum(map(len, pieces))
            raise DataError(
                f"cannot write {path} ({size:,} bytes): {error.strerror or error}; make room "
                f"or give another --out. What is complete stays: the same command goes on from it"
            ) from error

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a file, None where there is none."""
        try:
            return (self.root / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def sha256(self, name: str) -> str | None:
        """Return the digest of a file, None where there is none."""
        try:
            return sha256_of(self.root / name)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def list(self, prefix: str = "") -> list[str]:
        """Return the names of all files below the folder ``prefix``, sorted."""
        files = (path for path in (self.root / prefix).rglob("*") if path.is_file())
        names = [path.relative_to(self.root).as_posix() for path in files]
        return sorted(name for name in names if PARTIAL not in name)

    def delete(self, name: str) -> None:
        """Remove a file or a folder."""
        path = self.root / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            _forget(path)

    def sweep(self) -> None:
        """Remove what a killed build left half-written."""
        for path in self.root.rglob(f"{PARTIAL}*"):
            _forget(path)

    def describe(self) -> str:
        """Return the folder."""
        return str(self.root)


def _forget(path: Path) -> None:
    """Remove a file; whatever stands in the way must not hide the error being reported."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return
