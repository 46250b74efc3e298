"""The learning rate as a pure function of how far the training is, and the plateau rule.

Progress is counted in epochs, as a fraction, not in steps: it means the same on any number of
processes. Nothing here needs saving but the three numbers of ``Plateau``.
"""

import math
from dataclasses import dataclass, replace

ONECYCLE_START, ONECYCLE_END = 1 / 25, 1e-4 / 25
"""Shares of the peak rate where one-cycle begins and ends (as torch's OneCycleLR)."""

MOMENTUM_HIGH, MOMENTUM_LOW = 0.95, 0.85
"""Between which one-cycle moves the momentum, against the rate."""


def cosine_between(start: float, end: float, share: float) -> float:
    """Go from ``start`` to ``end`` along half a cosine, ``share`` from 0 to 1."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def rate_factor(name: str, progress: float, *, epochs: int, warmup: float) -> float:
    """Return the share of ``--lr`` to use.

    Args:
        name: "plateau", "constant", "cosine" or "onecycle".
        progress: epochs done so far, with the fraction of the present one.
        epochs: in total.
        warmup: epochs in which the rate climbs.
    """
    if progress < warmup:
        share = progress / warmup
        return cosine_between(ONECYCLE_START, 1.0, share) if name == "onecycle" else share
    share = min((progress - warmup) / (epochs - warmup), 1.0)
    match name:
        case "onecycle":
            return cosine_between(1.0, ONECYCLE_END, share)
        case "cosine":
            return cosine_between(1.0, 0.0, share)
        case _:
            return 1.0


def momentum_at(name: str, progress: float, *, epochs: int, warmup: float) -> float | None:
    """Return the momentum to use, or None where the schedule leaves it alone."""
    if name != "onecycle":
        return None
    if progress < warmup:
        return cosine_between(MOMENTUM_HIGH, MOMENTUM_LOW, progress / warmup)
    share = min((progress - warmup) / (epochs - warmup), 1.0)
    return cosine_between(MOMENTUM_LOW, MOMENTUM_HIGH, share)


@dataclass(frozen=True)
class Plateau:
    """Cuts the rate when a metric stops rising (torch's ReduceLROnPlateau, mode "max")."""

    best: float = -math.inf
    """The highest value so far."""
    waited: int = 0
    """Epochs since then, or since the last cut."""
    factor: float = 1.0
    """What the rate is multiplied with by now."""

    def after(self, value: float, *, patience: int, cut: float) -> "Plateau":
        """Return the state after an epoch that ended with ``value``."""
        if value > self.best + 1e-4 * abs(self.best if math.isfinite(self.best) else 0.0):
            return replace(self, best=value, waited=0)
        if self.waited + 1 > patience:
            return replace(self, waited=0, factor=self.factor * cut)
        return replace(self, waited=self.waited + 1)
