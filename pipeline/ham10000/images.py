"""Image bytes by id, read from folders or directly from zips; nothing is unpacked to disk.

A source holds ``HAM10000_images_part_1`` and ``_2`` as folders or as ``.zip``; without them every
image file below the folder and in the zips directly in it counts. An image's id is its file name
without the extension. Files are only read, never written, so a hostile member name (``../``, an
absolute path) has no effect. Pipes, devices and files larger than ``MAX_IMAGE_BYTES`` are refused.

    store = ImageStore(Path("data/ham10000"))
    jpeg = store.read("ISIC_0024306")
"""

import copy
import functools
import io
import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from pipeline.errors import DataError
from pipeline.folders import is_clutter, printable, walk
from pipeline.ham10000 import hdf5
from pipeline.ham10000.decoding.formats import EXTENSIONS, LFS_POINTER, UNREAD, describe_unread
from pipeline.ham10000.names import locate

OnBadImage = Literal["error", "skip"]
"""Whether an image that is damaged or not there ends the work, or is left out and listed."""

MAX_IMAGE_BYTES = 64 * 2**20
"""Most bytes of one image file or unpacked zip member: 64 MiB."""

CONTAINER = re.compile(
    r"(HAM10000_images_part_\d+|ISIC2018_Task3_Test_Images)(\.zip)?", re.IGNORECASE
)
"""Folders and zips of a source that hold images."""


class Location(NamedTuple):
    """Where one image's bytes are."""

    container: int
    """Index into ``ImageStore.containers``."""
    member: str
    """Path below the folder, or name inside the zip."""
    name: str
    """The same as it was meant: zips have other encodings and separators."""
    size: int
    """Bytes, unpacked."""
    stamp: int
    """Changes when the bytes do: the CRC-32 in a zip, the mtime in ns in a folder."""


def require_folder(source: Path) -> Path:
    """Return ``source`` if it is a folder that can be read; raise a ``DataError`` otherwise."""
    if not os.path.lexists(source):
        raise DataError(f"no such folder: {source}; --source is the folder with the images")
    if not os.path.isdir(source):  # noqa: PTH112 - Path.is_dir raises where it may not look
        raise DataError(f"{source} is a file; --source is the folder that holds the images")
    if not os.access(source, os.R_OK | os.X_OK):
        raise DataError(f"cannot read {source}: permission denied; ask its owner for the right to")
    return source


