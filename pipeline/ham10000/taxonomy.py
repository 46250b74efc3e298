"""The seven diagnoses of HAM10000 and which of them are malignant.

The order of ``DX`` is part of the shard format: a sample's ``.cls`` is an index into it. The
binary label (1 = malignant) is derived from it and never stored in a shard.

Source: Tschandl, Rosendahl, Kittler, "The HAM10000 dataset", Scientific Data 5:180161 (2018).
"""

DX: tuple[str, ...] = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
"""The diagnoses in the order of their index (alphabetical)."""

DX_NAMES: dict[str, str] = {
    "akiec": "actinic keratosis or intraepithelial carcinoma",
    "bcc": "basal cell carcinoma",
    "bkl": "benign keratosis-like lesion",
    "df": "dermatofibroma",
    "mel": "melanoma",
    "nv": "melanocytic nevus",
    "vasc": "vascular lesion",
}
"""The full name of each diagnosis."""

MALIGNANT: tuple[str, ...] = ("akiec", "bcc", "mel")
"""The diagnoses whose binary label is 1; akiec counts as a precursor."""

DX_IS_MALIGNANT: tuple[int, ...] = tuple(int(dx in MALIGNANT) for dx in DX)
"""Binary label by dx index, in the order of ``DX``."""

SEXES: tuple[str, ...] = ("female", "male", "unknown")
"""The values of the metadata column ``sex``."""

LABELS: tuple[str, str] = ("benign", "malignant")
"""Names of the binary labels 0 and 1."""
