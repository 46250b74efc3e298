"""``python -m pipeline.shards duplicates``: one lesion filed under different ids.

Every image is summed up in one vector (``duplicates_features``); for each image its nearest
neighbours are candidates, and each candidate pair is looked at closely (``duplicates_match``). Out
come a table of pairs for ``build --duplicates`` and a contact sheet for a person to judge.

    python -m pipeline.shards duplicates --source data/ham10000 --out duplicates.csv
"""

import multiprocessing
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from pipeline.cli import parse
from pipeline.duplicates.features import (
    SAMPLE,
    Features,
    Vocabulary,
    extract,
    neighbours,
)
from pipeline.duplicates.flags import DuplicatesFlags
from pipeline.duplicates.match import Agreement, compare
from pipeline.duplicates.sheet import contact_sheet
from pipeline.ham10000.images import ImageStore
from pipeline.ham10000.known_duplicates import SAME_LESION_PAIRS
from pipeline.ham10000.source import open_source
from pipeline.machine import cores
from pipeline.shards.storage.store import LocalStore

CHUNK = 64
"""Images or pairs that a worker takes at a time."""


NEIGHBOURS = 20
"""Candidates compared for each image."""

MIN_INLIERS = 12
"""Matching features that must agree on one similarity transform."""

MIN_CORRELATION = 0.6
"""Correlation of grey levels required where the aligned images overlap."""

SHEET_PAIRS = 50
"""Most pairs on the contact sheet."""


class Pair(NamedTuple):
    """Two images by row of the table, and how far they agree."""

    a: int
    b: int
    agreement: Agreement


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    run(parse(DuplicatesFlags, argv=argv))


def run(flags: DuplicatesFlags) -> None:
    """Write the table of pairs and the contact sheet of the best new ones."""
    source = open_source(flags.source)
    pairs = find_pairs(
        source.table,
        source.store,
        together=source.together,
        count=NEIGHBOURS,
        workers=flags.workers or cores(),
        seed=flags.seed,
    )
    table = as_table(
        pairs,
        list(source.table["image_id"]),
        min_inliers=MIN_INLIERS,
        min_correlation=MIN_CORRELATION,
    )
    store = LocalStore(flags.out.parent)
    store.publish(flags.out.name, table.to_csv(index=False, lineterminator="\n").encode())
    new = table.loc[table["published"] == 0].head(SHEET_PAIRS)
    sheet = flags.out.with_suffix(".png")
    store.publish(sheet.name, contact_sheet(new, source.store))
    published = [pair for pair in SAME_LESION_PAIRS if set(pair) <= set(source.table["image_id"])]
    found = list(table["published"]).count(1)
    print(f"{len(table):,} pairs in {flags.out}: {found} of {len(published)} published ones")
    print(f"{len(table) - found:,} new ones; look at the {len(new)} best of them in {sheet}")
    print(f"next: delete the wrong rows, then build --duplicates {flags.out}")


def find_pairs(
    table: pd.DataFrame,
    images: ImageStore,
    *,
    together: Sequence[str],
    count: int,
    workers: int,
    seed: int,
    progress: bool = True,
) -> list[Pair]:
    """Return all candidate pairs that do not share an id, with how far they agree.

    Args:
        table: one row an image, with image_id and the columns ``together``.
        images: where their bytes are.
        together: columns of which an equal value says that two images belong together anyway.
        count: nearest neighbours looked at for each image.
        workers: processes.
        seed: what the visual words are drawn from.
        progress: whether to show bars on standard error.
    """
    ids = list(table["image_id"])
    if len(ids) < 2:
        return []
    context = multiprocessing.get_context("forkserver")
    with tempfile.TemporaryDirectory(prefix="duplicates-") as folder:
        features = FeatureFile(Path(folder))
        with context.Pool(workers, _single_thread) as pool:
            found = pool.imap(partial(_extract, images), ids, chunksize=CHUNK)
            features.write(tqdm(found, "features", len(ids), unit="img", disable=not progress))
        candidates = neighbours(_vectors(features, len(ids), seed), count)
        keys = [table[column].to_numpy() for column in together]
        apart = np.ones(len(candidates), bool)
        for key in keys:
            apart &= key[candidates[:, 0]] != key[candidates[:, 1]]
        candidates = candidates[apart]
        with context.Pool(workers, _open_features, (Path(folder),)) as pool:
            looked = pool.imap(_compare, candidates.tolist(), chunksize=CHUNK)
            bar = tqdm(looked, "pairs", len(candidates), unit="pair", disable=not progress)
            return [pair for pair in bar if pair is not None]