class ImageStore:
    """The images of a source, by id. Cheap to pickle; each process opens its own zips."""

    def __init__(self, source: Path, names: Mapping[str, str] | None = None) -> None:
        """List the images in the folder ``source``.

        ``names`` has file name or path by image id, as a table gives it; without it each file's id
        is its name without the extension. A zip that cannot be read is a DataError.
        """
        self.source = require_folder(source)
        self.containers = find_containers(self.source)
        self.unread: Counter[str] = Counter()
        """How many files of formats that are not read lie there, by ending."""
        self.unreadable: list[str] = []
        """Folders that could not be listed, each with the reason."""
        self.locations = self._index(names)
        """Every file that claims an id, by id; several must be copies of one image."""

    def _index(self, names: Mapping[str, str] | None) -> dict[str, tuple[Location, ...]]:
        listed = list(self._list())
        if names is None:
            claims = ((PurePosixPath(location.name).stem, location) for location in listed)
        else:
            places = locate(names, [location.name for location in listed])
            claims = ((key, listed[index]) for key, indexes in places.items() for index in indexes)
        found: dict[str, tuple[Location, ...]] = {}
        for key, location in claims:
            found[key] = (*found.get(key, ()), location)
        return dict(sorted(found.items()))

    def _list(self) -> Iterator[Location]:
        """Yield every image file of the source and count files of formats that are not read."""
        for number, container in enumerate(self.containers):
            is_folder = container.is_dir()
            members = _files(container, self.unreadable) if is_folder else _members(container)
            for facts in members:
                location = Location(number, *facts)
                ending = PurePosixPath(location.name).suffix.lower()
                if ending in EXTENSIONS:
                    yield location
                elif ending in UNREAD and self._path(location) not in self.containers:
                    self.unread[ending] += 1

    def only(self, image_ids: Iterable[str]) -> "ImageStore":
        """Return a store of these images alone, which pickles small however large the source."""
        part = copy.copy(self)
        known = self.locations
        part.locations = {name: known[name] for name in image_ids if name in known}
        return part

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.locations)

    def ids(self) -> set[str]:
        """Return the ids of all images."""
        return set(self.locations)

    def where(self, image_id: str) -> str:
        """Return where an image is, for a message."""
        known = self.locations.get(image_id)
        return printable(self._path(known[0]) if known else self.source)

    def problem(self, image_id: str) -> str:
        """Return why an image cannot be read, as far as the listing tells; "" if it can."""
        first, *others = self.locations[image_id]
        path = self._path(first)
        if self.containers[first.container].is_dir() and not os.access(path, os.R_OK):
            return f"cannot read {printable(path)}: permission denied"
        for other in others:
            zipped = not any(self.containers[each.container].is_dir() for each in (first, other))
            if first.size != other.size or (zipped and first.stamp != other.stamp):
                return self._differ(image_id, first, other)
        return ""

    def read(self, image_id: str) -> bytes:
        """Return the bytes of an image file, undecoded; none, or two that differ: DataError."""
        first, *others = self.locations.get(image_id) or (None,)
        if first is None:
            raise DataError(f"no image {image_id} in {self.source}")
        data = self._bytes(first)
        for other in others:
            linked = _is_one_file(self._path(first), self._path(other))
            if not linked and self._bytes(other) != data:
                raise DataError(self._differ(image_id, first, other))
        return data

    def _path(self, location: Location) -> Path:
        return self.containers[location.container] / location.member

    def _differ(self, image_id: str, first: Location, other: Location) -> str:
        return (
            f"two different images are called {image_id}: {printable(self._path(first))} "
            f"({first.size:,} bytes) and {printable(self._path(other))} ({other.size:,} bytes); "
            f"remove or rename one of them"
        )

    def _bytes(self, location: Location) -> bytes:
        where = printable(self._path(location))
        if location.size > MAX_IMAGE_BYTES:
            raise DataError(
                f"{where} has {location.size:,} bytes unpacked; the limit is {MAX_IMAGE_BYTES:,}"
            )
        container = self.containers[location.container]
        try:
            if container.is_dir():
                file = (container / location.member).open("rb")
            elif container.suffix.lower() in hdf5.ENDINGS:
                file = io.BytesIO(hdf5.read(container, location.member))
            else:
                file = _zip(container, os.getpid()).open(location.member)
            with file:
                data = file.read(location.size + 1)
        except NotImplementedError as error:  # Windows packs large folders so
            raise DataError(f"cannot read {where}: {error}; unpack the zip") from error
        except (OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"cannot read {where}: {error}") from error
        if len(data) > location.size:  # a zip's directory can understate a size
            raise DataError(
                f"cannot read {where}: it has more than the {location.size:,} bytes that it had "
                f"when the source was listed"
            )
        return data


def _is_one_file(first: Path, other: Path) -> bool:
    """Say whether two paths lead to one file: a link, or a folder linked twice."""
    return first.exists() and other.exists() and first.samefile(other)


@functools.cache
def _zip(path: Path, process: int) -> zipfile.ZipFile:
    """Return the open zip of this process: a forked one would share its file position."""
    return zipfile.ZipFile(path)


