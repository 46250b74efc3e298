"""The packed samples of a split: JPEG bytes by row, labels, ids, and where each one lies.

    samples = Samples(shard_set.split("train"))
    samples.read(17), samples.labels[17], samples.image_id(17)

A row is a sample's place in packing order. Bytes are read with ``pread`` at the index's offset,
not mapped: a shard that was cut short or taken away then gives an error that names it instead of
a SIGBUS, and a rank's memory does not grow with the data that it has read.
"""

import os
import weakref
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import simplejpeg

from pipeline.errors import DataError
from pipeline.shards.dataset import Split
from pipeline.shards.intact import checksums

OPEN_SHARDS = 64
"""Shards that are kept open at most; others are opened again when needed."""

END_OF_IMAGE = b"\xff\xd9"
"""The last marker of a JPEG and, in a shard, its last bytes."""


class Samples:
    """Read access to the samples of one split; safe to use from several threads."""

    def __init__(self, split: Split) -> None:
        """Read the indexes of the split's shards; tars are opened when they are read."""
        where = split.locations()
        tars, table = split.tars, split.read(("image_id", "dx"))
        self.shard_of: np.ndarray = np.asarray(where.shard)
        """``[n] int``, number of the shard of each sample."""
        self.taxonomy = split.taxonomy
        """The classes."""
        self.labels: np.ndarray = split.taxonomy.index(table["dx"])
        """``[n] int64``, indexes into ``taxonomy.classes``."""
        self._ids: np.ndarray = np.array(table["image_id"].tolist(), np.bytes_)
        self._tars, self._offset, self._size = tars, where.offset, where.size
        self._crc, self._sizes = checksums(split), np.zeros((len(table), 2), np.uint16)
        self._open = lru_cache(OPEN_SHARDS)(lambda shard: _OpenFile(tars[shard]))

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.labels)

    def image_id(self, row: int) -> str:
        """Return the image id of a sample."""
        return self._ids[row].decode()

    def rows(self, image_ids: Sequence[str]) -> list[int]:
        """Return the samples of some image ids, in their order."""
        wanted = [name.encode() for name in image_ids]
        found = np.flatnonzero(np.isin(self._ids, wanted))
        row_of = {self._ids[row]: int(row) for row in found}
        return [row_of[name] for name in wanted]

    def read(self, row: int) -> bytes:
        """Return the JPEG of a sample.

        DataError: it cannot be read; the message names image, shard and offset.
        """
        size, offset = int(self._size[row]), int(self._offset[row])
        try:
            file = self._open(int(self.shard_of[row]))
            data = os.pread(file.descriptor, size, offset)
        except OSError as error:
            raise DataError(
                f"cannot read {self.place(row)}: {error.strerror or error}. The shard was there "
                "when loading began: was the folder moved, or its storage unmounted? Bring it "
                "back and run the same command again; it continues where it stopped."
            ) from error
        if len(data) != size:
            raise DataError(
                f"cannot read {self.place(row)}: the shard ends early, {size} bytes expected, "
                f"{len(data)} found. Run `python -m pipeline.shards verify` on the folder."
            )
        if self._crc is not None and zlib.crc32(data) != self._crc[row]:
            raise self.undecodable(row, "other bytes than were verified when loading began")
        return data

    def sizes(self, rows: Sequence[int], jpegs: Sequence[bytes]) -> np.ndarray:
        """Return ``[n, 2] int``, width and height in pixels of the JPEGs of some samples.

        DataError: one is no JPEG, or ends early (DALI would decode the rest without an error).
        """
        for row, jpeg in zip(rows, jpegs, strict=True):
            if not jpeg.endswith(END_OF_IMAGE):
                raise self.undecodable(row, "no end-of-image marker at its end")
            if not self._sizes[row, 0]:  # a header is parsed once
                try:
                    height, width, _, _ = simplejpeg.decode_jpeg_header(jpeg)
                except ValueError as error:
                    raise self.undecodable(row, error) from error
                self._sizes[row] = width, height
        return self._sizes[rows].astype(int)

    def place(self, row: int) -> str:
        """Return image id, shard and offset of a sample, for a message."""
        tar = self._tars[int(self.shard_of[row])]
        return f"{self.image_id(row)} in {tar} at byte {int(self._offset[row])}"

    def undecodable(self, row: int, reason: object) -> DataError:
        """Return the error that names a sample whose JPEG cannot be decoded."""
        return DataError(
            f"cannot decode {self.place(row)}: expected a JPEG, found {reason}. Run `python -m "
            "pipeline.shards verify` on the folder; build the shards again if it finds damage."
        )

    def close(self) -> None:
        """Close the shards that are open."""
        self._open.cache_clear()


class _OpenFile:
    """A file that is closed once nothing refers to it, so never while another thread reads."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.descriptor).atexit = False
