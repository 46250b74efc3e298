"""Find photographs of one lesion that are filed under different ids.

Features of every image are summed up in one vector (``features``). The nearest neighbours of each
image are candidates, and every candidate pair is compared closely (``match``). The results are a
table of pairs for ``build --duplicates`` and a contact sheet on which a person can judge them.

    python -m pipeline.shards duplicates --source data/ham10000 --out duplicates.csv
"""

from collections.abc import Callable, Sequence
from multiprocessing.pool import ThreadPool
from typing import TypeVar

import cv2
import pandas as pd
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from pipeline.duplicates.features import Features, extract, neighbours, vlad
from pipeline.duplicates.flags import DuplicatesFlags
from pipeline.duplicates.match import Agreement, compare
from pipeline.errors import DataError, warn
from pipeline.figures import Tile, contact_sheet, save
from pipeline.files import require_writable, write_file, writing
from pipeline.ham10000.decoding.pixels import rgb_pixels
from pipeline.ham10000.images import ImageStore
from pipeline.ham10000.known_duplicates import SAME_LESION_PAIRS
from pipeline.ham10000.source import Source, open_source
from pipeline.machine import cores

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
    source = open_source(
        flags.source, image_types=flags.image_type, on_bad_image=flags.on_bad_image
    )
    skip = flags.on_bad_image == "skip"
    pairs = find_pairs(source, workers=flags.workers or cores(), seed=flags.seed, skip=skip)
    with writing(flags.out):
        flags.out.parent.mkdir(parents=True, exist_ok=True)
        write_file(flags.out, pairs.to_csv(index=False, lineterminator="\n"))
    new = pairs.loc[pairs["published"] == 0].head(SHEET_PAIRS)
    sheet = flags.out.with_suffix(".png")
    tiles = [_tile(row, source.store) for row in new.to_dict("records")]
    title = "New pairs, best first" if tiles else "No new pairs"
    save(contact_sheet(tiles, title, columns=5, size=(200, 150)), sheet)
    ids = set(source.table["image_id"])
    published = sum(set(pair) <= ids for pair in SAME_LESION_PAIRS)
    found = list(pairs["published"]).count(1)
    print(f"{len(pairs):,} pairs in {flags.out}: {found} of {published} published ones")
    print(f"{len(pairs) - found:,} new ones; look at the {len(new)} best of them in {sheet}")
    print(f"next: delete the wrong rows, then build --duplicates {flags.out}")


def find_pairs(source: Source, *, workers: int, seed: int, skip: bool = False) -> pd.DataFrame:
    """Return the pairs that pass, best first, with ``COLUMNS``.

    Pairs with an equal id in a column of ``source.together`` are left out. The score is inliers
    times correlation; published is 0 or 1. ``skip`` leaves damaged images out with a warning.
    """
    store = source.store
    known = {tuple(sorted(pair)) for pair in SAME_LESION_PAIRS}

    def look(image_id: str) -> Features | None:
        try:
            return extract(store.read(image_id), store.where(image_id))
        except DataError as error:
            if not skip:
                raise
            warn(f"left out: {error}")
            return None

    looked = _in_threads(look, source.table["image_id"].tolist(), "images", workers)
    features = [each for each in looked if each is not None]
    read = pd.DataFrame(source.table[[each is not None for each in looked]])
    ids = read["image_id"].tolist()
    candidates = neighbours(vlad([each.descriptors for each in features], seed=seed), NEIGHBOURS)
    for column in source.together:
        key = read[column].to_numpy()
        candidates = candidates[key[candidates[:, 0]] != key[candidates[:, 1]]]

    def judge(ends: list[int]) -> Agreement:
        return compare(features[ends[0]], features[ends[1]])

    rows = []
    agreements = _in_threads(judge, candidates.tolist(), "pairs", workers)
    for ends, (inliers, correlation) in zip(candidates, agreements, strict=True):
        if inliers >= MIN_INLIERS and correlation >= MIN_CORRELATION:
            pair = tuple(sorted(ids[end] for end in ends))
            score = round(inliers * correlation, 3)
            rows.append((*pair, score, inliers, round(correlation, 4), int(pair in known)))
    order = {"score": False, "image_id_a": True, "image_id_b": True}
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.sort_values(list(order), ascending=list(order.values()), ignore_index=True)


def _in_threads(
    function: Callable[[Item], Result], items: Sequence[Item], name: str, workers: int
) -> list[Result]:
    """Apply ``function`` to all items, in threads: OpenCV and NumPy release the GIL."""
    with threadpool_limits(1), ThreadPool(workers) as pool:
        return list(tqdm(pool.imap(function, items, chunksize=16), name, len(items)))


def _tile(row: dict, store: ImageStore) -> Tile:
    """Return both images of a pair with their ids and figures."""
    ids = (row["image_id_a"], row["image_id_b"])
    images = tuple(rgb_pixels(store.read(image_id)) for image_id in ids)
    figures = f"{row['inliers']} inliers, correlation {row['correlation']:.2f}"
    return Tile(images, (" ".join(ids), figures))
