"""Other people's folders: what lies there, which names mean nothing, names as text.

for path in walk(Path("photos"), unreadable := []): ...
"""

import errno
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import warn

CLUTTER = (
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "__macosx",
    "icon\r",
    "@eadir",
    "$recycle.bin",
)
"""Names (lower case) that systems leave in folders, besides hidden ones."""


def is_clutter(name: str) -> bool:
    """Say whether a name is hidden, or that of a file which the Finder, Windows or a NAS leaves."""
    return (name.startswith(".") and name.strip(".") != "") or name.lower() in CLUTTER


def printable(path: object) -> str:
    """Return a path as one line of UTF-8: bytes that are no UTF-8 and line breaks as escapes."""
    return utf8(path).translate({code: repr(chr(code))[1:-1] for code in (*range(32), 127)})


def utf8(path: object) -> str:
    """Return a path as text that UTF-8 can encode: bytes of a name that are none as escapes."""
    return os.fsencode(str(path)).decode("utf-8", "backslashreplace")


def walk(root: Path, unreadable: list[str]) -> Iterator[Path]:
    """Yield each file below ``root`` but clutter, by name; linked folders come last.

    A folder is listed once, however many links lead to it; a link to a folder around it is named
    on the screen. Devices and pipes are passed over; links that lead nowhere are not.
    ``unreadable`` receives folders that cannot be listed, with the reason.
    """
    seen: set[str] = set()
    folders, linked = deque([root]), deque[Path]()
    while folders or linked:
        folder = (folders or linked).popleft()
        real = os.path.realpath(folder)
        if folder.is_symlink() and folder != root and _is_around(real, folder):
            warn(f"{printable(folder)} links to a folder around it: a loop, not followed")
            continue
        if real in seen:
            continue
        seen.add(real)
        try:
            if not os.access(folder, os.X_OK):  # else it may be listed, but nothing in it opened
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            unreadable.append(f"{printable(folder)}: {error.strerror}")
            continue
        for entry in entries:
            kind = "" if is_clutter(entry.name) else _kind(entry)
            if kind == "folder":
                (linked if entry.is_symlink() else folders).append(Path(entry.path))
            elif kind == "file":
                yield Path(entry.path)


def _is_around(real: str, link: Path) -> bool:
    """Say whether a link lies in the folder that it leads to, by the way that was taken."""
    return any(Path(os.path.realpath(parent)).is_relative_to(real) for parent in link.parents)


def _kind(entry: os.DirEntry[str]) -> str:
    """Return "folder", "file" (a link that leads nowhere too) or "" for devices and the like."""
    try:
        if entry.is_dir():
            return "folder"
        return "file" if entry.is_file() or not Path(entry.path).exists() else ""
    except OSError:  # a link that leads to itself
        return "file"
