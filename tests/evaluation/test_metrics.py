"""Every metric against scikit-learn, or against its published definition written out again."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from pipeline.evaluation.metrics import binary as ours
from pipeline.evaluation.metrics import calibration
from pipeline.evaluation.metrics.multiclass import dx_metrics
from pipeline.evaluation.metrics.net_benefit import decision_curve, operating_point
from pipeline.ham10000.taxonomy import HAM10000, load

TOLERANCE = 1e-12


@st.composite
def scored(draw):
    n = draw(st.integers(2, 60))
    label = np.array(draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)))
    label[:2] = [0, 1]
    levels = draw(st.sampled_from([3, 10, 1000]))  # few levels: many ties
    score = np.array(draw(st.lists(st.integers(0, levels), min_size=n, max_size=n))) / levels
    return label, score


def isic_2024_partial_auc(label, score, min_tpr=0.8):
    """The challenge's own formula, over scikit-learn's standardised partial AUC."""
    max_fpr = 1 - min_tpr
    scaled = sk.roc_auc_score(1 - label, -score, max_fpr=max_fpr)
    return 0.5 * max_fpr**2 + (max_fpr - 0.5 * max_fpr**2) / 0.5 * (scaled - 0.5)


@settings(max_examples=200, deadline=None)
@given(scored())
def test_ranking_metrics_agree_with_scikit_learn_with_and_without_ties(case):
    label, score = case
    found = {k: v[0] for k, v in ours.ranking_metrics(label, score, ours.ones(len(label))).items()}
    fpr, tpr, _ = sk.roc_curve(label, score, drop_intermediate=False)
    assert found["roc_auc"] == pytest.approx(sk.roc_auc_score(label, score), abs=TOLERANCE)
    assert found["pr_auc"] == pytest.approx(sk.average_precision_score(label, score), abs=TOLERANCE)
    assert found["partial_auc_tpr80"] == pytest.approx(
        isic_2024_partial_auc(label, score), abs=TOLERANCE
    )
    for level in (0.90, 0.95):
        name = f"{level * 100:.0f}"
        sensitivity = tpr[fpr <= 1 - level + 1e-9].max()
        specificity = (1 - fpr[tpr >= level - 1e-9]).max()
        assert found[f"sensitivity_at_specificity_{name}"] == pytest.approx(sensitivity)
        assert found[f"specificity_at_sensitivity_{name}"] == pytest.approx(specificity)


@settings(max_examples=100, deadline=None)
@given(scored(), st.floats(0.05, 0.95))
def test_threshold_metrics_agree_with_scikit_learn(case, threshold):
    label, score = case
    predicted = (score >= threshold).astype(int)
    found = {
        k: v[0] for k, v in ours.threshold_metrics(label, predicted, ours.ones(len(label))).items()
    }
    expected = {
        "accuracy": sk.accuracy_score(label, predicted),
        "error_rate": 1 - sk.accuracy_score(label, predicted),
        "majority_accuracy": max(label.mean(), 1 - label.mean()),
        "balanced_accuracy": sk.balanced_accuracy_score(label, predicted),
        "sensitivity": sk.recall_score(label, predicted),
        "specificity": sk.recall_score(label, predicted, pos_label=0),
        "precision": sk.precision_score(label, predicted, zero_division=0),
        "npv": sk.precision_score(label, predicted, pos_label=0, zero_division=0),
        "f1": sk.f1_score(label, predicted, zero_division=0),
        "f1_benign": sk.f1_score(label, predicted, pos_label=0, zero_division=0),
        "mcc": sk.matthews_corrcoef(label, predicted),
    }
    assert found == pytest.approx(expected, abs=TOLERANCE)


@settings(max_examples=50, deadline=None)
@given(scored(), st.integers(0, 1000))
def test_a_column_of_weights_is_the_sample_with_repeats(case, seed):
    label, score = case
    weights = np.random.default_rng(seed).integers(0, 4, len(label))
    weights[:2] = np.maximum(weights[:2], 1)  # both classes stay
    predicted = (score >= 0.5).astype(int)
    both = np.stack([np.ones(len(label)), weights], axis=1).astype(float)
    weighted = ours.binary_metrics(label, score, predicted, both)
    plain = ours.binary_metrics(label, score, predicted, ours.ones(len(label)))
    repeated = [np.repeat(a, weights) for a in (label, score, predicted)]
    again = ours.binary_metrics(*repeated, ours.ones(weights.sum()))
    for name, values in weighted.items():
        assert values[0] == pytest.approx(plain[name][0], abs=TOLERANCE), name
        assert values[1] == pytest.approx(again[name][0], abs=TOLERANCE), name


def test_a_perfect_and_a_reversed_ranking_reach_the_ends_of_the_scale():
    label, score = np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.8, 0.9])
    best, worst = (ours.ranking_metrics(label, s, ours.ones(4)) for s in (score, -score))
    assert best["roc_auc"][0] == 1
    assert best["partial_auc_tpr80"][0] == pytest.approx(0.2)
    assert best["sensitivity_at_specificity_95"][0] == 1
    assert worst["roc_auc"][0] == worst["partial_auc_tpr80"][0] == 0


def test_a_resample_without_one_class_has_no_auc_and_no_sensitivity():
    label, score = np.array([0, 0, 1]), np.array([0.1, 0.9, 0.5])
    weights = np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    found = ours.binary_metrics(label, score, (score > 0.4).astype(int), weights)
    assert np.isnan(found["roc_auc"][0])
    assert np.isnan(found["sensitivity"][0])
    assert found["roc_auc"][1] == 1


@settings(max_examples=50, deadline=None)
@given(scored())
def test_brier_and_log_loss_agree_with_scikit_learn(case):
    label, prob = case
    w = ours.ones(len(label))
    assert calibration.brier(label, prob, w)[0] == pytest.approx(sk.brier_score_loss(label, prob))
    assert calibration.nll(label, prob, w)[0] == pytest.approx(
        sk.log_loss(label, prob, labels=[0, 1])
    )


def test_calibration_error_is_the_published_sum_over_bins():
    rng = np.random.default_rng(3)
    prob = np.concatenate([rng.random(500), [0.0, 1.0, 1 / 15, 14 / 15]])
    label = (rng.random(len(prob)) < prob**2).astype(int)
    expected = 0.0
    for k in range(15):
        top = prob <= 1 if k == 14 else prob < np.linspace(0, 1, 16)[k + 1]
        inside = (prob >= np.linspace(0, 1, 16)[k]) & top
        if inside.any():
            expected += inside.mean() * abs(prob[inside].mean() - label[inside].mean())
    found = calibration.expected_calibration_error(label, prob, ours.ones(len(prob)))[0]
    assert found == pytest.approx(expected, abs=TOLERANCE)
    table = calibration.reliability(label, prob)
    assert sum(b["n"] for b in table) == len(prob)
    gaps = (b["n"] * abs(b["mean_probability"] - b["malignant_fraction"]) for b in table if b["n"])
    assert sum(gaps) / len(prob) == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("name", ["ham10000", "milk10k"])
def test_metrics_of_the_classes_agree_with_scikit_learn(name):
    classes = load(name).classes
    rng, count = np.random.default_rng(5), len(classes)
    truth = np.concatenate([np.arange(count), rng.choice(count, 300, p=rng.dirichlet([5] * count))])
    scores = rng.dirichlet(np.ones(count), len(truth))
    scores[np.arange(len(truth)), truth] += 0.3
    scores /= scores.sum(axis=1, keepdims=True)
    guess = scores.argmax(axis=1)
    found = {k: v[0] for k, v in dx_metrics(truth, scores, ours.ones(len(truth)), classes).items()}
    assert found["balanced_accuracy_dx"] == pytest.approx(sk.balanced_accuracy_score(truth, guess))
    assert found["accuracy_dx"] == pytest.approx(sk.accuracy_score(truth, guess))
    recall = sk.recall_score(truth, guess, average=None)
    for k, dx in enumerate(classes):
        assert found[f"roc_auc_dx_{dx}"] == pytest.approx(
            sk.roc_auc_score(truth == k, scores[:, k])
        )
        assert found[f"recall_dx_{dx}"] == pytest.approx(recall[k])


def test_balanced_accuracy_leaves_out_an_absent_diagnosis():
    truth, scores = np.array([0, 0, 5]), np.eye(7)[[0, 1, 5]]
    found = dx_metrics(truth, scores, ours.ones(3), HAM10000.classes)
    assert found["balanced_accuracy_dx"][0] == pytest.approx(0.75)


def test_net_benefit_and_needed_biopsies_are_those_of_the_counts():
    rng = np.random.default_rng(4)
    label = (rng.random(400) < 0.2).astype(int)
    prob = np.clip(rng.normal(0.15 + 0.3 * label, 0.15), 0, 1)
    curve = decision_curve(label, prob)
    for threshold, benefit, all_benefit in zip(*curve.values(), strict=True):
        (_, fp), (_, tp) = sk.confusion_matrix(label, prob >= threshold)
        odds = threshold / (1 - threshold)  # Vickers and Elkin 2006, the formula of their page 568
        assert benefit == pytest.approx(tp / 400 - fp / 400 * odds)
        assert all_benefit == pytest.approx(label.mean() - (1 - label.mean()) * odds)
    (tn, fp), (fn, tp) = sk.confusion_matrix(label, prob >= 0.3)
    figures = {"n": 400, "malignant": tp + fn, "ci95": {"precision": [0.25, 0.5]}}
    figures |= {"sensitivity": tp / (tp + fn), "specificity": tn / (tn + fp)}
    point = operating_point(figures, threshold=0.3)
    assert point["net_benefit"] == pytest.approx(curve["net_benefit"][29])
    assert point["number_needed_to_biopsy_ci95"] == [2, 4]
    own, *others = point["at_shares"]
    assert own["number_needed_to_biopsy"] == pytest.approx((tp + fp) / tp)
    assert own["missed_per_1000"] == pytest.approx(1000 * fn / 400)
    assert own["npv"] == pytest.approx(tn / (tn + fn))
    tenth = next(row for row in others if row["malignant_share"] == 0.1)  # 100 and 900 of 1,000
    expected = 100 * figures["sensitivity"] + 900 * (1 - figures["specificity"])
    assert tenth["biopsies_per_1000"] == pytest.approx(expected)


def test_where_nothing_is_found_no_number_needed_to_biopsy_is_given():
    figures = {"n": 10, "malignant": 2, "sensitivity": 0.0, "specificity": 1.0, "ci95": {}}
    point = operating_point(figures, threshold=1.0)
    assert point["at_shares"][0]["number_needed_to_biopsy"] is None
    assert point["number_needed_to_biopsy_ci95"] is None
    assert point["net_benefit"] == 0
