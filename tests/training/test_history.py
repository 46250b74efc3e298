"""The metrics of an epoch."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pipeline.ham10000.taxonomy import DX, MALIGNANT
from pipeline.learning.probability import malignant_probability
from pipeline.training.history import validation_metrics

RNG = np.random.default_rng(0)


def test_metrics_of_both_tasks():
    dx_index = RNG.integers(0, 7, 300)
    logits = RNG.normal(size=(300, 7)) + 2 * np.eye(7)[dx_index]
    found = validation_metrics(logits, dx_index, "dx")
    malignant = np.isin(np.array(DX)[dx_index], MALIGNANT)
    expected = roc_auc_score(malignant, malignant_probability(logits, "dx"))
    assert found["val_roc_auc"] == pytest.approx(expected)
    assert found["val_dx_accuracy"] == pytest.approx((logits.argmax(1) == dx_index).mean())
    assert "val_dx_accuracy" not in validation_metrics(logits[:, :2], dx_index, "binary")
