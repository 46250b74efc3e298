"""How a model does elsewhere: the drop against its own validation, and what recalibration mends.

    metrics["drop"] = drop(frame, validation_of(path, threshold), resamples=2000, seed=0)
    metrics["recalibration"] = recalibration(frame, seed=0)

``validation_predictions.csv``, kept with the model by train.py --> the same figures there and here.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import logit

from pipeline.evaluation.metrics.binary import rank, roc_auc, threshold_metrics
from pipeline.evaluation.metrics.bootstrap import interval, resample
from pipeline.evaluation.metrics.calibration import brier, expected_calibration_error
from pipeline.evaluation.predictions import read
from pipeline.ham10000.taxonomy import Taxonomy
from pipeline.judging.probe import BINARY, two
from pipeline.learning.decision import fit_calibration
from pipeline.learning.probability import malignant_probability
from pipeline.learning.stored_model import VALIDATION, stored_folder

CASES = (25, 50, 100, 200, 400, 800)
"""Outside images that the calibration is fitted on again, as long as they are at most half."""

DRAWS = 20
"""Random choices of that many images; the figures are their means."""


def validation_of(checkpoint: Path, threshold: float, taxonomy: Taxonomy) -> pd.DataFrame | None:
    """Return a model's predictions of its validation split, decided at ``threshold``; or None."""
    path = stored_folder(checkpoint) / VALIDATION
    if not path.is_file():
        return None
    frame = read(path, taxonomy)
    return frame.assign(predicted=(frame["prob_malignant"] >= threshold).astype(int))


def drop(frame: pd.DataFrame, validation: pd.DataFrame, *, resamples: int, seed: int) -> dict:
    """Return ROC-AUC, sensitivity, specificity and calibration error there, here, and here - there.

    The intervals of the differences are over lesions, drawn independently in the two sets.
    """
    values, draws = [], []
    for number, table in enumerate((validation, frame)):
        columns = ("label", "prob_malignant", "predicted")
        label, prob, predicted = (table[name].to_numpy() for name in columns)

        def statistic(weights, label=label, prob=prob, predicted=predicted):
            decided = threshold_metrics(label, predicted, weights)
            return {
                "roc_auc": roc_auc(rank(label, prob, weights)),
                "sensitivity": decided["sensitivity"],
                "specificity": decided["specificity"],
                "ece": expected_calibration_error(label, prob, weights),
            }

        groups = table["group"].to_numpy()
        values.append(statistic(np.ones((len(label), 1))))
        draws.append(resample(statistic, groups, resamples=resamples, seed=seed + number))
    (there, here), (draws_there, draws_here) = values, draws
    figures = {
        name: {
            "validation": float(there[name][0]),
            "here": float(here[name][0]),
            "difference": float(here[name][0] - there[name][0]),
            "ci95": interval(draws_here[name] - draws_there[name]),
        }
        for name in here
    }
    return {"n_validation": len(validation), "n": len(frame), "figures": figures}


def recalibration(frame: pd.DataFrame, *, seed: int) -> list[dict]:
    """Return calibration error and Brier score after a new calibration on so many of the images.

    Whole groups of lesions are drawn, ``DRAWS`` times, and all others are judged; ``cases`` 0 is
    the model as it is. Bounds are the 2.5 and 97.5 percentiles of the draws.
    """
    label, prob = frame["label"].to_numpy(), frame["prob_malignant"].to_numpy()
    tiny = np.finfo(np.float64).eps
    logits = two(logit(np.clip(prob, tiny, 1 - tiny)))
    groups, rng = frame["group"].to_numpy(), np.random.default_rng(seed)
    curve = [{"cases": 0, **_summary([_quality(label, prob)])}]
    for cases in CASES:
        if 2 * cases > len(frame):
            break
        found = []
        for _ in range(DRAWS):
            order = pd.factorize(groups)[0]
            place = rng.permutation(order.max() + 1)[order]
            used = np.zeros(len(frame), dtype=bool)
            used[np.argsort(place, kind="stable")[:cases]] = True
            rest = ~np.isin(groups, groups[used])
            if len(set(label[used])) == 2 and len(set(label[rest])) == 2:
                fitted = fit_calibration(logits[used], label[used], BINARY)
                again = malignant_probability(logits[rest], BINARY, *fitted)
                found.append(_quality(label[rest], again))
        if found:
            curve.append({"cases": cases, **_summary(found)})
    return curve


def _quality(label: np.ndarray, prob: np.ndarray) -> dict[str, float]:
    weights = np.ones((len(label), 1))
    error = expected_calibration_error(label, prob, weights)
    return {"ece": float(error[0]), "brier": float(brier(label, prob, weights)[0])}


def _summary(found: list[dict[str, float]]) -> dict:
    """Return the mean of each figure over draws, and its bounds."""
    result, drawn = {"draws": len(found)}, pd.DataFrame(found)
    for name, values in drawn.items():
        bounds = values.quantile([0.025, 0.975]).tolist() if len(found) > 1 else None
        result |= {name: float(values.mean()), f"{name}_bounds": bounds}
    return result
