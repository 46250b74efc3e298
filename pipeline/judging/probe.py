"""A linear probe: logistic regression on one vector an image, such as age, sex and site.

    card, logits = linear_probe("age, sex and site", patient_vectors(samples), samples, train, rows)
    table = card.scores(logits)

It is fitted on the rows ``train`` alone. Folds of whole groups within them choose the
regularisation by ROC-AUC, and their held-out scores fit calibration and threshold as a training
fits them on validation.
"""

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.errors import DataError
from pipeline.ham10000.taxonomy import HAM10000, LABELS
from pipeline.learning.decision import decide
from pipeline.learning.probability import Outputs
from pipeline.learning.stored_model import ModelCard

BINARY = Outputs("binary", HAM10000)

FOLDS = 5
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Values of C that are tried, on standardised vectors."""


def patient_vectors(samples: pd.DataFrame) -> np.ndarray:
    """Return age in years (0 where unknown), whether it is known, sex and site as 0/1, [N, F]."""
    age = pd.Series(samples["age"].to_numpy(dtype=float))
    texts = samples[["sex", "localization"]].fillna("").astype(str)
    columns = [age.fillna(0.0), age.notna(), pd.get_dummies(texts)]
    return np.column_stack([np.asarray(c, dtype=float) for c in columns])


def linear_probe(
    name: str, vectors: np.ndarray, samples: pd.DataFrame, train: np.ndarray, rows: np.ndarray
) -> tuple[ModelCard, np.ndarray]:
    """Return a card with the fitted calibration and threshold, and logits [M, 2] of ``rows``.

    ``vectors`` are float [N, F], one for each of ``samples`` (label, group); it is fitted on those
    of ``train``, bool [N]. ``rows``, int [M] or bool [N], are judged. Too few groups of a class to
    fit on are a DataError.
    """
    label, groups = samples["label"].to_numpy()[train], samples["group"].to_numpy()[train]
    fewest = min(len(set(groups[label == k])) for k in (0, 1))
    if fewest < 2:
        raise DataError(
            f"a probe on {name} needs at least 2 groups of lesions of each class in the train "
            f"split; one has {fewest}"
        )
    folds = StratifiedGroupKFold(min(FOLDS, fewest))
    held_out = {}
    for strength in STRENGTHS:
        held_out[strength] = cross_val_predict(
            regression(strength),
            vectors[train],
            label,
            groups=groups,
            cv=folds,
            method="decision_function",
        )
    best = max(STRENGTHS, key=lambda c: (roc_auc_score(label, held_out[c]), -c))
    decision = decide(
        two(held_out[best]), label, outputs=BINARY, calibrate=True, target_sensitivity=None
    )
    card = ModelCard(
        arch=f"logistic regression on {name}",
        task="binary",
        classes=LABELS,
        image_size=0,
        **asdict(decision),
    )
    fitted = regression(best).fit(vectors[train], label)
    return card, two(fitted.decision_function(vectors[rows]))


def regression(strength: float) -> Any:
    """Return an unfitted logistic regression on standardised vectors."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))


def two(log_odds: np.ndarray) -> np.ndarray:
    """Return log-odds of malignant [N] as the logits of benign and malignant [N, 2]."""
    return np.stack([np.zeros_like(log_odds), log_odds], axis=1)
