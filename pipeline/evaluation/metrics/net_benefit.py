"""What a decision is worth in a clinic: net benefit, and the numbers needed to biopsy.

    curve = decision_curve(label, prob)             # {"threshold": [...], "net_benefit": [...]}
    point = operating_point(figures, threshold=0.4)

A threshold probability states the harm of a needless biopsy against the benefit of finding a
malignant lesion: at 0.1, nine needless biopsies weigh as much as one found (Vickers and Elkin,
Medical Decision Making 26:565, 2006). Net benefit is found minus weighted needless ones, per image.
"""

from typing import Any

import numpy as np

STEPS = np.arange(1, 51) / 100
"""Threshold probabilities of the curve: nobody asks for more than an even chance."""

SHARES = (0.01, 0.02, 0.05, 0.1)
"""Shares of malignant lesions at which predictive values are given besides the split's own."""


def net_benefit(found: np.ndarray, needless: np.ndarray, threshold: np.ndarray) -> np.ndarray:
    """Return the net benefit [K] of shares [K] of all images at threshold probabilities [K]."""
    return found - needless * threshold / (1 - threshold)


def decision_curve(label: np.ndarray, prob: np.ndarray) -> dict[str, list[float]]:
    """Return the net benefit of the model, and of a biopsy of every lesion, at ``STEPS``.

    ``label`` is [N] 0 or 1; ``prob`` is [N] float64 0-1, calibrated, of malignant.
    """
    called = prob >= STEPS[:, None]
    found, needless = ((called & (label == kind)).mean(axis=1) for kind in (1, 0))
    share = (label == 1).mean()
    return {
        "threshold": STEPS.tolist(),
        "net_benefit": net_benefit(found, needless, STEPS).tolist(),
        "all": net_benefit(share, 1 - share, STEPS).tolist(),
    }


def operating_point(figures: dict[str, Any], *, threshold: float) -> dict[str, Any]:
    """Return net benefit and, for several shares of malignant lesions, what a biopsy finds.

    ``number_needed_to_biopsy`` is lesions biopsied for each malignant one found; None where none
    is. It and the predictive values hold if sensitivity and specificity do. ``figures`` has n,
    malignant, sensitivity, specificity and ci95 (of precision) at the ``threshold``.
    """
    sensitivity, specificity = figures["sensitivity"], figures["specificity"]
    own, rows = figures["malignant"] / figures["n"], []
    for share in (own, *SHARES):
        found, needless = share * sensitivity, (1 - share) * (1 - specificity)
        missed, spared = share - found, 1 - share - needless
        rows.append(
            {
                "malignant_share": share,
                "number_needed_to_biopsy": (found + needless) / found if found else None,
                "biopsies_per_1000": 1000 * (found + needless),
                "missed_per_1000": 1000 * missed,
                "npv": spared / (spared + missed) if spared + missed else None,
            }
        )
    weight = threshold / (1 - threshold) if threshold < 1 else np.inf
    needless = (1 - own) * (1 - specificity)
    benefit = own * sensitivity - (weight * needless if needless else 0.0)
    low, high = figures["ci95"].get("precision") or (0.0, 1.0)
    interval = [1 / high, 1 / low] if low else None
    return {"net_benefit": benefit, "number_needed_to_biopsy_ci95": interval, "at_shares": rows}
