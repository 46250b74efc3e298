"""The one way to publish a file or a folder: write beside it, flush to the disk, rename.

    write_file(Path("RUN/config.json"), text)          # a small file
    with staged(Path("RUN/curves.png")) as beside:     # whatever wants a path to write to
        figure.savefig(beside)
    publish_folder(Path("RUN/checkpoints/step-00000012"), {"state.pt": data})

A reader sees the old content or the new one, never a part. What a killed process leaves has a
hidden name that ends in ``.partial`` or ``.old``; ``tidy`` removes the first and brings back the
second where its successor did not arrive. The last part of a name carries the process id, so that
two processes that publish the same file do not write into each other's copy.

Tests that must stop a process at a certain moment append to ``watchers`` (see ``reach``).
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import DataError

PARTIAL, OLD = ".partial", ".old"
"""Endings of hidden names: what is being written, and what is being replaced."""

watchers: list[Callable[[str, str], None]] = []
"""Called with the name of each moment and what it is about; empty but in tests."""


def reach(moment: str, what: object) -> None:
    """Tell ``watchers`` that a moment has come: the seam at which a test kills this process.

    Moments here, ``what`` being the final path: "sync" (content is written, not yet flushed),
    "rename" (to the final name, next), "replace" (the old folder is aside, the new one has no name
    yet). Training adds "batch", "step" and "validation", ``what`` being a number.
    """
    for watcher in watchers:
        watcher(moment, str(what))


def is_unfinished(name: str) -> bool:
    """Say whether a file's name is that of something half-written (of earlier versions too)."""
    return name.startswith(".") and PARTIAL in name


def beside(path: Path, ending: str = PARTIAL) -> Path:
    """Return the hidden name under which ``path`` is prepared by this process."""
    mark = f".{os.getpid()}" if ending == PARTIAL else ""
    return path.with_name(f".{path.name}{mark}{ending}")


def sync(path: Path) -> None:
    """Flush a file's content, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing(path: Path, advice: str = "check free space and permissions") -> Iterator[None]:
    """Turn an OSError of the block into a DataError that names ``path`` and says what to do."""
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}; {advice}") from error


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Give a hidden path to write a file to; it becomes ``path`` when the block ends well.

    Raises:
        OSError: the file cannot be written; nothing is left beside.
    """
    hidden = beside(path)
    try:
        yield hidden
        reach("sync", path)
        sync(hidden)
        reach("rename", path)
        hidden.replace(path)
    except BaseException:
        forget(hidden)
        raise


def write_file(path: Path, *pieces: bytes | str) -> None:
    """Write a file of these pieces; text is encoded as UTF-8.

    Raises:
        OSError: the file cannot be written; what stood under the name stays.
    """
    with staged(path) as hidden, hidden.open("wb") as file:
        file.writelines(piece.encode() if isinstance(piece, str) else piece for piece in pieces)


@contextmanager
def staged_folder(final: Path) -> Iterator[Path]:
    """Give a hidden folder to fill; it takes the place of ``final`` when the block ends well.

    A folder under the final name is moved aside first; a kill between the two renames leaves it
    there, for ``tidy``.

    Raises:
        OSError: something cannot be written; nothing is left beside.
    """
    hidden, old = beside(final), beside(final, OLD)
    shutil.rmtree(hidden, ignore_errors=True)
    try:
        hidden.mkdir(parents=True)
        yield hidden
        reach("sync", final)
        sync(hidden)
        if final.exists():
            shutil.rmtree(old, ignore_errors=True)
            final.rename(old)
            reach("replace", final)
        reach("rename", final)
        hidden.rename(final)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise
    sync(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def publish_folder(final: Path, files: Mapping[str, bytes]) -> None:
    """Publish a folder of these files, each flushed to the disk before the folder has its name."""
    with staged_folder(final) as hidden:
        for name, content in files.items():
            path = hidden / name
            path.write_bytes(content)
            reach("sync", final / name)
            sync(path)


def point(link: Path, target: Path) -> None:
    """Make ``link`` a relative symbolic link to its neighbour ``target``, in one rename."""
    hidden = beside(link)
    hidden.unlink(missing_ok=True)
    hidden.symlink_to(target.name)
    reach("rename", link)
    hidden.replace(link)
    sync(link.parent)


def tidy(folder: Path) -> None:
    """Put right what a killed process left in ``folder`` (not below it)."""
    for old in list(folder.glob(f".*{OLD}")):
        final = old.with_name(old.name.removeprefix(".").removesuffix(OLD))
        if final.exists():
            forget(old)
        else:
            old.rename(final)
    for path in list(folder.glob(f".*{PARTIAL}*")):
        forget(path)


def forget(path: Path) -> None:
    """Remove a file or a folder; an error does not hide the one that is being reported."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError:
        return


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256(*pieces: bytes) -> str:
    """Return the sha256 of these pieces, in hexadecimal."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()
