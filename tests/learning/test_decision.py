"""Calibration and threshold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_curve

from pipeline.errors import DataError
from pipeline.ham10000.taxonomy import HAM10000
from pipeline.learning.decision import (
    choose_threshold,
    decide,
    fit_calibration,
    fit_prior_strength,
)
from pipeline.learning.probability import Outputs, adjusted_probabilities, malignant_probability

RNG = np.random.default_rng(0)
BINARY = Outputs("binary", HAM10000)


def scores(n=400):
    malignant = (RNG.random(n) < 0.2).astype(int)
    return 1 / (1 + np.exp(-(RNG.normal(size=n) + 1.5 * malignant - 1))), malignant


def rates(probability, malignant, threshold):
    called = probability >= threshold
    return called[malignant == 1].mean(), 1 - called[malignant == 0].mean()


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
    malignant = (RNG.random(20000) < malignant_probability(true, BINARY)).astype(int)
    temperature, bias = fit_calibration(true * factor, malignant, BINARY)
    assert temperature == pytest.approx(factor, rel=0.08) and bias == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("shift", [-2.0, 0.7, 3.0])
@pytest.mark.parametrize("task", ["binary", "dx"])
def test_bias_undoes_the_shift_of_a_weighted_loss(task, shift):
    rng, outputs = np.random.default_rng(int(10 * abs(shift))), Outputs(task, HAM10000)
    logits = rng.normal(size=(20000, 2 if task == "binary" else 7)) * 1.5
    malignant = (rng.random(20000) < malignant_probability(logits, outputs)).astype(int)
    shifted = logits + shift * outputs.malignant
    temperature, bias = fit_calibration(shifted, malignant, outputs)
    assert bias == pytest.approx(-shift, abs=0.15) and temperature == pytest.approx(1, rel=0.08)
    calibrated = malignant_probability(shifted, outputs, temperature, bias)
    assert abs(calibrated.mean() - malignant.mean()) < 1e-3


def test_calibration_of_two_classes_is_platts_logistic_regression():
    rng = np.random.default_rng(4)
    odds = rng.normal(size=3000) * 2 + 1.5
    malignant = (rng.random(3000) < 1 / (1 + np.exp(2 - odds))).astype(int)
    logits = np.stack([np.zeros(3000), odds], axis=1)
    temperature, bias = fit_calibration(logits, malignant, BINARY)
    theirs = LogisticRegression(C=1e9, tol=1e-10).fit(odds[:, None], malignant)
    assert 1 / temperature == pytest.approx(theirs.coef_.item(), rel=1e-3)
    assert bias == pytest.approx(theirs.intercept_.item(), abs=1e-3)


@pytest.mark.parametrize("share", [0.002, 0.5])
def test_calibration_of_a_model_that_makes_no_mistake_stays_finite(share):
    malignant = (np.arange(1000) < 1000 * share).astype(int)
    logits = np.stack([np.zeros(1000), 40.0 * (2 * malignant - 1)], axis=1)
    temperature, bias = fit_calibration(logits, malignant, BINARY)
    assert 0.05 <= temperature <= 20 and -15 <= bias <= 15
    p = malignant_probability(logits, BINARY, temperature, bias)
    assert np.isfinite(p).all() and p[malignant == 1].min() > 0.9 > 0.1 > p[malignant == 0].max()


def test_decision_is_made_on_calibrated_probabilities():
    _, malignant = scores()
    logits = np.stack([np.zeros(400), 8 * (RNG.normal(size=400) + malignant)], axis=1)
    plain, fitted = (
        decide(logits, malignant, outputs=BINARY, calibrate=calibrate, target_sensitivity=0.9)
        for calibrate in (False, True)
    )
    assert plain.temperature == 1.0 and plain.bias == 0.0 and fitted.temperature > 2
    same = [
        malignant_probability(logits, BINARY, d.temperature, d.bias) >= d.threshold
        for d in (plain, fitted)
    ]
    assert (same[0] == same[1]).all()


def test_the_prior_is_divided_out_as_far_as_balanced_accuracy_gains():
    rng = np.random.default_rng(3)
    prior = np.array([0.8, 0.15, 0.05])
    truth = rng.choice(3, 3000, p=prior)
    scores = rng.normal(size=(3000, 3))
    scores[np.arange(3000), truth] += 1.5
    posterior = prior * np.exp(1.5 * scores)  # Bayes' rule for normal scores of unit deviation
    posterior /= posterior.sum(axis=1, keepdims=True)

    def reached(strength):
        adjusted = adjusted_probabilities(posterior, prior, strength)
        np.testing.assert_allclose(adjusted.sum(axis=1), 1)
        return balanced_accuracy_score(truth, adjusted.argmax(axis=1))

    strength = fit_prior_strength(posterior, truth, prior)
    assert 0.5 < strength < 1.5  # the true posterior calls for 1
    assert reached(strength) == max(reached(each) for each in np.arange(0, 2.01, 0.05))
    assert reached(strength) > balanced_accuracy_score(truth, posterior.argmax(axis=1)) + 0.1
