"""Rates against torch's schedulers; what decays, freezes and is averaged."""

import pytest
import torch
from torch import nn

from pipeline.learning.learning_rate import Plateau, momentum_at, rate_factor
from pipeline.learning.model import build_model
from pipeline.learning.optimizers import (
    FrozenBackbone,
    MovingAverage,
    decay_groups,
    make_optimizer,
    set_rate,
)


def small_optimizer():
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)


def test_onecycle_is_torchs():
    steps, optimizer = 101, small_optimizer()
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=steps, pct_start=0.3, final_div_factor=1e4
    )
    # theirs counts from the first step to the last; 100 intervals are our 10 epochs, of which
    # the climb ends one step earlier there
    shape = {"epochs": 100, "warmup": 0.3 * steps - 1}
    for step in range(steps):
        ours = rate_factor("onecycle", step, **shape)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6, abs=1e-9)
        momentum = momentum_at("onecycle", step, **shape)
        assert momentum == pytest.approx(optimizer.param_groups[0]["momentum"], rel=1e-6)
        optimizer.step()
        if step + 1 < steps:
            theirs.step()


def test_cosine_is_torchs_after_its_warm_up():
    optimizer = small_optimizer()
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=8)
    for epoch in range(9):
        ours = rate_factor("cosine", epoch + 2, epochs=10, warmup=2)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        theirs.step()
    assert rate_factor("cosine", 1.0, epochs=10, warmup=2) == 0.5


def test_plateau_is_torchs():
    optimizer = small_optimizer()
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode="max", patience=2, factor=0.1
    )
    ours = Plateau()
    generator = torch.Generator().manual_seed(3)
    for value in (0.8 + 0.05 * torch.rand(60, generator=generator)).tolist():
        theirs.step(value)
        ours = ours.after(value, patience=2, cut=0.1)
        if ours.factor > 1e-7:  # below, torch's smallest step ends its cuts
            assert ours.factor == pytest.approx(optimizer.param_groups[0]["lr"])
    assert ours.factor < 1e-3


def test_norms_and_biases_do_not_decay():
    model = build_model("resnet18", 2)
    decayed, spared = decay_groups(model, 0.05)
    assert {p.ndim for p in decayed["params"]} == {2, 4} and decayed["weight_decay"] == 0.05
    assert {p.ndim for p in spared["params"]} == {1} and spared["weight_decay"] == 0.0
    assert len(decayed["params"]) + len(spared["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_rate_and_momentum_reach_every_group(name):
    optimizer = make_optimizer(build_model("resnet18", 2), name, lr=1.0, weight_decay=0.0)
    set_rate(optimizer, 0.25, 0.9)
    for group in optimizer.param_groups:
        assert group["lr"] == 0.25
        assert (group["betas"][0] if "betas" in group else group["momentum"]) == 0.9


def test_frozen_backbone_learns_only_the_last_layer_until_it_thaws():
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


def test_moving_average_is_the_recursion():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    average = MovingAverage(model, 0.9)
    expected = model[0].weight.detach().clone()
    for step in range(1, 40):
        with torch.no_grad():
            model[0].weight.add_(torch.randn(3, 3))
        model(torch.randn(5, 3))
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model[0].weight.detach()
    torch.testing.assert_close(average.model[0].weight, expected)
    assert average.model[1].num_batches_tracked == model[1].num_batches_tracked == 39
    assert not torch.equal(average.model[1].running_mean, model[1].running_mean)
