"""Paired tests of two models, against their published definitions."""

import json

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from pipeline.errors import DataError
from pipeline.evaluation.metrics.comparison import bootstrap_p, compare, delong, mcnemar
from pipeline.evaluation.predictions import in_classes_of, judged_classes
from pipeline.evaluation.report.page import as_json, figure
from pipeline.ham10000.taxonomy import HAM10000, load


def structural_components(label, score):
    """DeLong, DeLong and Clarke-Pearson (1988), equations 3 and 4, pair by pair."""
    x, y = score[label == 1], score[label == 0]
    psi = (x[:, None] > y[None, :]) + 0.5 * (x[:, None] == y[None, :])
    return psi.mean(axis=1), psi.mean(axis=0)


def test_delong_agrees_with_the_published_definition():
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1], [70, 40])
    a = np.round(rng.normal(size=110) + label, 1)
    b = np.round(a + rng.normal(size=110), 1)
    va, vb = structural_components(label, a), structural_components(label, b)
    difference = va[0].mean() - vb[0].mean()
    variance = np.var(va[0] - vb[0], ddof=1) / 40 + np.var(va[1] - vb[1], ddof=1) / 70
    z = difference / np.sqrt(variance)
    found = delong(label, a, b)
    assert found["z"] == pytest.approx(z)
    assert found["p"] == pytest.approx(2 * stats.norm.cdf(-abs(z)))
    assert found["auc_a"] == pytest.approx(va[0].mean())


def test_delong_of_a_model_with_itself_finds_no_difference():
    label = np.array([0, 1, 0, 1, 1])
    score = np.array([0.1, 0.8, 0.4, 0.3, 0.9])
    assert delong(label, score, score)["p"] == 1


def test_mcnemar_counts_the_images_that_only_one_gets_right():
    a = np.array([True] * 9 + [False] * 3 + [True] * 20)
    b = np.array([False] * 9 + [True] * 3 + [True] * 20)
    found = mcnemar(a, b)
    assert (found["only_a_right"], found["only_b_right"]) == (9, 3)
    assert found["p"] == pytest.approx(2 * stats.binom.cdf(3, 12, 0.5))
    assert mcnemar(a, a)["p"] == 1


def test_bootstrap_p_is_two_sided_and_never_zero():
    assert bootstrap_p(np.full(999, 0.1)) == pytest.approx(2 / 1000)
    assert bootstrap_p(np.r_[np.full(500, 0.1), np.full(499, -0.1)]) == pytest.approx(1.0)


def test_a_better_model_is_found_better_and_its_copy_is_not(predictions):
    worse = predictions.copy()
    rng = np.random.default_rng(0)
    worse["prob_malignant"] = np.clip(worse["prob_malignant"] + rng.normal(0, 0.3, 400), 0, 1)
    worse["predicted"] = (worse["prob_malignant"] >= 0.4).astype(int)
    shuffled = predictions.sample(frac=1, random_state=0)  # the order of rows must not matter
    found = compare(worse, shuffled, resamples=500)
    assert found["metrics"]["roc_auc"]["difference"] > 0
    assert found["metrics"]["roc_auc"]["p"] < 0.05
    assert found["delong"]["p"] < 0.05
    same = compare(predictions, shuffled, resamples=200)
    assert same["metrics"]["roc_auc"]["difference"] == 0
    assert same["metrics"]["roc_auc"]["p"] == same["delong"]["p"] == same["mcnemar"]["p"] == 1


def test_reports_of_different_images_are_refused(predictions):
    other = predictions.copy()
    other.loc[0, "image_id"] = "ISIC_9999999"
    with pytest.raises(DataError, match="not of the same images: 1 only in the first"):
        compare(predictions, other)


@pytest.mark.filterwarnings("error")
def test_a_test_that_one_malignant_image_leaves_undefined_is_null_in_the_table(predictions):
    malignant = predictions.index[predictions["label"] == 1]
    one = predictions.drop(index=malignant[1:]).reset_index(drop=True)
    found = json.loads(as_json(compare(one, one, resamples=20)))
    assert found["delong"]["p"] is None
    assert found["metrics"]["roc_auc"]["difference"] == 0
    assert figure(float("nan")) == "–"


def test_diagnoses_are_compared_over_the_classes_that_both_models_have(predictions):
    """The second model knows eight classes: ak is akiec here, and scc is none of the seven."""
    eight = load("isic2019")
    rng = np.random.default_rng(3)
    names = {"akiec": "ak"}
    table = predictions.drop(columns=[f"prob_{dx}" for dx in HAM10000.classes])
    table["dx"] = [names.get(dx, dx) for dx in predictions["dx"]]
    table[[f"prob_{dx}" for dx in eight.classes]] = rng.dirichlet(np.ones(8), len(table))
    second = in_classes_of(table, eight, HAM10000)
    assert second["dx"].tolist() == predictions["dx"].tolist()
    assert second["prob_akiec"].tolist() == table["prob_ak"].tolist()
    assert judged_classes(second, HAM10000) == HAM10000.classes and "prob_scc" not in second
    found = compare(predictions, second, classes=HAM10000.classes[:4], resamples=20)
    assert found["classes"] == ["akiec", "bcc", "bkl", "df"]
    columns = [f"prob_{dx}" for dx in found["classes"]]
    inside = predictions["dx"].isin(found["classes"]).to_numpy()
    truth = predictions["dx"].to_numpy()[inside]
    for key, frame in (("a", predictions), ("b", second)):
        called = np.array(found["classes"])[frame[columns].to_numpy()[inside].argmax(axis=1)]
        scores = {
            "accuracy_dx": accuracy_score(truth, called),
            "balanced_accuracy_dx": balanced_accuracy_score(truth, called),
        }
        for name, expected in scores.items():
            assert found["metrics"][name][key] == pytest.approx(expected)


def test_models_without_shared_classes_are_compared_as_malignant_or_benign(predictions):
    found = compare(predictions, predictions, classes=["mel"], resamples=20)
    assert found["classes"] == [] and "accuracy_dx" not in found["metrics"]
