"""Find photographs of one lesion that are filed under different ids.

Features of every image are summed up in one vector (``features``). The nearest neighbours of each
image are candidates, and every candidate pair is compared closely (``match``). The results are a
table of pairs for ``build --duplicates`` and a contact sheet on which a person can judge them.

    python -m pipeline.shards duplicates --source data/ham10000 --out duplicates.csv
    python -m pipeline.shards duplicates --source data/clinic --against shards/ham10000/train
"""

from collections.abc import Callable, Sequence
from multiprocessing.pool import ThreadPool
from typing import TypeVar

import cv2
import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from pipeline.duplicates.features import Features, extract, neighbours, neighbours_across, vlad
from pipeline.duplicates.match import Agreement, compare
from pipeline.duplicates.photographs import Photographs, open_photographs
from pipeline.errors import DataError, warn
from pipeline.figures import Tile, contact_sheet, save
from pipeline.files import require_writable, write_output
from pipeline.ham10000.decoding.pixels import rgb_pixels
from pipeline.ham10000.known_duplicates import SAME_LESION_PAIRS
from pipeline.ham10000.taxonomy import load
from pipeline.machine import cores
from pipeline.shards.flags import DuplicatesFlags

NEIGHBOURS = 20
"""Nearest images that each image is compared with."""

MIN_INLIERS = 12
"""Matching features that must agree on one similarity transform."""

MIN_CORRELATION = 0.6
"""Correlation of grey levels required where the aligned images overlap."""

SHEET_PAIRS = 50
"""Most pairs on the contact sheet."""

COLUMNS = ["image_id_a", "image_id_b", "score", "inliers", "correlation", "published"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def run(flags: DuplicatesFlags) -> None:
    """Write the table of pairs and the contact sheet of the best new ones."""
    require_writable(flags.out, "--out", file=True)
    cv2.setNumThreads(1)  # the threads of _in_threads keep every core busy
    taxonomy, against = load(flags.taxonomy), None
    choice = {"image_types": flags.image_type, "on_bad_image": flags.on_bad_image}
    photographs = open_photographs(flags.source, taxonomy, **choice)
    if flags.against is not None:
        against = open_photographs(flags.against, taxonomy, **choice)
    skip = flags.on_bad_image == "skip"
    workers = flags.workers or cores()
    pairs = find_pairs(photographs, against, workers=workers, seed=flags.seed, skip=skip)
    write_output(flags.out, pairs.to_csv(index=False, lineterminator="\n"))
    new = pairs.loc[pairs["published"] == 0].head(SHEET_PAIRS)
    sheet = flags.out.with_suffix(".png")
    tiles = [_tile(row, photographs, against or photographs) for row in new.to_dict("records")]
    title = "New pairs, best first" if tiles else "No new pairs"
    save(contact_sheet(tiles, title, columns=5, size=(200, 150)), sheet)
    ids = set(photographs.table["image_id"])
    others = ids if against is None else set(against.table["image_id"])
    published = sum(
        (a in ids and b in others) or (b in ids and a in others) for a, b in SAME_LESION_PAIRS
    )
    found = list(pairs["published"]).count(1)
    print(f"{len(pairs):,} pairs in {flags.out}: {found} of {published} published ones")
    print(f"{len(pairs) - found:,} new ones; look at the {len(new)} best of them in {sheet}")
    if against is None:
        print(f"next: delete the wrong rows, then build --duplicates {flags.out}")
    else:
        count = pairs["image_id_a"].nunique()
        print(f"{count:,} images of {flags.source} show what an image of {flags.against} shows")


def find_pairs(
    photographs: Photographs,
    against: Photographs | None = None,
    *,
    workers: int,
    seed: int,
    skip: bool = False,
) -> pd.DataFrame:
    """Return the pairs that pass, best first, with ``COLUMNS``.

    Pairs with an equal id in a column of ``together`` are left out. With ``against``, image_id_b is
    of that set, and no pair is left out, because ids mean nothing across sets. ``seed`` is of the
    visual vocabulary; ``skip`` leaves damaged images out with a warning. The score is inliers times
    correlation; published is 0 or 1.
    """
    ids, features = _look(photographs, workers=workers, skip=skip)
    n = len(ids)
    if against is not None:
        other_ids, other_features = _look(against, workers=workers, skip=skip)
        ids, features = ids + other_ids, features + other_features
    vectors = vlad([each.descriptors for each in features], seed=seed)
    if against is None:
        candidates = neighbours(vectors, NEIGHBOURS)
        read = photographs.table.set_index("image_id").loc[ids]
        for column in photographs.together:
            key = read[column].to_numpy()
            candidates = candidates[key[candidates[:, 0]] != key[candidates[:, 1]]]
    else:
        candidates = neighbours_across(vectors[:n], vectors[n:], NEIGHBOURS) + np.array([0, n])

    def judge(ends: list[int]) -> Agreement:
        return compare(features[ends[0]], features[ends[1]])

    known = {*SAME_LESION_PAIRS, *((b, a) for a, b in SAME_LESION_PAIRS)}
    rows = []
    agreements = _in_threads(judge, candidates.tolist(), "pairs", workers)
    for ends, (inliers, correlation) in zip(candidates, agreements, strict=True):
        if inliers >= MIN_INLIERS and correlation >= MIN_CORRELATION:
            pair = (ids[ends[0]], ids[ends[1]])
            pair = pair if against else tuple(sorted(pair))
            score = round(inliers * correlation, 3)
            rows.append((*pair, score, inliers, round(correlation, 4), int(pair in known)))
    order = {"score": False, "image_id_a": True, "image_id_b": True}
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.sort_values(list(order), ascending=list(order.values()), ignore_index=True)


def _look(
    photographs: Photographs, *, workers: int, skip: bool
) -> tuple[list[str], list[Features]]:
    """Return the ids of the images that could be read, and their features."""

    def look(image_id: str) -> Features | None:
        try:
            return extract(photographs.read(image_id), photographs.where(image_id))
        except DataError as error:
            if not skip:
                raise
            warn(f"left out: {error}")
            return None

    ids = photographs.table["image_id"].tolist()
    found = zip(ids, _in_threads(look, ids, "images", workers), strict=True)
    read = [(name, features) for name, features in found if features is not None]
    return [name for name, _ in read], [features for _, features in read]


def _in_threads(
    function: Callable[[Item], Result], items: Sequence[Item], name: str, workers: int
) -> list[Result]:
    """Apply ``function`` to all items, in threads: OpenCV and NumPy release the GIL."""
    with threadpool_limits(1), ThreadPool(workers) as pool:
        return list(tqdm(pool.imap(function, items, chunksize=16), name, len(items), disable=None))


def _tile(row: dict, first: Photographs, second: Photographs) -> Tile:
    """Return both images of a pair with their ids and figures."""
    ids = (row["image_id_a"], row["image_id_b"])
    images = (rgb_pixels(first.read(ids[0])), rgb_pixels(second.read(ids[1])))
    figures = f"{row['inliers']} inliers, correlation {row['correlation']:.2f}"
    return Tile(images, (" ".join(ids), figures))
