"""The packed samples of a split as a loader sees them: bytes by number, labels, ids, places.

    Split -> Samples: .read(i) -> the bytes of a JPEG; .labels, .image_ids; .place(i) for messages

Bytes are read with ``pread`` at the index's offset, not mapped: a shard that was cut short or
taken away is then an error with a name instead of a SIGBUS, and a rank's memory does not grow
with the data that it has seen.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import simplejpeg

from pipeline.errors import DataError
from pipeline.ham10000.taxonomy import DX

if TYPE_CHECKING:
    from pipeline.shards.dataset import Split

OPEN_SHARDS = 64
"""File descriptors that are kept open; others are opened again when needed."""

END_OF_IMAGE = b"\xff\xd9"
"""The last marker of a JPEG, and, in a shard, its last bytes."""


class Samples:
    """Read access to the samples of one split, by their number in packing order."""

    def __init__(self, split: "Split") -> None:
        """Take what the loop needs out of the table, once."""
        locations = split.locations()
        self._shard = np.asarray(locations.shard)
        self._offset = np.asarray(locations.offset)
        self._size = np.asarray(locations.size)
        self._files = _OpenFiles(split.tars)
        self.tars: tuple[Path, ...] = tuple(split.tars)
        """The shards, in the order of their numbers."""
        self.labels: np.ndarray = _dx_index(split.samples["dx"])
        """``[n] int64``, indexes into ``taxonomy.DX``."""
        self.image_ids: list[str] = [str(each) for each in split.samples["image_id"]]
        """Image id of each sample."""

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.image_ids)

    @property
    def shard_of(self) -> np.ndarray:
        """``[n] int``, the number of the shard in which each sample lies."""
        return self._shard

    def read(self, sample: int) -> bytes:
        """Return the JPEG of ``sample``, or raise a DataError that names its place."""
        size, offset = int(self._size[sample]), int(self._offset[sample])
        try:
            data = self._files.pread(int(self._shard[sample]), size, offset)
        except OSError as error:
            raise DataError(
                f"cannot read {self.place(sample)}: {error.strerror or error}. The shard was there "
                "when loading began: was the folder moved, or its storage unmounted? Bring it "
                "back and start the same command again; it goes on where it was."
            ) from error
        if len(data) != size:
            raise DataError(
                f"cannot read {self.place(sample)}: the shard ends early, {size} bytes expected, "
                f"{len(data)} found. Run `python -m pipeline.shards verify` on the folder."
            )
        return data

    def size_of(self, sample: int, data: bytes) -> tuple[int, int]:
        """Return width and height in pixels of a JPEG; DataError if it is none, or ends early.

        The end is looked at because DALI decodes what is left of an image and says nothing.
        """
        if not data.endswith(END_OF_IMAGE):
            raise self.undecodable(sample, "no end-of-image marker at its end")
        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        except ValueError as error:
            raise self.undecodable(sample, error) from error
        return int(width), int(height)

    def place(self, sample: int) -> str:
        """Return image id, shard and offset of ``sample``, for a message."""
        tar = self.tars[int(self._shard[sample])]
        return f"{self.image_ids[sample]} in {tar} at byte {int(self._offset[sample])}"

    def undecodable(self, sample: int, reason: object) -> DataError:
        """Return the error that names a sample whose JPEG cannot be decoded."""
        return DataError(
            f"cannot decode {self.place(sample)}: expected a JPEG, found {reason}. Run `python -m "
            "pipeline.shards verify` on the folder; build the shards again if it finds damage."
        )

    def close(self) -> None:
        """Close the shards that are open."""
        self._files.close()


def _dx_index(dx: Iterable[str]) -> np.ndarray:
    table = {name: index for index, name in enumerate(DX)}
    return np.array([table[each] for each in dx], dtype=np.int64)


class _OpenFiles:
    """The most recently read files, open; safe to read from several threads."""

    def __init__(self, paths: tuple[Path, ...]) -> None:
        self._paths = tuple(paths)
        self._lock = threading.Lock()
        self._open: OrderedDict[int, int] = OrderedDict()

    def pread(self, number: int, size: int, offset: int) -> bytes:
        """Return ``size`` bytes of file ``number``; fewer where it ends."""
        with self._lock:
            descriptor = os.dup(self._descriptor(number))
        try:
            return os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)

    def _descriptor(self, number: int) -> int:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        if len(self._open) >= OPEN_SHARDS:
            os.close(self._open.popitem(last=False)[1])
        self._open[number] = os.open(self._paths[number], os.O_RDONLY)
        return self._open[number]

    def close(self) -> None:
        with self._lock:
            while self._open:
                os.close(self._open.popitem()[1])
