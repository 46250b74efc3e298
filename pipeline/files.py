"""The one way to publish a file or a folder: write beside it, flush to the disk, rename.

    write_file(Path("RUN/config.json"), text)
    with staged(Path("RUN/curves.png")) as hidden:     # for libraries that write to a path
        figure.savefig(hidden)
    publish_folder(Path("RUN/checkpoints/step-00000012"), {"state.pt": data})

A reader sees the old content or the new one, never a part. A killed process leaves hidden names
that end in ``.partial`` or ``.old``: ``tidy`` removes the first and restores the second if its
successor is missing. Hidden names hold the process id, so that two processes can publish the same
file at once; the last rename wins.

A test that stops a process at a certain moment appends to ``watchers`` (see ``reach``).
"""

import ctypes
import errno
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.errors import DataError

AT_FDCWD, RENAME_EXCHANGE = -100, 2
"""Of renameat2(2)."""

PARTIAL, OLD = ".partial", ".old"
"""Endings of hidden names: content being written, content being replaced."""

watchers: list[Callable[[str, str], None]] = []
"""Called with each moment and what it is about; empty except in tests."""


def reach(moment: str, what: object) -> None:
    """Tell ``watchers`` that a moment has come: the seam at which a test kills this process.

    Moments here, ``what`` being the final path: "sync" (content is written, not yet flushed),
    "rename" (to the final name, next), "replace" (the old folder is aside, the new one has no name
    yet), "exchange" (of an old and a new folder, next), "link" (a symbolic link is made next).
    Training adds "batch", "step" and "validation", ``what`` being a number, and "taken", ``what``
    being the image ids of a batch.
    """
    for watcher in watchers:
        watcher(moment, str(what))


def is_unfinished(name: str) -> bool:
    """Say whether a name is that of an unfinished file or folder (of earlier versions too)."""
    return name.startswith(".") and PARTIAL in name


def beside(path: Path, ending: str = PARTIAL) -> Path:
    """Return the hidden path at which this process prepares ``path``."""
    mark = f".{os.getpid()}" if ending == PARTIAL else ""
    return path.with_name(f".{path.name}{mark}{ending}")


def sync(path: Path) -> None:
    """Flush a file's content, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network and FUSE mounts cannot flush a folder
            raise
    finally:
        os.close(descriptor)


@contextmanager
def writing(path: Path, advice: str = "check free space and permissions") -> Iterator[None]:
    """Turn an OSError of the block into a DataError that names ``path`` and says what to do."""
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}; {advice}") from error


def write_output(path: Path, *pieces: bytes | str) -> None:
    """Write a file as ``write_file``, with the folders above it, or raise a DataError."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, *pieces)


def require_writable(path: Path, flag: str, *, file: bool = False) -> None:
    """Raise a DataError, before the work, where ``path`` could not be written.

    A folder that is not there yet is judged by the nearest one above it. Nothing is left behind.
    ``path`` is a folder of results, or with ``file`` one file; ``flag`` names it, as "--out".
    """
    if file and path.is_dir():
        raise DataError(f"{flag} {path}: a folder is there; give the path of a file to write")
    place = (path.parent if file else path).absolute()
    while not os.path.lexists(place):
        place = place.parent
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".", suffix=PARTIAL):
            pass
    except OSError as error:
        raise DataError(
            f"{flag} {path}: {place} cannot be written to ({error.strerror or error}); give "
            f"another {flag}, or get permission to write there"
        ) from error


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Yield a hidden path to write a file to; it is renamed to ``path`` if the block succeeds.

    OSError: the file cannot be written; the hidden file is removed.
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
    """Write a file of these pieces; text is encoded as UTF-8, bytes of foreign names escaped.

    OSError: the file cannot be written; the old content stays.
    """
    with staged(path) as hidden, hidden.open("wb") as file:
        for piece in pieces:
            file.write(piece.encode(errors="backslashreplace") if isinstance(piece, str) else piece)


@contextmanager
def staged_folder(final: Path) -> Iterator[Path]:
    """Yield a hidden folder to fill; it replaces ``final`` if the block succeeds.

    One process at a time may write ``final``; what killed ones left of it is removed. An existing
    ``final`` is exchanged in one step; where the file system cannot, it is renamed aside first, and
    a process killed between the two renames leaves it there, for ``tidy`` to restore. OSError:
    something cannot be written; the hidden folder is removed, the old one stays.
    """
    hidden, old = beside(final), beside(final, OLD)
    for left in final.parent.glob(f".{glob.escape(final.name)}.*{PARTIAL}"):
        forget(left)
    try:
        hidden.mkdir(parents=True)
        yield hidden
        for path in (*hidden.rglob("*"), hidden):
            reach("sync", final / path.relative_to(hidden))
            sync(path)
        swapped = final.is_dir() and exchange(hidden, final)
        if final.exists() and not swapped:
            forget(old)
            final.rename(old)
            reach("replace", final)
        if not swapped:
            reach("rename", final)
            hidden.rename(final)
    except BaseException:
        if old.exists() and not final.exists():
            old.rename(final)
        forget(hidden)
        raise
    sync(final.parent)
    forget(hidden if swapped else old)


def exchange(one: Path, other: Path) -> bool:
    """Let two names change places in one step; return False where the system cannot (Linux can)."""
    reach("exchange", other)
    words = (AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE)
    with suppress(AttributeError):
        return ctypes.CDLL(None).renameat2(*words) == 0
    return False


def publish_folder(final: Path, files: Mapping[str, bytes]) -> None:
    """Publish a folder of these files, by name."""
    with staged_folder(final) as hidden:
        for name, content in files.items():
            (hidden / name).write_bytes(content)


def point(link: Path, target: Path) -> None:
    """Make ``link`` a relative symbolic link to its neighbour ``target``, in one rename.

    Where links cannot be made (exFAT, vfat, some network mounts) it becomes a copy of that folder.
    A folder that is there already, as in a copy made without links, is replaced.
    """
    hidden, old = beside(link), beside(link, OLD)
    hidden.unlink(missing_ok=True)
    try:
        reach("link", link)
        hidden.symlink_to(target.name)
    except OSError:
        publish_folder(link, {path.name: path.read_bytes() for path in target.iterdir()})
        return
    if link.is_dir() and not link.is_symlink():
        forget(old)
        link.rename(old)
    reach("rename", link)
    hidden.replace(link)
    sync(link.parent)
    forget(old)


def tidy(folder: Path) -> None:
    """Remove or restore what a killed process left directly in ``folder``, if there is one.

    Only while no other process writes there: its unfinished files would be removed too.
    """
    for path in list(folder.glob(".*")):
        if is_unfinished(path.name):
            forget(path)
        elif path.name.endswith(OLD):
            final = path.with_name(path.name.removeprefix(".").removesuffix(OLD))
            if final.exists():
                forget(path)
            else:
                path.rename(final)


def forget(path: Path) -> None:
    """Remove a file or a folder; errors are ignored, so as not to hide the one being reported."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_values(values: Mapping[str, Any]) -> str:
    """Return the sha256 of what a JSON object says, whatever its layout, in hexadecimal."""
    return sha256(json.dumps(values, sort_keys=True).encode())


def sha256(*pieces: bytes) -> str:
    """Return the sha256 of these pieces, in hexadecimal."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()
