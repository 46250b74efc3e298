"""Which parameters decay, which stay frozen, and how the weights are averaged."""

import pytest
import torch
from torch import nn

from pipeline.learning.model import build_model
from pipeline.learning.optimizers import FrozenBackbone, MovingAverage, make_optimizer, set_rate


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_norms_and_biases_do_not_decay(name):
    model = build_model("resnet18", 2)
    groups = make_optimizer(model, name, lr=1.0, weight_decay=0.05).param_groups
    assert [group["weight_decay"] for group in groups] == [0.05, 0.0]
    assert [{p.ndim for p in group["params"]} for group in groups] == [{2, 4}, {1}]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_rate_and_momentum_reach_every_group(name):
    optimizer = make_optimizer(build_model("resnet18", 2), name, lr=1.0, weight_decay=0.0)
    set_rate(optimizer, 0.25, 0.9)
    for group in optimizer.param_groups:
        assert group["lr"] == 0.25
        assert (group["betas"][0] if "betas" in group else group["momentum"]) == 0.9


def test_frozen_backbone_trains_only_the_last_layer_until_it_thaws():
    model = build_model("resnet18", 2)
    frozen = FrozenBackbone(model, 1)
    optimizer = make_optimizer(model, "adamw", lr=0.1, weight_decay=0.05)
    for epoch, thawed in ((0, False), (1, True)):
        before = {k: v.clone() for k, v in model.state_dict().items()}
        model.train()
        frozen.enter(epoch)
        model(torch.randn(4, 3, 32, 32)).sum().backward()
        frozen.drop_gradients(epoch)
        optimizer.step()
        optimizer.zero_grad()
        changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
        assert {"fc.weight", "fc.bias"} <= changed
        assert (changed > {"fc.weight", "fc.bias"}) is thawed


def small_network():
    return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))


def train_a_step(model):
    with torch.no_grad():
        model[0].weight.add_(torch.randn(3, 3))
    model(torch.randn(5, 3))


def test_moving_average_is_the_recursion_from_the_first_step_on():
    model = small_network()
    average = MovingAverage(model, 0.9)
    expected = model[0].weight.detach().clone()
    for step in range(1, 40):
        train_a_step(model)
        average.update(model, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = expected.lerp(model[0].weight.detach(), 1 - decay)
        assert torch.equal(average.model[0].weight, expected)
    assert average.model[1].num_batches_tracked == model[1].num_batches_tracked == 39
    assert not torch.equal(average.model[1].running_mean, model[1].running_mean)
    assert not average.model.training and not any(
        p.requires_grad for p in average.model.parameters()
    )


def test_moving_average_follows_parameters_that_were_given_new_storage():
    model = small_network()
    average = MovingAverage(model, 0.9)
    for parameter in model.parameters():  # as accelerate.prepare does on several CPU ranks
        parameter.data = parameter.data.clone()
    train_a_step(model)
    before = average.model[0].weight.clone()
    average.update(model, 1)
    assert not torch.equal(average.model[0].weight, before)


def test_moving_average_resumes_from_its_plain_state_dict_with_the_same_bits():
    torch.manual_seed(0)
    model = small_network()
    average = MovingAverage(model, 0.9)
    for step in (1, 2):
        train_a_step(model)
        average.update(model, step)
    resumed = MovingAverage(model, 0.9)
    resumed.model.load_state_dict(average.model.state_dict())
    train_a_step(model)
    for each in (average, resumed):
        each.update(model, 3)
    kept, found = average.model.state_dict(), resumed.model.state_dict()
    assert kept.keys() == model.state_dict().keys()
    assert all(torch.equal(kept[name], found[name]) for name in kept)
