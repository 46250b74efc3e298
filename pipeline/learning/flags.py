"""What can be chosen about learning, by name; the names are the values of train.py's flags.

Imports no torch, so that ``--help`` answers at once.
"""

import ast
import json
from collections.abc import Sequence
from typing import Any, Literal

from pipeline.errors import DataError

Task = Literal["binary", "dx"]
"""What the logits stand for: benign and malignant, or the diagnoses of the taxonomy."""

Tta = Literal["none", "flips", "dihedral"]
"""Views averaged at test time: 1, 4 (flips) or 8 (flips and quarter turns)."""

Optimizer = Literal["adam", "adamw", "sgd"]
"""adamw decouples weight decay from the gradient; sgd has Nesterov momentum of 0.9."""

Schedule = Literal["plateau", "cosine", "onecycle", "constant"]
"""How the learning rate moves."""

LossName = Literal["cross-entropy", "focal", "logit-adjusted"]
"""Per-sample losses."""

Weighting = Literal["inverse", "effective", "none"]
"""Weight of a class in the loss, from its frequency."""

Decide = Literal["argmax", "prior"]
"""Which diagnosis is decided: the most probable; or, aiming at balanced accuracy, the one whose
probability is highest after division by a power of its frequency in training."""

RefitHead = Literal["none", "smote", "oversample", "undersample"]
"""How features are resampled before the last layer is fitted again."""


def keyword_arguments(words: Sequence[str]) -> dict[str, Any]:
    """Return ``NAME=VALUE`` words as keyword arguments; values are JSON, Python or plain text."""
    found: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not (equals and name.isidentifier()):
            raise DataError(f"--arch-args {word}: give NAME=VALUE, as drop_path_rate=0.1")
        found[name] = _value(text)
    return found


def _value(text: str) -> Any:
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError):
            continue
    return text
