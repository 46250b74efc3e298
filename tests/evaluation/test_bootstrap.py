"""Intervals over lesions, against SciPy's bootstrap and a known distribution."""

import numpy as np
import pytest
from scipy import stats

from pipeline.evaluation.metrics.binary import binary_metrics
from pipeline.evaluation.metrics.bootstrap import group_weights, interval, resample


def mean_interval(values, groups, *, resamples=2000, seed=0):
    def means(weights):
        return {"mean": values @ weights / weights.sum(axis=0)}

    return interval(resample(means, groups, resamples=resamples, seed=seed)["mean"])


def test_images_of_a_lesion_are_drawn_together_and_as_many_lesions_as_there_are():
    groups = np.array(["a", "a", "b", "c", "c", "c"])
    weights = np.concatenate(list(group_weights(groups, resamples=500, seed=0)), axis=1)
    assert weights.shape == (6, 500)
    assert (weights[0] == weights[1]).all()
    assert (weights[3] == weights[4]).all()
    assert (weights[[0, 2, 3]].sum(axis=0) == 3).all()
    assert weights[[0, 2, 3]].mean() == pytest.approx(1, abs=0.1)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    values, groups = np.random.default_rng(0).random(200), np.arange(200)
    first, again, other = (
        mean_interval(values, groups, resamples=300, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_interval_of_a_mean_agrees_with_scipys_bootstrap():
    values = np.random.default_rng(1).normal(size=300)
    found = mean_interval(values, np.arange(300), resamples=4000)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", random_state=0
    ).confidence_interval
    assert found == pytest.approx([expected.low, expected.high], abs=0.012)


def test_interval_widens_when_images_of_a_lesion_repeat_each_other():
    values = np.random.default_rng(2).normal(size=100)
    alone = mean_interval(values, np.arange(100))
    copied = np.repeat(values, 4)
    naive = mean_interval(copied, np.arange(400))
    grouped = mean_interval(copied, np.repeat(np.arange(100), 4))
    assert grouped == pytest.approx(alone, abs=0.02)  # copies add no information
    assert naive[1] - naive[0] < 0.6 * (grouped[1] - grouped[0])


def test_about_95_percent_of_the_intervals_contain_the_true_auc():
    rng, truth, hits = np.random.default_rng(3), stats.norm.cdf(1 / np.sqrt(2)), 0
    for trial in range(100):
        label = np.repeat([0, 1], 60)
        score = rng.normal(size=120) + label

        def statistic(weights, label=label, score=score):
            return binary_metrics(label, score, label, weights)

        draws = resample(statistic, np.arange(120), resamples=200, seed=trial)
        low, high = interval(draws["roc_auc"])
        hits += low <= truth <= high
    assert 87 <= hits <= 100


def test_an_interval_needs_half_of_the_resamples_to_define_the_figure():
    assert interval(np.array([np.nan, np.nan, 1.0])) is None
    assert interval(np.array([np.nan, 1.0, 1.0])) == [1.0, 1.0]
