"""Image bytes by id, read from folders or directly from zips; nothing is unpacked to disk.

A source holds ``HAM10000_images_part_1`` and ``_2`` as folders or as ``.zip``; without them every
image file below the folder counts. An image's id is its file name without the extension. Files are
only read, never written, so a hostile member name (``../``, an absolute path) has no effect. Pipes,
devices and files larger than ``MAX_IMAGE_BYTES`` are refused.

    store = ImageStore(Path("data/ham10000"))
    jpeg = store.read("ISIC_0024306")
"""

import copy
import functools
import os
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pipeline.errors import DataError
from pipeline.ham10000.names import EXTENSIONS, locate

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
    size: int
    """Bytes, unpacked."""
    stamp: int
    """Changes when the bytes do: the CRC-32 in a zip, the mtime in ns in a folder."""


def require_folder(source: Path) -> Path:
    """Return ``source`` if it is a folder; raise a ``DataError`` otherwise."""
    if not source.exists():
        raise DataError(f"no such folder: {source}; --source is the folder with the images")
    if not source.is_dir():
        raise DataError(f"{source} is a file; --source is the folder that holds the images")
    return source


class ImageStore:
    """The images of a source, by id. Cheap to pickle; each process opens its own zips."""

    def __init__(self, source: Path, names: Mapping[str, str] | None = None) -> None:
        """List the images in ``source``.

        Args:
            source: folder.
            names: file name or path by image id, as a table gives it; without it each file's id is
                its name without the extension.

        Raises:
            DataError: no such folder, a zip that cannot be read, or one id for two images.
        """
        self.source = require_folder(source)
        self.containers = find_containers(self.source)
        self.locations = _index(self.containers, names)

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
        location = self.locations[image_id]
        return f"{self.containers[location.container]}/{location.member}"

    def read(self, image_id: str) -> bytes:
        """Return the bytes of an image file as they are, undecoded.

        Raises:
            DataError: there is no such image, or its file cannot be read or is too large.
        """
        location = self.locations.get(image_id)
        if location is None:
            raise DataError(f"no image {image_id} in {self.source}")
        if location.size > MAX_IMAGE_BYTES:
            raise DataError(
                f"{self.where(image_id)} has {location.size:,} bytes unpacked; the limit is "
                f"{MAX_IMAGE_BYTES:,}"
            )
        container = self.containers[location.container]
        try:
            if container.is_dir():
                file = (container / location.member).open("rb")
            else:
                file = _zip(container, os.getpid()).open(location.member)
            with file:
                data = file.read(location.size + 1)
        except (OSError, RuntimeError, zipfile.BadZipFile, zlib.error, NotImplementedError) as e:
            raise DataError(f"cannot read {self.where(image_id)}: {e}") from e
        if len(data) > location.size:  # a zip's directory can understate a size
            raise DataError(
                f"cannot read {self.where(image_id)}: it has more than the {location.size:,} bytes "
                f"that it had when the source was listed"
            )
        return data


@functools.cache
def _zip(path: Path, process: int) -> zipfile.ZipFile:
    """Return the open zip of this process: a forked one would share its file position."""
    return zipfile.ZipFile(path)


def find_containers(source: Path) -> tuple[Path, ...]:
    """Return the folders and zips in ``source`` that hold images, folders first.

    Where HAM10000's parts are missing, the folder itself comes last.
    """
    found = [path for path in source.iterdir() if CONTAINER.fullmatch(path.name)]
    found = [path for path in found if path.is_dir() or path.suffix.lower() == ".zip"]
    found.sort(key=lambda path: (not path.is_dir(), path.name))
    has_parts = any(path.name.lower().startswith("ham10000") for path in found)
    return tuple(found if has_parts else [*found, source])


def require_images(image_ids: Iterable[str], store: ImageStore) -> None:
    """Raise a ``DataError`` if an id has no image in ``store``."""
    missing = sorted(set(image_ids) - store.ids())
    if missing:
        more = f" and {len(missing) - 3:,} more" if len(missing) > 3 else ""
        raise DataError(
            f"{len(missing):,} rows of the metadata have no image: {', '.join(missing[:3])}{more}; "
            f"looked through {len(store):,} images in {', '.join(map(str, store.containers))}"
        )


def _index(
    containers: tuple[Path, ...], names: Mapping[str, str] | None = None
) -> dict[str, Location]:
    """Return image id -> location, sorted by id."""
    listed = list(_list(containers))
    if names is None:
        claims = ((PurePosixPath(location.member).stem, location) for location in listed)
    else:
        places = locate(names, [location.member for location in listed])
        claims = ((key, listed[index]) for key, indexes in places.items() for index in indexes)
    found: dict[str, Location] = {}
    for key, location in claims:
        first = found.setdefault(key, location)
        if first.size != location.size:
            raise DataError(
                f"two different images are called {(names or {}).get(key, key)}: "
                f"{containers[first.container]}/{first.member} ({first.size:,} bytes) and "
                f"{containers[location.container]}/{location.member} ({location.size:,} bytes); "
                f"remove one of them"
            )
    return dict(sorted(found.items()))


def _list(containers: tuple[Path, ...]) -> Iterator[Location]:
    """Yield every image file of the source."""
    for number, container in enumerate(containers):
        members = _files(container) if container.is_dir() else _members(container)
        for member, size, stamp in members:
            name = PurePosixPath(member)
            if name.suffix.lower() in EXTENSIONS and not name.name.startswith("."):
                yield Location(number, member, size, stamp)


def _files(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Yield path, size and mtime of each regular file below ``folder``.

    A link to a file is read like the file; a link to a folder is not followed, which avoids loops.
    """
    for root, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            path = Path(root, name)
            if path.is_file():  # not a pipe, a socket, a device or a dangling link
                status = path.stat()
                yield path.relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns


def _members(path: Path) -> Iterator[tuple[str, int, int]]:
    """Yield name, unpacked size and CRC-32 of each file in a zip."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(
            f"cannot read the zip {path}: {error}; fetch it again, it is damaged or incomplete"
        ) from error
    for entry in entries:
        if not entry.is_dir() and not entry.filename.startswith("__MACOSX/"):
            yield entry.filename, entry.file_size, entry.CRC