def as_table(
    pairs: list[Pair], ids: Sequence[str], *, min_inliers: int, min_correlation: float
) -> pd.DataFrame:
    """Return the pairs that pass, best first: ids, score, inliers, correlation, published (0/1).

    The score is the number of agreeing features times the correlation.
    """
    known = {frozenset(pair) for pair in SAME_LESION_PAIRS}
    rows = []
    for a, b, agreement in pairs:
        if agreement.inliers < min_inliers or agreement.correlation < min_correlation:
            continue
        first, second = sorted((ids[a], ids[b]))
        score = round(agreement.inliers * agreement.correlation, 3)
        published = int(frozenset((first, second)) in known)
        rows.append(
            (first, second, score, agreement.inliers, round(agreement.correlation, 4), published)
        )
    columns = ["image_id_a", "image_id_b", "score", "inliers", "correlation", "published"]
    table = pd.DataFrame(rows, columns=columns)
    return table.sort_values(
        ["score", "image_id_a", "image_id_b"], ascending=[False, True, True], ignore_index=True
    )


class FeatureFile:
    """The features of all images in two flat files, read by many processes through one mapping."""

    def __init__(self, folder: Path) -> None:
        """Use ``folder``."""
        self.folder = folder
        self.ends: NDArray[np.int64] = np.zeros((0, 2), np.int64)

    def write(self, features: Iterator[Features] | tqdm) -> None:
        """Write the features of all images, in their order."""
        ends, shapes, count, pixels = [], [], 0, 0
        with (
            (self.folder / "points").open("wb") as points,
            (self.folder / "descriptors").open("wb") as descriptors,
            (self.folder / "grey").open("wb") as grey,
        ):
            for one in features:
                points.write(one.points.tobytes())
                descriptors.write(one.descriptors.tobytes())
                grey.write(one.grey.tobytes())
                ends.append((count, count := count + len(one.points)))
                shapes.append((pixels, *one.grey.shape))
                pixels += one.grey.size
        np.save(self.folder / "ends.npy", np.array(ends, np.int64))
        np.save(self.folder / "shapes.npy", np.array(shapes, np.int64))
        self.open()

    def open(self) -> "FeatureFile":
        """Map the files."""
        self.ends = np.load(self.folder / "ends.npy")
        self.shapes = np.load(self.folder / "shapes.npy")
        count = max(1, int(self.ends[-1, 1]))
        shape = (count, 128) if self.ends[-1, 1] else (0, 128)
        if self.ends[-1, 1]:
            self.descriptors = np.memmap(self.folder / "descriptors", np.uint8, "r", shape=shape)
            self.points = np.memmap(self.folder / "points", np.float32, "r", shape=(count, 2))
        else:
            self.descriptors, self.points = np.zeros(shape, np.uint8), np.zeros((0, 2), np.float32)
        self.grey = np.memmap(self.folder / "grey", np.uint8, "r")
        return self

    def __getitem__(self, index: int) -> Features:
        """Return the features of one image."""
        start, end = self.ends[index]
        offset, height, width = self.shapes[index]
        grey = self.grey[offset : offset + height * width].reshape(height, width)
        return Features(
            np.asarray(self.points[start:end]),
            np.asarray(self.descriptors[start:end]),
            np.asarray(grey),
        )


def _vectors(features: FeatureFile, count: int, seed: int) -> NDArray[np.float32]:
    """Return one vector per image."""
    rng = np.random.default_rng(seed)
    total = len(features.descriptors)
    rows = np.sort(rng.permutation(total)[:SAMPLE])
    if total < 2:
        return np.zeros((count, 1), np.float32)
    vocabulary = Vocabulary.learn(np.asarray(features.descriptors[rows]), seed=seed)
    return np.stack([vocabulary.sum_up(features[index].descriptors) for index in range(count)])


_features: FeatureFile | None = None


def _single_thread() -> None:
    """Keep a worker to its core: more threads than cores wait for each other."""
    cv2.setNumThreads(1)
    threadpool_limits(1)


def _open_features(folder: Path) -> None:
    global _features  # noqa: PLW0603 (a worker process opens the files once)
    _single_thread()
    _features = FeatureFile(folder).open()


def _extract(images: ImageStore, image_id: str) -> Features:
    return extract(images.read(image_id), images.where(image_id))


def _compare(ends: list[int]) -> Pair | None:
    """Return the pair, None where next to nothing agrees."""
    assert _features is not None
    a, b = ends
    agreement = compare(_features[a], _features[b])
    return Pair(a, b, agreement) if agreement.correlation else None
