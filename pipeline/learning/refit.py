"""The last layer fitted again on resampled features: what SMOTE can mean for images.

    features [N, F] --resample--> balanced [M, F] --logistic regression--> weight [K, F], bias [K]

SMOTE interpolates between two neighbours of a rare class. Between two images that gives a double
exposure; between their penultimate features it gives a plausible point of the same region.
"""

import copy
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.errors import DataError
from pipeline.learning.flags import RefitHead
from pipeline.learning.model import head_name, head_of

STRENGTH = 0.01
"""C of the logistic regression: strong regularisation, because the network has fitted the train
split and separates its features better than those of new images."""


def without_head(model: nn.Module) -> nn.Module:
    """Return a copy of the network whose outputs are the features of its last layer, [B, F].

    A last layer that is a convolution, as in SqueezeNet, is a DataError.
    """
    head = head_of(model)
    if not isinstance(head, nn.Linear):
        raise DataError(
            f"--refit-head needs a linear last layer; {type(model).__name__} ends in a "
            f"{type(head).__name__}; use another --arch or --refit-head none"
        )
    copied = copy.deepcopy(model)
    copied.set_submodule(head_name(model), nn.Identity())
    return copied


def resampled(
    features: np.ndarray, target: np.ndarray, how: RefitHead, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return features [M, F], classes [M], all equally frequent; too few for SMOTE: a DataError."""
    from imblearn.over_sampling import SMOTE, RandomOverSampler  # takes seconds to import
    from imblearn.under_sampling import RandomUnderSampler

    fewest = int(np.bincount(target)[np.unique(target)].min())
    if how == "smote" and fewest < 2:
        raise DataError(
            "--refit-head smote needs two training samples of each class, and one class has "
            f"{fewest}; use --refit-head oversample"
        )
    samplers = {
        "smote": SMOTE(k_neighbors=min(5, fewest - 1), random_state=seed),
        "oversample": RandomOverSampler(random_state=seed),
        "undersample": RandomUnderSampler(random_state=seed),
    }
    balanced, classes = samplers[how].fit_resample(features, target)
    return balanced, classes


def fit_layer(
    features: np.ndarray, target: np.ndarray, outputs: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return weight [outputs, F] and bias [outputs] of a linear layer, by logistic regression.

    The regression gets standardised features; mean and deviation are folded into the layer. A
    class without samples gets a bias that makes its probability practically zero.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler: Any = StandardScaler()
    fitted = LogisticRegression(C=STRENGTH, max_iter=1000)
    fitted.fit(scaler.fit_transform(features), target)
    coefficients, intercepts = fitted.coef_, fitted.intercept_
    if len(fitted.classes_) == 2:  # scikit-learn keeps one row: the second class against the first
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    weight = np.zeros((outputs, features.shape[1]))
    bias = np.full(outputs, -30.0)
    weight[fitted.classes_] = coefficients / scaler.scale_
    bias[fitted.classes_] = intercepts - (coefficients / scaler.scale_) @ scaler.mean_
    return weight, bias


def set_layer(model: nn.Module, weight: np.ndarray, bias: np.ndarray) -> None:
    """Put a fitted layer into ``model``, whose last layer is linear."""
    fitted = {"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)}
    head_of(model).load_state_dict(fitted)
