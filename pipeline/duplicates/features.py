"""Local features of images, and one vector per image that sums them up.

``extract`` finds SIFT features in one image. ``vlad`` sums up each image's features in one vector:
per visual word the mean direction from the word to its features (VLAD, Jégou et al., CVPR 2010).
``neighbours`` finds the nearest vectors of each; photographs of one lesion are usually among them.

    features = [extract(data, name) for name, data in images]
    pairs = neighbours(vlad([each.descriptors for each in features], seed=0), count=20)
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn import config_context
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

from pipeline.errors import DataError
from pipeline.ham10000.decoding.jpeg import BadImageError
from pipeline.ham10000.decoding.pixels import decode, examine

WIDTH = 300
"""Longer side of an image when features are extracted, pixels."""

MOST = 500
"""Most features per image; the strongest are kept."""

WORDS = 512
"""Visual words."""

DIMENSIONS = 24
"""Principal components of a descriptor that VLAD uses."""

SAMPLE = 60_000
"""Descriptors that words and components are fitted on."""

CHUNK = 64
"""Images whose VLAD vectors are computed at a time."""

DARK = 40
"""Grey level below which a pixel belongs to the dark rim, where features mean nothing."""


class Features(NamedTuple):
    """Features of one image, scaled to ``WIDTH``."""

    points: NDArray[np.float32]
    """[n, 2], x and y, pixels."""
    descriptors: NDArray[np.uint8]
    """[n, 128], RootSIFT: unit length times 255."""
    grey: NDArray[np.uint8]
    """[H, W], the image itself, blurred."""


def extract(data: bytes, name: str) -> Features:
    """Decode an image file and extract its features; raise a DataError where it is damaged."""
    try:
        found = examine(data)
        grey = decode(found.jpeg, "GRAY")[..., 0] if found.pixels is None else found.pixels
    except BadImageError as error:
        raise DataError(
            f"bad image {name}: {error}; repair it, or leave such images out with --on-bad-image "
            f"skip"
        ) from error
    if grey.ndim == 3:
        grey = cv2.cvtColor(grey, cv2.COLOR_RGB2GRAY)
    scale = WIDTH / max(grey.shape)
    if scale != 1:
        size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    blurred = np.asarray(cv2.GaussianBlur(grey, (0, 0), 2), np.uint8)
    lit = cv2.erode((blurred > DARK).astype(np.uint8) * 255, np.ones((13, 13), np.uint8))
    sift = cv2.SIFT.create(nfeatures=MOST, contrastThreshold=0.01, edgeThreshold=15)
    found, raw = sift.detectAndCompute(grey, lit)
    if raw is None:
        return Features(np.zeros((0, 2), np.float32), np.zeros((0, 128), np.uint8), blurred)
    points = np.array([point.pt for point in found[:MOST]], np.float32)
    root = np.sqrt(np.asarray(normalize(raw[:MOST], "l1")))
    return Features(points, (root * 255).astype(np.uint8), blurred)


def vlad(descriptors: Sequence[NDArray[np.uint8]], *, seed: int) -> NDArray[np.float32]:
    """Return one vector of unit length per image, ``[N, words * components]``.

    ``descriptors`` are ``[n, 128]`` per image; an image without any gets a vector of zeros.
    """
    rng, share = np.random.default_rng(seed), math.ceil(SAMPLE / max(1, len(descriptors)))
    sample = np.concatenate([rng.permutation(each)[:share] for each in descriptors])
    if len(sample) < 2:
        return np.zeros((len(descriptors), 1), np.float32)
    pca = PCA(min(DIMENSIONS, len(sample))).fit(sample.astype(np.float32))
    kmeans = KMeans(min(WORDS, len(sample)), max_iter=15, random_state=seed)
    with threadpool_limits(1):  # several threads would sum in varying order
        kmeans.fit(pca.transform(sample.astype(np.float32)))
    vectors = np.zeros((len(descriptors), kmeans.cluster_centers_.size), np.float32)
    for start in range(0, len(descriptors), CHUNK):
        part = slice(start, start + CHUNK)
        vectors[part] = _encode(descriptors[part], pca, kmeans)
    return vectors


def _encode(
    descriptors: Sequence[NDArray[np.uint8]], pca: PCA, kmeans: KMeans
) -> NDArray[np.float32]:
    """Return the VLAD vectors of a few images."""
    words, count = kmeans.cluster_centers_, sum(map(len, descriptors))
    totals = np.zeros((len(descriptors) * len(words), words.shape[1]), np.float32)
    if count:
        points = pca.transform(np.concatenate(descriptors).astype(np.float32))
        word = kmeans.predict(points)
        image = np.repeat(np.arange(len(descriptors)), [len(each) for each in descriptors])
        place = (image * len(words) + word, np.arange(count))
        sums = csr_array((np.ones(count, np.float32), place), (len(totals), count))
        totals = sums @ np.asarray(normalize(points - words[word]))
    totals = totals / np.sqrt(np.maximum(np.linalg.norm(totals, axis=1, keepdims=True), 1e-9))
    return np.asarray(normalize(totals.reshape(len(descriptors), -1)))


def neighbours(vectors: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return the pairs ``[m, 2]`` (a < b) in which one is among the other's ``count`` nearest."""
    near = _nearest(None, vectors, min(count, len(vectors) - 1))
    return np.unique(np.sort(near, axis=1), axis=0)


def neighbours_across(
    first: NDArray[np.float32], second: NDArray[np.float32], count: int
) -> NDArray[np.int64]:
    """Return the pairs ``[m, 2]``, row of ``first`` and of ``second``, as ``neighbours`` does."""
    forth = _nearest(first, second, min(count, len(second)))
    back = _nearest(second, first, min(count, len(first)))
    return np.unique(np.concatenate([forth, back[:, ::-1]]), axis=0)


def _nearest(
    queries: NDArray[np.float32] | None, vectors: NDArray[np.float32], count: int
) -> NDArray[np.int64]:
    """Return each query's row beside each of its ``count`` nearest rows ``[n * count, 2]``.

    Without queries they are the vectors themselves, and none is its own neighbour.
    """
    n = len(vectors if queries is None else queries)
    if count < 1 or not n:
        return np.zeros((0, 2), np.int64)
    search = NearestNeighbors(n_neighbors=count, algorithm="brute", metric="cosine").fit(vectors)
    with config_context(working_memory=256):  # MiB of distances at a time
        near = search.kneighbors(queries, return_distance=False)
    return np.stack([np.repeat(np.arange(n), count), near.ravel()], 1)
