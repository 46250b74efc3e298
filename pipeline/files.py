"""A folder appears under its name when everything in it is on disk, or not at all."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

PARTIAL, OLD = ".partial", ".old"
"""Endings of hidden names: what is being written, and what is being replaced."""


def publish(final: Path, files: Mapping[str, bytes]) -> None:
    """Write ``files`` into a folder beside ``final``, sync it, and rename it to ``final``.

    A folder of that name is replaced; a kill between the two renames leaves it beside, for
    ``tidy``. Where the disk is full, what was begun is removed and the ``OSError`` goes on to the
    caller.
    """
    partial = final.with_name(f".{final.name}{PARTIAL}")
    old = final.with_name(f".{final.name}{OLD}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        for name, content in files.items():
            with (partial / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        sync_folder(partial)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if final.exists():
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
    partial.rename(final)
    sync_folder(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def tidy(parent: Path) -> None:
    """Put right what a killed process left in ``parent``.

    What was only begun goes, and what was replaced; but that comes back where its successor has
    not arrived.
    """
    for old in list(parent.glob(f".*{OLD}")):
        final = old.with_name(old.name.removeprefix(".").removesuffix(OLD))
        if not final.exists():
            old.rename(final)
    for path in (*parent.glob(f".*{OLD}"), *parent.glob(f".*{PARTIAL}")):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a small file under ``path``, in one rename."""
    beside = path.with_name(f".{path.name}{PARTIAL}")
    beside.write_text(text)
    beside.replace(path)


def point(link: Path, target: Path) -> None:
    """Make ``link`` a relative symlink to its neighbour ``target``, in one rename."""
    beside = link.with_name(f".{link.name}{PARTIAL}")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target.name)
    beside.replace(link)
    sync_folder(link.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in ``folder`` on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
