"""What the logits of a task mean."""

import numpy as np
import pytest
import torch

from pipeline.errors import DataError
from pipeline.ham10000.taxonomy import HAM10000, LABELS, load
from pipeline.learning import model
from pipeline.learning.probability import (
    Outputs,
    class_probabilities,
    malignant_log_odds,
    malignant_probability,
    require_diagnoses,
)

RNG = np.random.default_rng(0)
OUTPUTS = [Outputs("binary", HAM10000), Outputs("dx", HAM10000), Outputs("dx", load("milk10k"))]


def test_malignant_probability_is_the_softmax_and_the_sum_over_the_malignant():
    logits = torch.randn(20, 2, dtype=torch.float64)
    expected = torch.softmax(logits, 1)[:, 1].numpy()
    np.testing.assert_allclose(malignant_probability(logits.numpy(), OUTPUTS[0]), expected)
    logits = torch.randn(20, 7, dtype=torch.float64)
    shares = torch.softmax(logits / 2, 1).numpy()
    expected = sum(shares[:, HAM10000.classes.index(dx)] for dx in HAM10000.malignant)
    np.testing.assert_allclose(malignant_probability(logits.numpy(), OUTPUTS[1], 2.0), expected)


@pytest.mark.parametrize("outputs", OUTPUTS)
def test_bias_is_added_to_the_log_odds_and_keeps_the_shares_among_benign(outputs):
    logits = RNG.normal(size=(30, len(outputs.names)))
    plain, moved = (malignant_probability(logits, outputs, 1.5, b) for b in (0.0, -0.8))
    np.testing.assert_allclose(np.log(moved / (1 - moved)), np.log(plain / (1 - plain)) - 0.8)
    shares = [class_probabilities(logits, outputs, 1.5, b) for b in (0.0, -0.8)]
    benign = ~outputs.malignant
    ratios = [s[:, benign] / s[:, benign].sum(1, keepdims=True) for s in shares]
    np.testing.assert_allclose(*ratios)


def test_targets_and_names_follow_the_taxonomy():
    binary, dx, eleven = OUTPUTS
    assert [int(dx in HAM10000.malignant) for dx in HAM10000.classes] == binary.targets(
        np.arange(7)
    ).tolist()
    assert dx.targets(np.arange(7)).tolist() == list(range(7))
    assert binary.names == LABELS and dx.names == HAM10000.classes and len(eleven.names) == 11


@pytest.mark.parametrize("outputs", OUTPUTS)
def test_log_odds_in_numpy_and_in_torch_are_those_of_the_probability(outputs):
    logits = torch.randn(20, len(outputs.names), dtype=torch.float64)
    p = malignant_probability(logits.numpy(), outputs)
    np.testing.assert_allclose(model.malignant_log_odds(logits, outputs), np.log(p / (1 - p)))
    np.testing.assert_allclose(malignant_log_odds(logits.numpy(), outputs), np.log(p / (1 - p)))


def test_diagnoses_cannot_be_learnt_from_shards_without_them():
    require_diagnoses("dx", "dx", "shards/x")
    require_diagnoses("binary", "binary", "shards/x")
    with pytest.raises(DataError, match=r"--task dx: the images of shards/x .* use --task binary"):
        require_diagnoses("dx", "binary", "shards/x")
