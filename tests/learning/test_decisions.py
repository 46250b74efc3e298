"""Threshold, temperature, the malignant probability and the refitted layer."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score, roc_curve

from pipeline.errors import DataError
from pipeline.ham10000.taxonomy import DX, MALIGNANT
from pipeline.learning.decision import choose_threshold, decide, fit_calibration
from pipeline.learning.probability import (
    class_probabilities,
    malignant_classes,
    malignant_probability,
    task_targets,
)
from pipeline.learning.refit import fit_layer, resampled
from pipeline.training.history import validation_metrics

RNG = np.random.default_rng(0)


def scores(n=400):
    malignant = (RNG.random(n) < 0.2).astype(int)
    return 1 / (1 + np.exp(-(RNG.normal(size=n) + 1.5 * malignant - 1))), malignant


def rates(probability, malignant, threshold):
    called = probability >= threshold
    return called[malignant == 1].mean(), 1 - called[malignant == 0].mean()


def test_malignant_probability_is_the_softmax_and_the_sum_over_the_malignant():
    logits = torch.randn(20, 2, dtype=torch.float64)
    expected = torch.softmax(logits, 1)[:, 1].numpy()
    np.testing.assert_allclose(malignant_probability(logits.numpy(), "binary"), expected)
    logits = torch.randn(20, 7, dtype=torch.float64)
    shares = torch.softmax(logits / 2, 1).numpy()
    expected = sum(shares[:, DX.index(dx)] for dx in MALIGNANT)
    np.testing.assert_allclose(malignant_probability(logits.numpy(), "dx", 2.0), expected)


@pytest.mark.parametrize("task", ["binary", "dx"])
def test_bias_is_added_to_the_log_odds_and_keeps_the_shares_among_benign(task):
    logits = RNG.normal(size=(30, 2 if task == "binary" else 7))
    plain, moved = (malignant_probability(logits, task, 1.5, b) for b in (0.0, -0.8))
    np.testing.assert_allclose(np.log(moved / (1 - moved)), np.log(plain / (1 - plain)) - 0.8)
    shares = [class_probabilities(logits, task, 1.5, b) for b in (0.0, -0.8)]
    benign = malignant_classes(task) == 0
    ratios = [s[:, benign] / s[:, benign].sum(1, keepdims=True) for s in shares]
    np.testing.assert_allclose(*ratios)


def test_binary_targets_follow_the_taxonomy():
    assert [int(dx in MALIGNANT) for dx in DX] == task_targets(np.arange(7), "binary").tolist()


def test_youden_threshold_is_the_best_on_the_roc_curve():
    probability, malignant = scores()
    fpr, tpr, _ = roc_curve(malignant, probability)
    threshold = choose_threshold(probability, malignant)
    sensitivity, specificity = rates(probability, malignant, threshold)
    assert sensitivity + specificity - 1 == pytest.approx((tpr - fpr).max())


@given(st.floats(0.05, 1.0))
def test_target_sensitivity_is_reached_and_no_higher_threshold_would(target):
    probability, malignant = scores(150)
    threshold = choose_threshold(probability, malignant, target)
    assert rates(probability, malignant, threshold)[0] >= target - 1e-9
    above = probability[probability > threshold].min()  # the next score: calls one fewer
    assert rates(probability, malignant, np.nextafter(above, 2))[0] < target


def test_threshold_needs_both_classes():
    with pytest.raises(DataError, match="0 malignant and 3 benign"):
        choose_threshold(np.array([0.1, 0.2, 0.3]), np.zeros(3))


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_temperature_undoes_a_known_overconfidence(factor):
    half = RNG.normal(size=20000) * 1.5
    true = np.stack([-half, half], axis=1) / 2
    malignant = (RNG.random(20000) < malignant_probability(true, "binary")).astype(int)
    temperature, bias = fit_calibration(true * factor, malignant, "binary")
    assert temperature == pytest.approx(factor, rel=0.08) and bias == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("shift", [-2.0, 0.7, 3.0])
@pytest.mark.parametrize("task", ["binary", "dx"])
def test_bias_undoes_the_shift_of_a_weighted_loss(task, shift):
    rng = np.random.default_rng(int(10 * abs(shift)))
    logits = rng.normal(size=(20000, 2 if task == "binary" else 7)) * 1.5
    malignant = (rng.random(20000) < malignant_probability(logits, task)).astype(int)
    shifted = logits + shift * malignant_classes(task)
    temperature, bias = fit_calibration(shifted, malignant, task)
    assert bias == pytest.approx(-shift, abs=0.15) and temperature == pytest.approx(1, rel=0.08)
    calibrated = malignant_probability(shifted, task, temperature, bias)
    assert abs(calibrated.mean() - malignant.mean()) < 1e-3


def test_calibration_of_two_classes_is_platts_logistic_regression():
    rng = np.random.default_rng(4)
    odds = rng.normal(size=3000) * 2 + 1.5
    malignant = (rng.random(3000) < 1 / (1 + np.exp(2 - odds))).astype(int)
    logits = np.stack([np.zeros(3000), odds], axis=1)
    temperature, bias = fit_calibration(logits, malignant, "binary")
    theirs = LogisticRegression(C=1e9, tol=1e-10).fit(odds[:, None], malignant)
    assert 1 / temperature == pytest.approx(theirs.coef_.item(), rel=1e-3)
    assert bias == pytest.approx(theirs.intercept_.item(), abs=1e-3)


@pytest.mark.parametrize("share", [0.002, 0.5])
def test_calibration_of_a_model_that_makes_no_mistake_stays_finite(share):
    malignant = (np.arange(1000) < 1000 * share).astype(int)
    logits = np.stack([np.zeros(1000), 40.0 * (2 * malignant - 1)], axis=1)
    temperature, bias = fit_calibration(logits, malignant, "binary")
    assert 0.05 <= temperature <= 20 and -15 <= bias <= 15
    p = malignant_probability(logits, "binary", temperature, bias)
    assert np.isfinite(p).all() and p[malignant == 1].min() > 0.9 > 0.1 > p[malignant == 0].max()


def test_decision_is_made_on_calibrated_probabilities():
    _, malignant = scores()
    logits = np.stack([np.zeros(400), 8 * (RNG.normal(size=400) + malignant)], axis=1)
    plain, fitted = (
        decide(logits, malignant, task="binary", calibrate=calibrate, target_sensitivity=0.9)
        for calibrate in (False, True)
    )
    assert plain.temperature == 1.0 and plain.bias == 0.0 and fitted.temperature > 2
    same = [
        malignant_probability(logits, "binary", d.temperature, d.bias) >= d.threshold
        for d in (plain, fitted)
    ]
    assert (same[0] == same[1]).all()


def test_metrics_of_both_tasks():
    dx_index = RNG.integers(0, 7, 300)
    logits = RNG.normal(size=(300, 7)) + 2 * np.eye(7)[dx_index]
    found = validation_metrics(logits, dx_index, "dx")
    malignant = np.isin(np.array(DX)[dx_index], MALIGNANT)
    expected = roc_auc_score(malignant, malignant_probability(logits, "dx"))
    assert found["val_roc_auc"] == pytest.approx(expected)
    assert found["val_dx_accuracy"] == pytest.approx((logits.argmax(1) == dx_index).mean())
    assert "val_dx_accuracy" not in validation_metrics(logits[:, :2], dx_index, "binary")


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
