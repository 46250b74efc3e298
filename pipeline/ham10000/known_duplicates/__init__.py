"""Pairs of images that show one lesion under two ids: 18 published, 291 of the official test set.

**HAM10000.** A split by ``lesion_id`` alone can put such a lesion on both sides, so these 18 pairs
are joined before splitting. Two further published pairs only look alike and are not joined:
ISIC_0025323 with ISIC_0025141, ISIC_0025947 with ISIC_0029023.

Source: Abhishek, Jain, Hamarneh, "Investigating the Quality of DermaMNIST and Fitzpatrick17k
Dermatological Image Datasets", Scientific Data 12:196 (2025), doi:10.1038/s41597-025-04382-5.

**The official ISIC 2018 Task 3 test set** repeats lesions: 275 pairs inside it, and 16 pairs of a
test image with one of 15 training images. ``python -m pipeline.shards duplicates`` found them on
the deposit with the test images; ``official_test_pairs.csv`` has the ids.
"""

import csv
from pathlib import Path


def _read(name: str) -> tuple[tuple[str, str], ...]:
    with Path(__file__).with_name(name).open(encoding="utf-8", newline="") as file:
        return tuple((a, b) for a, b in list(csv.reader(file))[1:])


SAME_LESION_PAIRS = _read("published_pairs.csv")
"""Image ids of one lesion."""

OFFICIAL_TEST_PAIRS = _read("official_test_pairs.csv")
"""Image ids of one lesion of which one or both are in the official test set."""
