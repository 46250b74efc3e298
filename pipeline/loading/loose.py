"""Batches of loose image files, preprocessed as the eval phase does: for ``eval.py predict``.

Any format that Pillow reads is taken. Such images are few and unlike each other, so this is one
plain thread without a look-ahead.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from pipeline.errors import DataError
from pipeline.loading.batch import Batch
from pipeline.loading.portable import render_eval


def loose_batches(
    paths: Sequence[Path], *, image_size: int, batch_size: int, device: torch.device
) -> Iterator[Batch]:
    """Yield batches of the images at ``paths``; ids are the paths, labels are all -1.

    Args:
        paths: image files.
        image_size: side of the square output, pixels.
        batch_size: images.
        device: where the batches go.

    Raises:
        DataError: a file is missing or no image.
    """
    for start in range(0, len(paths), batch_size):
        some = paths[start : start + batch_size]
        images = torch.empty((len(some), image_size, image_size, 3))
        for path, out in zip(some, images.numpy(), strict=True):
            render_eval(read_rgb(path), out)
        yield Batch(
            images=images.permute(0, 3, 1, 2).to(device),
            labels=torch.full((len(some),), -1, dtype=torch.int64, device=device),
            image_ids=tuple(str(path) for path in some),
        )


def read_rgb(path: Path) -> np.ndarray:
    """Return the image at ``path``, ``[H, W, 3] uint8 0-255``."""
    try:
        with Image.open(path) as image:
            return np.array(image.convert("RGB"))
    except FileNotFoundError as error:
        raise DataError(f"no such image: {path}") from error
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            f"cannot read image {path}: expected a whole JPEG, PNG or other image file, found "
            f"{error}. Remove it from the list, or fetch it again."
        ) from error
