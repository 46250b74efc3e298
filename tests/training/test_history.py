"""The metrics of an epoch."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pipeline.ham10000.taxonomy import HAM10000
from pipeline.learning.probability import Outputs, malignant_probability
from pipeline.training.history import draw_curves, validation_metrics

RNG = np.random.default_rng(0)


def test_metrics_of_both_tasks():
    dx_index = RNG.integers(0, 7, 300)
    logits = RNG.normal(size=(300, 7)) + 2 * np.eye(7)[dx_index]
    found = validation_metrics(logits, dx_index, Outputs("dx", HAM10000))
    malignant = np.isin(np.array(HAM10000.classes)[dx_index], HAM10000.malignant)
    expected = roc_auc_score(malignant, malignant_probability(logits, Outputs("dx", HAM10000)))
    assert found["val_roc_auc"] == pytest.approx(expected)
    assert found["val_dx_accuracy"] == pytest.approx((logits.argmax(1) == dx_index).mean())
    binary = Outputs("binary", HAM10000)
    assert "val_dx_accuracy" not in validation_metrics(logits[:, :2], dx_index, binary)


TIMING = [{"epoch": epoch, "images_per_second": 100.0} for epoch in (1, 2, 3)]


def rows(*names, aucs=(0.7, 0.9, 0.8)):
    shared = ("lr", "train_loss", "train_accuracy", "val_loss", "val_pr_auc", *names)
    return [
        {"epoch": epoch, "val_roc_auc": auc, **dict.fromkeys(shared, epoch / 10)}
        for epoch, auc in enumerate(aucs, start=1)
    ]


@pytest.mark.parametrize(
    ("names", "beside"),
    [
        (["val_accuracy"], ["train_accuracy", "val_accuracy"]),  # as an early version wrote it
        (["val_accuracy", "val_dx_accuracy"], ["train_accuracy", "val_dx_accuracy"]),
    ],
    ids=["binary", "dx"],
)
def test_the_curves_compare_accuracies_of_the_same_classes_and_mark_the_best_epoch(names, beside):
    figure = draw_curves(rows(*names), TIMING)
    panels = {axes.get_title(): axes for axes in figure.axes}
    accuracy = next(axes for title, axes in panels.items() if title.startswith("accuracy"))
    *lines, marked = accuracy.get_lines()
    assert [line.get_label() for line in lines] == beside
    assert list(lines[1].get_xdata()) == [1, 2, 3]
    for axes in panels.values():
        marked = axes.get_lines()[-1]
        assert (list(marked.get_xdata()), marked.get_label()) == ([2, 2], "best epoch: 2")


def test_the_best_epoch_of_a_tie_is_the_earlier_one():
    figure = draw_curves(rows("val_accuracy", aucs=(0.7, 0.9, 0.9)), TIMING)
    assert list(figure.axes[0].get_lines()[-1].get_xdata()) == [2, 2]
