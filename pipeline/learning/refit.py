"""The last layer fitted again on resampled features: what SMOTE can mean for images.

    features [N, F] --resample--> balanced [M, F] --logistic regression--> weight [K, F], bias [K]

SMOTE makes a new sample between two neighbours of a rare class. Between two images that is a
ghost of both; between what the network makes of them, its penultimate features, it is another
point of the same region.
"""

from typing import Any

import numpy as np
import torch
from imblearn.over_sampling import SMOTE, RandomOverSampler
from imblearn.under_sampling import RandomUnderSampler
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from pipeline.errors import DataError
from pipeline.learning.model import head_of

STRENGTH = 0.01
"""C of the logistic regression. Features of the train split are separated all too well by the
network that was trained on it; a small C keeps the layer from trusting that."""


def resampled(
    features: np.ndarray, target: np.ndarray, how: str, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return features [M, F] and classes [M] with every class equally frequent.

    Args:
        features: float [N, F].
        target: int [N].
        how: "smote", "oversample" or "undersample".
        seed: of the draw.
    """
    fewest = int(np.bincount(target)[np.unique(target)].min())
    if how == "smote" and fewest < 2:
        raise DataError(
            "--refit-head smote needs two training samples of each class, and one class has "
            f"{fewest}; use --refit-head oversample"
        )
    sampler: Any = {
        "smote": lambda: SMOTE(k_neighbors=min(5, fewest - 1), random_state=seed),
        "oversample": lambda: RandomOverSampler(random_state=seed),
        "undersample": lambda: RandomUnderSampler(random_state=seed),
    }[how]()
    balanced, classes = sampler.fit_resample(features, target)
    return balanced, classes


def fit_layer(
    features: np.ndarray, target: np.ndarray, outputs: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return weight [outputs, F] and bias [outputs] of a linear layer, as logistic regression.

    The regression sees standardised features; mean and deviation are folded into the layer. A
    class that is absent from ``target`` gets a bias that rules it out.
    """
    scaler: Any = StandardScaler().fit(features)
    fitted = LogisticRegression(C=STRENGTH, max_iter=1000).fit(scaler.transform(features), target)
    coefficients, intercepts = fitted.coef_, fitted.intercept_
    if len(fitted.classes_) == 2:  # one row says how much the second class is ahead
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    weight = np.zeros((outputs, features.shape[1]))
    bias = np.full(outputs, -30.0)
    weight[fitted.classes_] = coefficients / scaler.scale_
    bias[fitted.classes_] = intercepts - (coefficients / scaler.scale_) @ scaler.mean_
    return weight, bias


def set_layer(model: nn.Module, weight: np.ndarray, bias: np.ndarray) -> None:
    """Put a fitted layer into ``model``."""
    head = linear_head(model)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight))
        head.bias.copy_(torch.from_numpy(bias))


def linear_head(model: nn.Module) -> nn.Linear:
    """Return the last layer where it is linear.

    Raises:
        DataError: where it is a convolution, as in SqueezeNet.
    """
    head = head_of(model)
    if not isinstance(head, nn.Linear):
        raise DataError(
            f"--refit-head needs a linear last layer; {type(model).__name__} ends in a "
            f"{type(head).__name__}; use another --arch or --refit-head none"
        )
    return head
