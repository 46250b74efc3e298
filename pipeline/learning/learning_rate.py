"""The learning rate as a function of training progress, and the plateau rule.

    lr = 1e-3 * rate_factor("onecycle", progress, epochs=10, warmup=3)

Progress is counted in epochs, with fractions, and not in steps, so it means the same on any number
of processes. Only the three fields of ``Plateau`` are state that a checkpoint must hold.
"""

import math
from dataclasses import dataclass, replace

from pipeline.learning.flags import Schedule

ONECYCLE_RATES = (1 / 25, 1.0, 1e-4 / 25)
"""Start, peak and end of one-cycle, as shares of the peak rate (as torch's OneCycleLR)."""

ONECYCLE_MOMENTA = (0.95, 0.85, 0.95)
"""Momentum at the same three points: it moves against the rate."""


def along_cosines(
    points: tuple[float, float, float], progress: float, *, epochs: int, warmup: float
) -> float:
    """Return the value on two half cosines: first to second point in the warm-up, then to third."""
    start, middle, end = points
    if progress < warmup:
        end, share = middle, progress / warmup
    else:
        start, share = middle, min((progress - warmup) / (epochs - warmup), 1.0)
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def rate_factor(schedule: Schedule, progress: float, *, epochs: int, warmup: float) -> float:
    """Return the share of ``--lr`` to use after ``progress`` epochs; it rises for ``warmup``."""
    if schedule == "onecycle":
        return along_cosines(ONECYCLE_RATES, progress, epochs=epochs, warmup=warmup)
    if progress < warmup:
        return progress / warmup
    if schedule == "cosine":
        return along_cosines((0.0, 1.0, 0.0), progress, epochs=epochs, warmup=warmup)
    return 1.0


def momentum_at(schedule: Schedule, progress: float, *, epochs: int, warmup: float) -> float | None:
    """Return the momentum to use, or None where the schedule does not set it."""
    if schedule != "onecycle":
        return None
    return along_cosines(ONECYCLE_MOMENTA, progress, epochs=epochs, warmup=warmup)


@dataclass(frozen=True)
class Plateau:
    """Cuts the rate when a metric stops rising by 0.01 % (torch's ReduceLROnPlateau, "max")."""

    best: float = -math.inf
    """The highest value so far."""
    waited: int = 0
    """Epochs since the best value or the last cut."""
    factor: float = 1.0
    """Product of the cuts so far."""

    def after(self, value: float, *, patience: int, cut: float) -> "Plateau":
        """Return the state after an epoch that ended with ``value``."""
        margin = 1e-4 * abs(self.best) if math.isfinite(self.best) else 0.0
        if value > self.best + margin:
            return replace(self, best=value, waited=0)
        if self.waited + 1 > patience:
            return replace(self, waited=0, factor=self.factor * cut)
        return replace(self, waited=self.waited + 1)
