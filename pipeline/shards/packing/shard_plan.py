"""What one shard is to hold: the only part of a plan that a packing process needs.

In a module of its own, so that such a process starts without pandas and scipy, which cost a second
and more.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ShardPlan:
    """What one shard holds."""

    path: str
    """Path of the tar below OUT."""
    split: str
    """train, val or test."""
    fold: int | None
    """Fold its samples are in, or None."""
    rows: tuple[dict[str, Any], ...]
    """The metadata of each sample (``plan.ROW_COLUMNS``; age None if missing), in packing order."""
