"""The contact sheet of pairs: both images side by side, with ids and score, for a person to judge.

png = contact_sheet(table, store)
"""

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.ham10000.images import ImageStore

CELL = (200, 150)
"""Width and height of one image, pixels."""

COLUMNS = 5
"""Pairs in a row."""

CAPTION = 18
"""Height of the line under a pair, pixels."""


def contact_sheet(pairs: pd.DataFrame, images: ImageStore) -> bytes:
    """Return a PNG of the pairs (image_id_a, image_id_b, score, inliers, correlation), in order."""
    cells = [_cell(rank, row, images) for rank, row in enumerate(pairs.to_dict("records"), 1)]
    if not cells:
        cells = [np.full((CELL[1] + CAPTION, 2 * CELL[0] + 8, 3), 255, np.uint8)]
        _write(cells[0], "no pairs")
    blank = np.full_like(cells[0], 255)
    cells += [blank] * (-len(cells) % min(COLUMNS, len(cells)))
    across = min(COLUMNS, len(cells))
    rows = [np.hstack(cells[start : start + across]) for start in range(0, len(cells), across)]
    done, png = cv2.imencode(".png", np.vstack(rows))
    assert done
    return png.tobytes()


def _cell(rank: int, row: dict, images: ImageStore) -> NDArray[np.uint8]:
    """Return one pair with its caption, BGR."""
    cell = np.full((CELL[1] + CAPTION, 2 * CELL[0] + 8, 3), 255, np.uint8)
    for number, image_id in enumerate((row["image_id_a"], row["image_id_b"])):
        image = cv2.imdecode(np.frombuffer(images.read(image_id), np.uint8), cv2.IMREAD_COLOR)
        left = number * (CELL[0] + 2)
        cell[: CELL[1], left : left + CELL[0]] = cv2.resize(
            np.asarray(image), CELL, interpolation=cv2.INTER_AREA
        )
    _write(
        cell,
        f"{rank}. {row['image_id_a'][-7:]} {row['image_id_b'][-7:]}  "
        f"{row['inliers']} inliers, r {row['correlation']:.2f}",
    )
    return cell


def _write(cell: NDArray[np.uint8], text: str) -> None:
    place = (4, CELL[1] + CAPTION - 5)
    cv2.putText(cell, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