def find_containers(source: Path) -> tuple[Path, ...]:
    """Return the folders, zips and HDF5 files in ``source`` that hold images, folders first.

    Where HAM10000's parts are missing, other zips follow and the folder itself comes last.
    """
    inside = [path for path in source.iterdir() if not is_clutter(path.name)]
    zips = {p for p in inside if p.suffix.lower() == ".zip" or hdf5.is_read(p) if p.is_file()}
    found = [p for p in inside if CONTAINER.fullmatch(p.name) and (p in zips or p.is_dir())]
    found.sort(key=lambda path: (path in zips, path.name))
    if any(path.name.lower().startswith("ham10000") for path in found):
        return tuple(found)
    return (*found, *sorted(zips - set(found)), source)


def missing_images(image_ids: Iterable[str], store: ImageStore) -> list[str]:
    """Return the ids that have no image in ``store``, sorted."""
    return sorted(set(image_ids) - store.ids())


def require_images(image_ids: Iterable[str], store: ImageStore) -> None:
    """Raise a ``DataError`` if an id has no image in ``store``, or two that differ."""
    missing = missing_images(image_ids, store)
    if missing:
        more = f" and {len(missing) - 3:,} more" if len(missing) > 3 else ""
        raise DataError(
            f"{len(missing):,} rows of the metadata have no image: {', '.join(missing[:3])}{more}; "
            f"looked through {len(store):,} images in {', '.join(map(str, store.containers))}. "
            f"{absent_part(store)}{hints(store)}Bring them, or leave them out with --on-bad-image "
            f"skip (they are listed in rejected.csv)"
        )
    differing = [problem for name in image_ids if (problem := store.problem(name))]
    if differing:
        more = f" ({len(differing) - 1:,} more such images)" if len(differing) > 1 else ""
        raise DataError(differing[0] + more)


def absent_part(store: ImageStore) -> str:
    """Return a sentence that names the part of HAM10000 which is not there, if one of two is."""
    names = " ".join(path.name.lower() for path in store.containers)
    absent = [part for part in ("part_1", "part_2") if part not in names]
    return f"HAM10000_images_{absent[0]} is not there. " if len(absent) == 1 else ""


def hints(store: ImageStore) -> str:
    """Return what was passed over and may be the images that somebody misses, in sentences."""
    said = [describe_unread(store.unread, store.source)] if store.unread else []
    said += [f"cannot list the folder {text}" for text in store.unreadable]
    return "".join(f"{sentence}. " for sentence in said)


def _files(folder: Path, unreadable: list[str]) -> Iterator[tuple[str, str, int, int]]:
    """Yield path, path, size and mtime of each file below ``folder``."""
    for path in walk(folder, unreadable):
        with suppress(OSError):  # a link that leads nowhere
            status = path.stat()
            inside = path.relative_to(folder).as_posix()
            yield inside, inside, status.st_size, status.st_mtime_ns


def _members(path: Path) -> Iterator[tuple[str, str, int, int]]:
    """Yield name, the same as meant, unpacked size and CRC-32 of each file in a zip."""
    if path.suffix.lower() in hdf5.ENDINGS:
        yield from hdf5.members(path)
        return
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (OSError, zipfile.BadZipFile) as error:
        pointer = os.access(path, os.R_OK) and path.open("rb").read(99).startswith(LFS_POINTER)
        advice = "it is a Git LFS pointer: run `git lfs pull`" if pointer else "fetch it again"
        raise DataError(f"cannot read the zip {path}: {error}; {advice}") from error
    for entry in entries:
        name = _member_name(entry)
        if not entry.is_dir() and not any(map(is_clutter, PurePosixPath(name).parts)):
            yield entry.filename, name, entry.file_size, entry.CRC


def _member_name(entry: zipfile.ZipInfo) -> str:
    """Return a member's path as meant: macOS does not mark UTF-8, some zips have backslashes."""
    name = entry.filename
    if not entry.flag_bits & 0x800:  # decoded as code page 437
        with suppress(UnicodeError):
            name = name.encode("cp437").decode()
    return name.replace("\\", "/")
