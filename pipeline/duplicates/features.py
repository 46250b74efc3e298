"""What an image is recognised by: its SIFT features, and one vector that sums them up.

``extract`` finds features in one image, ``Vocabulary`` sums them up as a VLAD vector (per visual
word the mean direction in which its features lie off the word), and ``neighbours`` finds for each
vector those nearest to it. Photographs of one lesion are among each other's nearest.

    features = extract(jpeg); vector = Vocabulary.learn(descriptors, seed=0).sum_up(descriptors)
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError

WIDTH = 300
"""Pixels of an image's longer side when features are looked for."""

MOST = 500
"""Most features of one image; the strongest are kept."""

WORDS = 512
"""Visual words."""

DIMENSIONS = 24
"""Principal components kept of a descriptor when images are summed up."""

SAMPLE = 60_000
"""Descriptors that the words are learnt from."""

DARK = 40
"""Grey level under which a place counts as the dark rim, where features mean nothing."""


@dataclass(frozen=True)
class Features:
    """Features of one image; coordinates in pixels of the image at ``WIDTH``."""

    points: NDArray[np.float32]
    """[n, 2], x and y."""
    descriptors: NDArray[np.uint8]
    """[n, 128], RootSIFT of unit length times 255."""
    grey: NDArray[np.uint8]
    """[H, W], the image itself."""


def extract(jpeg: bytes, name: str) -> Features:
    """Decode an image and find its features.

    Raises:
        DataError: the image cannot be decoded.
    """
    grey = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_GRAYSCALE) if jpeg else None
    if grey is None:
        raise DataError(f"cannot decode {name}; `build --on-bad-image skip` lists all such images")
    scale = WIDTH / max(grey.shape)
    if scale != 1:
        size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    grey = np.asarray(grey, np.uint8)
    sift = cv2.SIFT.create(nfeatures=MOST, contrastThreshold=0.01, edgeThreshold=15)
    found, raw = sift.detectAndCompute(grey, _lit(grey))
    if raw is None:
        return Features(np.zeros((0, 2), np.float32), np.zeros((0, 128), np.uint8), grey)
    points = np.array([point.pt for point in found[:MOST]], np.float32)
    root = np.sqrt(raw[:MOST] / np.maximum(raw[:MOST].sum(1, keepdims=True), 1e-6))
    return Features(points, np.clip(root * 255, 0, 255).astype(np.uint8), grey)


def _lit(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return 255 where the image is not its dark rim or close to it, else 0."""
    bright = np.asarray(cv2.GaussianBlur(grey, (0, 0), 2)) > DARK
    lit = cv2.erode(bright.astype(np.uint8) * 255, np.ones((13, 13), np.uint8))
    return np.asarray(lit, np.uint8)


@dataclass(frozen=True)
class Vocabulary:
    """Visual words, and the projection in which they lie."""

    mean: NDArray[np.float32]
    """[128]"""
    axes: NDArray[np.float32]
    """[128, DIMENSIONS]"""
    words: NDArray[np.float32]
    """[WORDS, DIMENSIONS]"""

    @classmethod
    def learn(cls, descriptors: NDArray[np.uint8], *, seed: int) -> "Vocabulary":
        """Learn words from descriptors ``[n, 128]`` of many images."""
        sample = descriptors.astype(np.float32) / 255
        mean = sample.mean(0)
        _, vectors = np.linalg.eigh(np.cov((sample - mean).T))
        axes = np.ascontiguousarray(vectors[:, ::-1][:, :DIMENSIONS]).astype(np.float32)
        cv2.setRNGSeed(seed)
        _, _, words = cv2.kmeans(
            (sample - mean) @ axes, min(WORDS, len(sample)), np.empty(0, np.int32),
            (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 15, 1e-3), 3,
            cv2.KMEANS_PP_CENTERS,
        )  # fmt: skip
        return cls(mean, axes, np.asarray(words, np.float32))

    def sum_up(self, descriptors: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the VLAD vector of one image, ``[words * DIMENSIONS]``, of unit length."""
        count, width = self.words.shape
        total = np.zeros((count, width), np.float32)
        if len(descriptors):
            points = (descriptors.astype(np.float32) / 255 - self.mean) @ self.axes
            points = points.astype(np.float32)
            word = (np.square(self.words).sum(1) - 2 * points @ self.words.T).argmin(1)
            np.add.at(total, word, _unit(points - self.words[word]))
        damped = total / np.sqrt(np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-9))
        return _unit(damped.reshape(1, -1))[0]


def neighbours(vectors: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return the pairs ``[m, 2]`` (a < b) in which one is among the other's ``count`` nearest."""
    pairs = set()
    count = min(count, len(vectors) - 1)
    for start in range(0, len(vectors), 512):
        rows = np.arange(start, min(start + 512, len(vectors)))
        near = vectors[rows] @ vectors.T
        near[np.arange(len(rows)), rows] = -np.inf
        best = np.argpartition(-near, count - 1, axis=1)[:, :count]
        ends = np.stack([np.repeat(rows, count), best.ravel()], 1)
        pairs.update(map(tuple, np.sort(ends, axis=1).tolist()))
    return np.array(sorted(pairs), np.int64).reshape(-1, 2)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
