"""Optimisers, the moving average of weights, and the frozen backbone of the first epochs."""

import copy

import torch
from torch import nn

from pipeline.learning.model import head_of


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Return two parameter groups: matrices and kernels decay, norms and biases do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def make_optimizer(
    model: nn.Module, name: str, *, lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Return the optimiser of that name ("adam", "adamw" or "sgd") over ``decay_groups``."""
    groups = decay_groups(model, weight_decay)
    match name:
        case "adam":
            return torch.optim.Adam(groups, lr=lr)
        case "adamw":
            return torch.optim.AdamW(groups, lr=lr)
        case _:
            return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)


def set_rate(optimizer: torch.optim.Optimizer, lr: float, momentum: float | None) -> None:
    """Set the learning rate of all groups, and the momentum (Adam's beta1) where given."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        if momentum is None:
            continue
        if "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        else:
            group["momentum"] = momentum


class FrozenBackbone:
    """Keeps all but the last layer as it is, without telling DistributedDataParallel.

    DDP waits for a gradient of every parameter that it was made with, so gradients are computed
    and thrown away: a frozen epoch costs as much as another.
    """

    def __init__(self, model: nn.Module, epochs: int) -> None:
        """Freeze everything before ``model``'s last layer during the first ``epochs``."""
        head = head_of(model)
        inside = {id(p) for p in head.parameters()}
        self.epochs = epochs
        self.parameters = [p for p in model.parameters() if id(p) not in inside]
        self.norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]

    def enter(self, epoch: int) -> None:
        """Put the norms of a frozen backbone into eval mode: their statistics stay too."""
        if epoch < self.epochs:
            for norm in self.norms:
                norm.eval()

    def drop_gradients(self, epoch: int) -> None:
        """Forget the backbone's gradients; an optimiser passes over what has none."""
        if epoch < self.epochs:
            for parameter in self.parameters:
                parameter.grad = None


class MovingAverage:
    """An exponential moving average of a model's weights and batch-norm statistics."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Copy ``model`` as it is now; ``decay`` is the share kept at each step."""
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.follow(model)

    def follow(self, model: nn.Module) -> None:
        """Take ``model`` as the one to follow from now on.

        To be called again after ``accelerator.prepare``, which gives a model new storage where it
        wraps it for several CPU processes: the old tensors would stand still.
        """
        average, source = self.model.state_dict(), model.state_dict()
        floats = [k for k, v in average.items() if v.is_floating_point()]
        self.average = [average[k] for k in floats]
        self.source = [source[k] for k in floats]
        self.counters = [(average[k], source[k]) for k in average if k not in floats]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the model; quickly in the first steps, when it knows little."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for average, source in zip(self.average, self.source, strict=True):
            average.lerp_(source, 1 - decay)
        for counter, source in self.counters:
            counter.copy_(source)
