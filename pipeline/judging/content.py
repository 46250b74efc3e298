"""Whether judged photographs show what the training images show, whatever their ids.

check_content(open_both(flags.data, accelerator), Path("shards/ham10000"), allowed=False)
"""

from pathlib import Path

import pandas as pd

from pipeline.duplicates.find import find_pairs
from pipeline.duplicates.photographs import packed
from pipeline.errors import DataError, warn
from pipeline.judging.scoring import Opened
from pipeline.machine import cores
from pipeline.shards.dataset import open_shards

NAMED = 5
"""Pairs that a message names."""


def check_content(opened: Opened, at: Path, *, allowed: bool) -> int:
    """Return how many judged images show a lesion that the checkpoint was trained or chosen on.

    ``at`` are shards that hold the training images; that they lack some is a DataError, and that
    something is found, unless ``allowed``.
    """
    shards, training = opened.shards, opened.training
    trained = open_shards(at)
    own = trained.samples
    own = own[own["image_id"].isin(training["image_id"])]
    if absent := sorted(set(training["image_id"]) - set(own["image_id"])):
        raise DataError(
            f"--check-content {at}: {len(absent):,} images that the checkpoint was trained on are "
            f"not there ({', '.join(absent[:3])} ...); give the shards of that training"
        )
    found = find_pairs(
        packed(shards, opened.samples), packed(trained, pd.DataFrame(own)), workers=cores(), seed=0
    )
    pairs = list(zip(found["image_id_a"], found["image_id_b"], strict=True))
    count = len(set(found["image_id_a"]))
    if not pairs:
        return 0
    more = f" and {len(pairs) - NAMED:,} more pairs" if len(pairs) > NAMED else ""
    said = (
        f"{count:,} judged images show what training images show: "
        f"{', '.join(f'{a} = {b}' for a, b in pairs[:NAMED])}{more}"
    )
    if not allowed:
        raise DataError(
            f"{said}; look at them: python -m pipeline.shards duplicates --source {shards.root} "
            f"--against {at}; leave them out, or give --allow-leak: the report then warns of them"
        )
    warn(said)
    return count
