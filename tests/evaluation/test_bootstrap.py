"""Intervals over lesions, against SciPy's bootstrap and a known distribution."""

import numpy as np
import pytest
from scipy import stats

from pipeline.evaluation.metrics.binary import binary_metrics
from pipeline.evaluation.metrics.bootstrap import estimate, group_weights, interval, resample


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
    assert interval(np.array([np.nan, 1.0, 2.0])) == pytest.approx([1.0, 2.0], abs=0.03)


def share_interval(hits, groups, *, resamples=100):
    def share(weights):
        return {"share": hits @ weights / weights.sum(axis=0)}

    every = {"share": np.ones(len(hits), bool)}
    _, bounds = estimate(share, groups, resamples=resamples, seed=0, shares=every)
    return bounds["share"]


@pytest.mark.parametrize("images", [1, 3], ids=["one image a lesion", "three images a lesion"])
def test_all_of_ten_lesions_have_wilsons_interval_however_many_images_show_them(images):
    groups = np.repeat(np.arange(10), images)
    z2 = stats.norm.ppf(0.975) ** 2  # Wilson (1927) at n of n: n / (n + z^2) to 1
    hits = np.ones(len(groups))
    assert share_interval(hits, groups) == pytest.approx([10 / (10 + z2), 1])
    assert share_interval(0 * hits, groups) == pytest.approx([0, z2 / (10 + z2)])


def test_an_interval_without_width_is_none():
    assert interval(np.ones(50)) is None
    _, bounds = estimate(lambda w: {"f1": w[0] * 0 + 1}, np.arange(9), resamples=20, seed=0)
    assert bounds == {"f1": None}


def test_about_95_percent_of_the_intervals_contain_a_true_share_near_one():
    rng, groups = np.random.default_rng(5), np.arange(20)
    found = [share_interval((rng.random(20) < 0.95).astype(float), groups) for _ in range(300)]
    # 36 % of the samples are 20 of 20, whose percentile interval would be 1 to 1
    assert np.mean([low <= 0.95 <= high for low, high in found]) > 0.9
