"""Whether two images show one lesion: features that agree on how one lies on the other.

``compare`` keeps the features of one image whose match in the other is mutual and clearly better
than the second best, and looks for the similarity (shift, turn, zoom) that most matches agree on:
each pair of matches proposes one, so nothing is left to chance. Then the one image is laid on the
other, and their grey levels must correlate; hairs and rulers that agree by themselves do not.

    agreement = compare(extract(first, "a"), extract(second, "b"))
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.duplicates.features import Features

RATIO = 0.85
"""A match's distance over that of the second best, at most."""

MOST_MATCHES = 60
"""Matches that are looked at, the best by that ratio."""

TOLERANCE = 4.0
"""Pixels by which a match may miss the place the similarity sends it to."""

BASELINE = 15.0
"""Pixels that two matches must lie apart to propose a similarity."""

ZOOM = (0.4, 2.5)
"""Scales that are believed."""

SAME_PLACE = 3.0
"""Matches within so many pixels of each other count once."""

WORTH_LAYING = 6
"""Agreeing matches from which on the images are laid on each other."""


@dataclass(frozen=True)
class Agreement:
    """How far two images agree."""

    inliers: int
    """Matches, at different places, that agree on one similarity."""
    spread: float
    """Standard deviation of their places across their narrower direction, pixels."""
    correlation: float
    """Of the grey levels where the images overlap, -1 to 1; 0 where not looked at."""


def compare(first: Features, second: Features) -> Agreement:
    """Return how far two images agree; the order of the two does not matter much."""
    ends = match(first.descriptors, second.descriptors)
    a, b = _complex(first.points[ends[:, 0]]), _complex(second.points[ends[:, 1]])
    model, agree = best_similarity(a, b)
    ends = np.stack([a[agree].real, a[agree].imag, b[agree].real, b[agree].imag], 1)
    places = np.unique(np.round(ends / SAME_PLACE), axis=0)
    if len(places) < WORTH_LAYING:
        return Agreement(len(places), 0.0, 0.0)
    narrow = np.linalg.eigvalsh(np.cov(places[:, :2].T))[0]
    return Agreement(
        len(places),
        float(np.sqrt(max(narrow, 0.0)) * SAME_PLACE),
        correlation(first.grey, second.grey, model),
    )


def match(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return mutual matches ``[m, 2]`` that pass the ratio test, the clearest first."""
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


def best_similarity(
    a: NDArray[np.complex128], b: NDArray[np.complex128]
) -> tuple[tuple[complex, complex], NDArray[np.bool_]]:
    """Return the turn-and-zoom and shift with ``b = turn * a + shift`` for most, and for which."""
    nothing = ((1 + 0j, 0j), np.zeros(len(a), bool))
    if len(a) < 3:
        return nothing
    i, j = np.triu_indices(len(a), 1)
    apart = (np.abs(a[j] - a[i]) > BASELINE) & (np.abs(b[j] - b[i]) > BASELINE)
    i, j = i[apart], j[apart]
    turn = (b[j] - b[i]) / (a[j] - a[i])
    believed = (np.abs(turn) > ZOOM[0]) & (np.abs(turn) < ZOOM[1])
    turn, i = turn[believed], i[believed]
    if not len(turn):
        return nothing
    shift = b[i] - turn * a[i]
    votes = (np.abs(turn[:, None] * a + shift[:, None] - b) < TOLERANCE).sum(1)
    winner = int(votes.argmax())
    model = (complex(turn[winner]), complex(shift[winner]))
    for _ in range(3):
        agree = np.abs(model[0] * a + model[1] - b) < TOLERANCE
        if agree.sum() < 3:
            break
        model = _least_squares(a[agree], b[agree])
    return model, np.abs(model[0] * a + model[1] - b) < TOLERANCE


def correlation(
    first: NDArray[np.uint8], second: NDArray[np.uint8], model: tuple[complex, complex]
) -> float:
    """Return how the grey levels correlate where ``first``, laid on ``second``, covers it."""
    turn, shift = model
    matrix = np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])
    size = (second.shape[1], second.shape[0])
    laid = cv2.warpAffine(cv2.GaussianBlur(first, (0, 0), 2), matrix, size)
    covered = cv2.warpAffine(np.full_like(first, 255), matrix, size) > 250
    covered &= (np.asarray(laid) > 30) & (second > 30)
    if covered.mean() < 0.15:
        return 0.0
    x = np.asarray(laid, np.float64)[covered]
    y = np.asarray(cv2.GaussianBlur(second, (0, 0), 2), np.float64)[covered]
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).mean() / max(float(np.sqrt((x * x).mean() * (y * y).mean())), 1e-9))


def _complex(points: NDArray[np.float32]) -> NDArray[np.complex128]:
    return points[:, 0].astype(np.float64) + 1j * points[:, 1]


def _least_squares(a: NDArray[np.complex128], b: NDArray[np.complex128]) -> tuple[complex, complex]:
    centre_a, centre_b = a.mean(), b.mean()
    spread = np.square(np.abs(a - centre_a)).sum()
    turn = ((b - centre_b) * np.conj(a - centre_a)).sum() / max(float(spread), 1e-9)
    return complex(turn), complex(centre_b - turn * centre_a)
