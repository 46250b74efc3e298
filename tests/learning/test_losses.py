"""Losses against torch's own, and what each remedy for imbalance promises."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.learning.losses import EFFECTIVE_BETA, Loss, class_weights

CPU = torch.device("cpu")


def loss(kind="cross-entropy", counts=(80, 20), weighting="none", gamma=2.0, smoothing=0.0):
    return Loss(
        kind,
        np.array(counts),
        weighting=weighting,
        focal_gamma=gamma,
        label_smoothing=smoothing,
        device=CPU,
    )


def mean(criterion, logits, target, target_b=None, lam=None):
    weighted = criterion.weighted(logits, target, target_b, lam).sum()
    return weighted / criterion.weight(target, target_b, lam).sum()


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return torch.randn(50, 2), (torch.arange(50) % 5 == 0).long()


def test_weighted_mean_is_torchs_weighted_cross_entropy(batch):
    logits, target = batch
    weights = torch.tensor(class_weights(np.array([80, 20]), "inverse"), dtype=torch.float32)
    expected = F.cross_entropy(logits, target, weight=weights)
    torch.testing.assert_close(mean(loss(weighting="inverse"), logits, target), expected)


def test_inverse_weights_give_every_class_the_same_say():
    counts = np.array([4358, 725, 73])
    weights = class_weights(counts, "inverse")
    np.testing.assert_allclose(weights * counts, counts.sum() / 3)


def test_effective_weights_follow_the_paper_and_lie_between():
    counts = np.array([4358, 725, 73])
    weights = class_weights(counts, "effective")
    expected = (1 - EFFECTIVE_BETA) / (1 - EFFECTIVE_BETA**counts)
    np.testing.assert_allclose(weights / weights[0], expected / expected[0])
    assert 1 < weights[2] / weights[0] < counts[0] / counts[2]
    np.testing.assert_allclose((weights * counts).sum(), counts.sum())


def test_label_smoothing_is_torchs(batch):
    logits, target = batch
    expected = F.cross_entropy(logits, target, label_smoothing=0.1)
    torch.testing.assert_close(mean(loss(smoothing=0.1), logits, target), expected)


def test_focal_without_gamma_is_cross_entropy_and_with_it_discounts_easy_samples(batch):
    logits, target = batch
    plain = F.cross_entropy(logits, target, reduction="none")
    torch.testing.assert_close(loss("focal", gamma=0).weighted(logits, target, None, None), plain)
    share = loss("focal").weighted(logits, target, None, None) / plain
    sure = logits.softmax(1).gather(1, target[:, None])[:, 0]
    torch.testing.assert_close(share, (1 - sure) ** 2)


def test_blended_labels_share_loss_and_weight(batch):
    logits, target = batch
    other, lam = target.flip(0), torch.full((50,), 0.3)
    criterion = loss(weighting="inverse")
    expected = 0.3 * criterion.weighted(logits, target, None, None)
    expected += 0.7 * criterion.weighted(logits, other, None, None)
    torch.testing.assert_close(criterion.weighted(logits, target, other, lam), expected)
    weight = 0.3 * criterion.weight(target, None, None) + 0.7 * criterion.weight(other, None, None)
    torch.testing.assert_close(criterion.weight(target, other, lam), weight)


def learnt_on_skewed_data(criterion):
    """Two overlapping classes, 5 % of the second; return recalls of a fitted linear model."""
    generator = torch.Generator().manual_seed(0)
    n = 4000
    target = (torch.rand(n, generator=generator) < 0.05).long()
    x = torch.randn(n, 1, generator=generator) + 1.5 * target[:, None]
    model = nn.Linear(1, 2)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=100)

    def closure():
        optimizer.zero_grad()
        value = mean(criterion, model(x), target)
        value.backward()
        return value

    optimizer.step(closure)
    called = model(x).argmax(1)
    return [(called[target == k] == k).float().mean().item() for k in (0, 1)]


@pytest.mark.parametrize(
    ("remedy", "recall"),
    [
        ({"weighting": "inverse"}, 0.6),
        ({"weighting": "effective"}, 0.4),
        ({"kind": "logit-adjusted"}, 0.6),
    ],
)
def test_remedy_finds_the_rare_class_that_plain_learning_misses(remedy, recall):
    counts = (3800, 200)
    plain = learnt_on_skewed_data(loss(counts=counts))
    mended = learnt_on_skewed_data(loss(counts=counts, **remedy))
    assert plain[1] < 0.2
    assert mended[1] > recall and sum(mended) > sum(plain) + 0.2


def test_focal_gives_the_misses_of_a_sure_network_more_of_the_gradient():
    # 95 easy samples of the frequent class, 5 of the rare one called wrong
    target = torch.tensor([0] * 95 + [1] * 5)

    def share_of_rare(criterion):
        logits = torch.tensor([[2.0, 0.0]]).repeat(100, 1).requires_grad_()
        mean(criterion, logits, target).backward()
        assert logits.grad is not None
        size = logits.grad.abs().sum(1)
        return (size[95:].sum() / size.sum()).item()

    assert share_of_rare(loss("focal")) > 2 * share_of_rare(loss())
