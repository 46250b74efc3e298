"""Whether a checkpoint has seen, in training or for its choice, what it is now judged on.

found = overlap(split.samples, training_samples)
"""

import pandas as pd

from pipeline.errors import DataError

LEVELS = {"image_id": "images", "lesion_id": "lesions", "group": "groups of lesions"}
"""What may not be shared, and how it is called."""


def overlap(samples: pd.DataFrame, seen: pd.DataFrame) -> dict[str, int]:
    """How many images, lesions and groups of ``samples`` are among ``seen``."""
    return {
        name: len(set(samples[column].astype(str)) & set(seen[column].astype(str)))
        for column, name in LEVELS.items()
    }


def example(samples: pd.DataFrame, seen: pd.DataFrame) -> str:
    """One image of ``samples`` whose image, lesion or group was seen."""
    for column in LEVELS:
        known = set(seen[column])
        for image_id, value in zip(samples["image_id"], samples[column], strict=True):
            if value in known:
                return str(image_id)
    return ""


def refuse(samples: pd.DataFrame, seen: pd.DataFrame, where: str) -> dict[str, int]:
    """Raise when anything is shared; otherwise return the counts, all zero.

    Args:
        samples: the split that is to be judged: image_id, lesion_id, group.
        seen: the checkpoint's training_samples.csv.
        where: which split of which shards, for the message.
    """
    found = overlap(samples, seen)
    if any(found.values()):
        counts = ", ".join(f"{n} {name}" for name, n in found.items())
        raise DataError(
            f"{where}: the checkpoint was trained or chosen on part of it: shared are {counts} "
            f"(for example image {example(samples, seen)}). Figures would flatter the model. "
            "Judge it on the test split of the shards that it was trained with, or give "
            "--allow-leak to go on and have the report say so"
        )
    return found
