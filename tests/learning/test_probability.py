"""What the logits of a task mean."""

import numpy as np
import pytest
import torch

from pipeline.errors import DataError
from pipeline.ham10000.taxonomy import DX, MALIGNANT
from pipeline.learning import model
from pipeline.learning.probability import (
    class_probabilities,
    malignant_classes,
    malignant_log_odds,
    malignant_probability,
    require_diagnoses,
    task_targets,
)

RNG = np.random.default_rng(0)


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


@pytest.mark.parametrize("task", ["binary", "dx"])
def test_log_odds_in_numpy_and_in_torch_are_those_of_the_probability(task):
    logits = torch.randn(20, 2 if task == "binary" else 7, dtype=torch.float64)
    p = malignant_probability(logits.numpy(), task)
    np.testing.assert_allclose(model.malignant_log_odds(logits, task), np.log(p / (1 - p)))
    np.testing.assert_allclose(malignant_log_odds(logits.numpy(), task), np.log(p / (1 - p)))


def test_diagnoses_cannot_be_learnt_from_shards_without_them():
    require_diagnoses("dx", "dx", "shards/x")
    require_diagnoses("binary", "binary", "shards/x")
    with pytest.raises(DataError, match=r"--task dx: the images of shards/x .* use --task binary"):
        require_diagnoses("dx", "binary", "shards/x")
