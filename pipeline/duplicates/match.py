"""Whether two images show one lesion: local features that agree on one similarity transform.

``match`` keeps features that are each other's best match and clearly better than the second best.
``align`` finds the similarity (shift, rotation, zoom) that most matches agree on, with RANSAC. Then
one image is warped onto the other, and their grey levels must correlate, which rules out hairs and
rulers that happen to match.

    found = compare(extract(first, "a"), extract(second, "b"))
"""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.duplicates.features import Features

RATIO = 0.85
"""Largest distance of a match, over that of the second best."""

MOST_MATCHES = 60
"""Matches that are used, the best by that ratio."""

TOLERANCE = 6.0
"""Largest distance of a match from where the transform maps it, pixels."""

ZOOM = (0.4, 2.5)
"""Smallest and largest accepted zoom."""

SAME_PLACE = 3.0
"""Matches that lie within this many pixels of each other count once."""

FEWEST = 6
"""Agreeing matches below which grey levels are not compared."""

OVERLAP = 0.15
"""Smallest share of the second image that the warped first must cover."""


class Agreement(NamedTuple):
    """How far two images agree."""

    inliers: int
    """Matches, at different places, that agree on one similarity."""
    correlation: float
    """Of the grey levels where the images overlap, -1 to 1; 0 where not compared."""


def compare(first: Features, second: Features) -> Agreement:
    """Return how far two images agree."""
    ends = match(first.descriptors, second.descriptors)
    a, b = first.points[ends[:, 0]], second.points[ends[:, 1]]
    matrix, agree = align(a, b)
    places = np.unique(np.round(np.hstack([a, b])[agree] / SAME_PLACE), axis=0)
    if len(places) < FEWEST:
        return Agreement(len(places), 0.0)
    return Agreement(len(places), correlation(first.grey, second.grey, matrix))


def match(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return mutual best matches ``[m, 2]`` that pass the ratio test, the clearest first.

    One matrix product serves both directions; OpenCV's matcher needs a pass for each.
    """
    if len(first) < 2 or len(second) < 2:
        return np.zeros((0, 2), np.int64)
    near = first.astype(np.float32) @ second.astype(np.float32).T / 255**2
    best = near.argmax(1)
    rows = np.flatnonzero(near.argmax(0)[best] == np.arange(len(first)))
    top = near[rows, best[rows]]
    near[rows, best[rows]] = -1
    ratio = np.sqrt(np.maximum(2 - 2 * top, 0) / np.maximum(2 - 2 * near[rows].max(1), 1e-6))
    order = np.argsort(ratio, kind="stable")[:MOST_MATCHES]
    order = order[ratio[order] < RATIO]
    return np.stack([rows[order], best[rows[order]]], 1)


def align(
    a: NDArray[np.float32], b: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the similarity ``[2, 3]`` that maps most points of ``a`` to ``b``, and for which.

    ``a`` and ``b`` are ``[m, 2]``. The result is the same on every call: OpenCV seeds RANSAC.
    """
    nothing = np.eye(2, 3), np.zeros(len(a), bool)
    if len(a) < 3:
        return nothing
    matrix, agree = cv2.estimateAffinePartial2D(
        a, b, ransacReprojThreshold=TOLERANCE, confidence=0.9999
    )
    if matrix is None or not ZOOM[0] < np.hypot(*matrix[:, 0]) < ZOOM[1]:
        return nothing
    return np.asarray(matrix, np.float64), agree.ravel() == 1


def correlation(
    first: NDArray[np.uint8], second: NDArray[np.uint8], matrix: NDArray[np.float64]
) -> float:
    """Return the correlation of grey levels where ``first``, warped, covers ``second``: -1 to 1."""
    size = (second.shape[1], second.shape[0])
    warped = np.asarray(cv2.warpAffine(first, matrix, size))
    covered = np.asarray(cv2.warpAffine(np.full_like(first, 255), matrix, size)) > 250
    covered &= (warped > 30) & (second > 30)
    if covered.mean() < OVERLAP:
        return 0.0
    with np.errstate(invalid="ignore"):  # an image of one grey level
        return float(np.nan_to_num(np.corrcoef(warped[covered], second[covered])[0, 1]))
