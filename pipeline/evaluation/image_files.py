"""Images given as files: found, read a batch at a time, and their predictions written.

python eval.py predict --checkpoint runs/r34/best --out OUT IMAGE_OR_FOLDER...
"""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.errors import DataError
from pipeline.evaluation.predictions import as_csv, require_probabilities
from pipeline.evaluation.report.cases import SIDE
from pipeline.evaluation.report.page import write_files
from pipeline.evaluation.report.pictures import centre_square
from pipeline.figures import Tile, contact_sheet, png
from pipeline.files import forget
from pipeline.folders import printable, utf8, walk
from pipeline.ham10000.decoding.formats import EXTENSIONS, UNREAD, describe_unread
from pipeline.ham10000.decoding.jpeg import BadImageError
from pipeline.ham10000.decoding.pixels import rgb_pixels
from pipeline.ham10000.images import MAX_IMAGE_BYTES
from pipeline.ham10000.taxonomy import LABELS

SKIP = "leave such images out with --on-bad-image skip (they are listed in rejected.csv)"


def find_images(places: Sequence[Path], *, skip: bool = False) -> tuple[list[Path], list[str]]:
    """Return every image among ``places`` and below the folders among them, and what to tell.

    Each path comes once; a folder's are sorted. Hidden files and those that systems leave are
    passed over below a folder. ``skip`` leaves out, with a note, what cannot be read; else that
    is a DataError, as is a place without an image.
    """
    found: dict[Path, None] = {}
    unread: Counter[str] = Counter()
    unreadable: list[str] = []
    for place in places:
        if not os.path.lexists(place):
            raise DataError(f"{printable(place)}: no such image or folder")
        if not os.path.isdir(place):  # noqa: PTH112 - Path.is_dir raises where it may not look
            found[place] = None
            continue
        inside = list(walk(place, unreadable))
        unread.update(e for path in inside if (e := path.suffix.lower()) in UNREAD)
        images = sorted(path for path in inside if path.suffix.lower() in EXTENSIONS)
        found |= dict.fromkeys(images)
    notes = [describe_unread(unread, "the folder")] if unread else []
    if not found:
        reasons = "; ".join([*notes, *(f"cannot list {text}" for text in unreadable)])
        raise DataError(
            f"{', '.join(map(printable, places))}: no images in this folder "
            f"({', '.join(EXTENSIONS)}). {reasons}"
        )
    closed = [f"cannot list the folder {text}" for text in unreadable]
    if not skip:
        closed += [f"cannot read {printable(p)}" for p in found if not os.access(p, os.R_OK)]
        if closed:
            more = f" ({len(closed) - 1:,} more such problems)" if len(closed) > 1 else ""
            raise DataError(f"{closed[0]}{more}: get the permission, or {SKIP}")
    return list(found), notes + closed


def read_image(path: Path) -> np.ndarray:
    """Return [H, W, 3] uint8 RGB 0-255, decoded as for packing, or raise a BadImageError."""
    try:
        size = path.stat().st_size
        if size > MAX_IMAGE_BYTES:
            raise BadImageError(f"it has {size:,} bytes; the limit is {MAX_IMAGE_BYTES:,}")
        return rgb_pixels(path.read_bytes())
    except OSError as error:
        raise BadImageError(f"it cannot be read: {error.strerror or error}") from error


def rendered(
    batches: Iterable[Sequence[Path]],
    render: Callable[[np.ndarray], np.ndarray],
    *,
    workers: int,
    ahead: int,
) -> Iterator[list[np.ndarray | BadImageError]]:
    """Yield the images of each batch, read and rendered in threads, or why one cannot be read.

    ``render`` is called with [H, W, 3] uint8; ``ahead`` batches are read before they are asked for.
    """

    def attempt(path: Path) -> np.ndarray | BadImageError:
        try:
            return render(read_image(path))
        except BadImageError as error:
            return error

    waiting: deque[list[Future[np.ndarray | BadImageError]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for batch in batches:
            waiting.append([pool.submit(attempt, path) for path in batch])
            if len(waiting) > ahead:
                yield [future.result() for future in waiting.popleft()]
        while waiting:
            yield [future.result() for future in waiting.popleft()]


def write_predictions(
    out: Path,
    paths: Sequence[Path],
    scores: pd.DataFrame,
    rejected: Mapping[Path, str],
    *,
    threshold: float,
    most: int,
) -> None:
    """Write predictions.csv, rejected.csv and a sheet of at most ``most`` images.

    The sheet shows the highest probabilities first; its images are read again. ``scores``, from
    ``ModelCard.scores``, has a row for each of ``paths``; ``rejected`` says why others have none.
    A probability that is NaN is a DataError.
    """
    prob, predicted = scores["prob_malignant"].to_numpy(), scores["predicted"].to_numpy()
    frame = pd.concat([pd.DataFrame({"image": map(utf8, paths)}), scores], axis=1)
    require_probabilities(frame, "prob_malignant", frame["image"], "the predictions")
    tiles = []
    for row in np.argsort(-prob, kind="stable")[:most]:
        lines = (f"p = {prob[row]:.3f}: {LABELS[predicted[row]]}", printable(paths[row].name))
        tiles.append(Tile((centre_square(read_image(paths[row]), SIDE),), lines))
    title = (
        f"{len(tiles)} of {len(frame)} images, highest probability first; threshold {threshold:.3f}"
    )
    files = {"predictions.png": png(contact_sheet(tiles, title)), "predictions.csv": as_csv(frame)}
    if rejected:
        columns = {"image": map(utf8, rejected), "reason": rejected.values()}
        files["rejected.csv"] = as_csv(pd.DataFrame(columns))
    else:
        forget(out / "rejected.csv")
    write_files(out, files)
