"""The last layer fitted again on resampled features."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from pipeline.errors import DataError
from pipeline.learning.model import build_model, head_of
from pipeline.learning.refit import fit_layer, resampled, set_layer

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("how", ["smote", "oversample", "undersample"])
def test_refit_resamples_to_equal_classes_and_finds_the_rare_one(how):
    target = (RNG.random(2000) < 0.05).astype(int)
    features = RNG.normal(size=(2000, 6)) + 1.5 * target[:, None] * (np.arange(6) == 0)
    balanced, classes = resampled(features, target, how, seed=0)
    counts = np.bincount(classes)
    assert counts[0] == counts[1] == (min if how == "undersample" else max)(np.bincount(target))
    if how == "smote":  # new points, each between two of the rare class
        rare = features[target == 1]
        made = balanced[len(features) :]
        assert (made.min(0) >= rare.min(0)).all() and (made.max(0) <= rare.max(0)).all()
        assert len(np.unique(balanced, axis=0)) == len(balanced)

    def recall(weight, bias):
        return ((features @ weight.T + bias).argmax(1) == 1)[target == 1].mean()

    assert recall(*fit_layer(features, target, 2)) < 0.3
    assert recall(*fit_layer(balanced, classes, 2)) > 0.6


def test_fitted_layer_is_the_logistic_regression_it_stands_for():
    target = RNG.integers(0, 3, 500)
    features = RNG.normal(size=(500, 4)) * [1, 10, 0.1, 1] + 5 + target[:, None]
    weight, bias = fit_layer(features, target, 4)  # a fourth class never occurs
    mean, scale = features.mean(0), features.std(0)
    theirs = LogisticRegression(C=0.01, max_iter=1000).fit((features - mean) / scale, target)
    logits = torch.tensor(features @ weight.T + bias)
    np.testing.assert_allclose(
        torch.softmax(logits, 1)[:, :3].numpy(),
        theirs.predict_proba((features - mean) / scale),
        atol=1e-6,
    )


def test_smote_with_a_single_sample_of_a_class_is_refused():
    with pytest.raises(DataError, match="two training samples"):
        resampled(np.zeros((5, 2)), np.array([0, 0, 0, 0, 1]), "smote", 0)


def test_the_fitted_layer_becomes_the_last_layer_of_the_model():
    model = build_model("resnet18", 2)
    weight, bias = RNG.normal(size=(2, 512)), np.array([0.25, -0.5])
    set_layer(model, weight, bias)
    features = torch.randn(3, 512)
    expected = features.numpy() @ weight.T + bias
    found = head_of(model).eval()(features).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
