"""Images in an HDF5 file, one dataset of bytes each, as Kaggle's ISIC 2024 train-image.hdf5.

``pip install h5py`` is needed; without it such files are counted among those that are not read.
"""

import functools
import importlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import DataError

ENDINGS = (".hdf5", ".h5")


def is_read(path: Path) -> bool:
    """Say whether ``path`` is a file of images that can be read here."""
    return path.suffix.lower() in ENDINGS and importlib.util.find_spec("h5py") is not None


def members(path: Path) -> Iterator[tuple[str, str, int, int]]:
    """Yield name, name as a file, bytes and the file's mtime of each image in an HDF5 file."""
    h5py = importlib.import_module("h5py")
    try:
        with h5py.File(path) as file:
            stamp = path.stat().st_mtime_ns
            for name in file:
                size = h5py.h5d.open(file.id, name.encode()).get_storage_size()  # 10 times faster
                yield name, f"{name}.jpg", size, stamp
    except (OSError, KeyError, RuntimeError) as error:
        raise DataError(f"cannot read {path}: {error}; fetch it again") from error


def read(path: Path, name: str) -> bytes:
    """Return the bytes of one image, or raise an OSError."""
    try:
        return _open(path, os.getpid())[name][()].tobytes()
    except (KeyError, RuntimeError) as error:
        raise OSError(str(error)) from error


@functools.cache
def _open(path: Path, process: int) -> Any:
    """Return the open file of this process: a forked one cannot be shared."""
    return importlib.import_module("h5py").File(path)
