"""Learning rates and momenta against torch's schedulers."""

import pytest
import torch
from torch import nn

from pipeline.learning.learning_rate import Plateau, momentum_at, rate_factor


def small_optimizer():
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)


def test_onecycle_is_torchs():
    steps, optimizer = 101, small_optimizer()
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=steps, pct_start=0.3, final_div_factor=1e4
    )
    # torch counts from the first step to the last: 100 intervals, and a warm-up one step shorter
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
        if ours.factor > 1e-7:  # torch ignores cuts to smaller rates
            assert ours.factor == pytest.approx(optimizer.param_groups[0]["lr"])
    assert ours.factor < 1e-3
