"""Whether a checkpoint was trained, or chosen, on images that it is now judged on.

refuse(split.samples, training_samples, "split test of shards/ham10000")
"""

import numpy as np
import pandas as pd

from pipeline.errors import DataError

LEVELS = {"image_id": "images", "lesion_id": "lesions", "group": "groups of lesions"}
"""Columns of both tables, and what a value that both have is called."""


def overlap(samples: pd.DataFrame, training: pd.DataFrame) -> dict[str, int]:
    """Return how many images, lesions and groups of ``samples`` are in ``training``."""
    return {
        name: len(set(samples[column].astype(str)) & set(training[column].astype(str)))
        for column, name in LEVELS.items()
    }


def refuse(samples: pd.DataFrame, training: pd.DataFrame, where: str) -> None:
    """Raise a DataError if the judged ``samples`` share anything with training_samples.csv.

    Both have the columns ``LEVELS``; ``where`` names the split and its shards in the message.
    """
    known = [samples[column].astype(str).isin(training[column].astype(str)) for column in LEVELS]
    shared = samples["image_id"].to_numpy()[np.logical_or.reduce(known)]
    if len(shared):
        counts = ", ".join(f"{n} {name}" for name, n in overlap(samples, training).items())
        raise DataError(
            f"{where}: the checkpoint was trained or chosen on part of it: {counts} are shared "
            f"(for example image {shared[0]}), so the figures would be too good. Judge on "
            "the test split of the shards that it was trained on, or give --allow-leak; the "
            "report then warns of the leak"
        )
