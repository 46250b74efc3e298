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

SAME_LESION_PAIRS: tuple[tuple[str, str], ...] = (
    ("ISIC_0033481", "ISIC_0033421"),
    ("ISIC_0033556", "ISIC_0032634"),
    ("ISIC_0029152", "ISIC_0033173"),
    ("ISIC_0029036", "ISIC_0027027"),
    ("ISIC_0027820", "ISIC_0028209"),
    ("ISIC_0027689", "ISIC_0032647"),
    ("ISIC_0030906", "ISIC_0024879"),
    ("ISIC_0033391", "ISIC_0034186"),
    ("ISIC_0025226", "ISIC_0030074"),
    ("ISIC_0026087", "ISIC_0025664"),
    ("ISIC_0024736", "ISIC_0029748"),
    ("ISIC_0024770", "ISIC_0027811"),
    ("ISIC_0027162", "ISIC_0029061"),
    ("ISIC_0024602", "ISIC_0032283"),
    ("ISIC_0029625", "ISIC_0024629"),
    ("ISIC_0030000", "ISIC_0031392"),
    ("ISIC_0024437", "ISIC_0031299"),
    ("ISIC_0033374", "ISIC_0033417"),
)
"""Image ids of one lesion."""

with (
    Path(__file__).with_name("official_test_pairs.csv").open(encoding="utf-8", newline="") as _file
):
    OFFICIAL_TEST_PAIRS = tuple((a, b) for a, b in list(csv.reader(_file))[1:])
"""Image ids of one lesion of which one or both are in the official test set."""
