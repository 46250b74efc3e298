"""Optimizers, the moving average of the weights, and the frozen backbone of the first epochs."""

import copy
from itertools import chain

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pipeline.learning.flags import Optimizer
from pipeline.learning.model import head_of


def make_optimizer(
    model: nn.Module, name: Optimizer, *, lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Return the optimizer of that name: matrices and kernels decay, norms and biases do not.

    On a GPU one kernel updates all parameters (``fused``); on a CPU the bits would change.
    """
    parameters = list(model.parameters())
    fused = True if all(parameter.is_cuda for parameter in parameters) else None
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    match name:
        case "adam":
            return torch.optim.Adam(groups, lr=lr, fused=fused)
        case "adamw":
            return torch.optim.AdamW(groups, lr=lr, fused=fused)
        case "sgd":
            return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True, fused=fused)


def set_rate(optimizer: torch.optim.Optimizer, lr: float, momentum: float | None) -> None:
    """Set the learning rate of all groups, and the momentum (Adam's beta1) unless it is None."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        if momentum is None:
            continue
        if "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        else:
            group["momentum"] = momentum


class FrozenBackbone:
    """Trains the last layer alone during the first epochs.

    DistributedDataParallel waits for a gradient of every parameter, so all gradients are computed
    and those of the backbone dropped: a frozen epoch costs as much as any other.
    """

    def __init__(self, model: nn.Module, epochs: int) -> None:
        """Freeze everything before ``model``'s last layer during the first ``epochs``."""
        in_head = {id(p) for p in head_of(model).parameters()}
        self.epochs = epochs
        self.parameters = [p for p in model.parameters() if id(p) not in in_head]
        norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
        self.norms = [module for module in model.modules() if isinstance(module, norms)]

    def enter(self, epoch: int) -> None:
        """Put a frozen backbone's norms into eval mode, so that their statistics stay too."""
        if epoch < self.epochs:
            for norm in self.norms:
                norm.eval()

    def drop_gradients(self, epoch: int) -> None:
        """Drop a frozen backbone's gradients; an optimizer skips parameters without one."""
        if epoch < self.epochs:
            for parameter in self.parameters:
                parameter.grad = None


class MovingAverage:
    """An exponential moving average of a model's weights and batch-norm statistics.

    torch's ``AveragedModel`` copies its counter to the GPU at every update, a sync.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Copy ``model`` as it is now; ``decay`` is the share of the average kept at each step."""
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    def update(self, model: nn.Module, step: int) -> None:
        """Move the average towards ``model`` after optimizer step ``step``, counted from 1.

        Decay warm-up: the decay is at most (1 + step) / (10 + step).
        """
        kept = min(self.decay, (1 + step) / (10 + step))
        averages, values = tensors_of(self.model, floating=True), tensors_of(model, floating=True)
        get_ema_multi_avg_fn(kept)(averages, values, 0)  # one kernel for many tensors
        if counters := tensors_of(self.model, floating=False):  # of batch norms
            torch._foreach_copy_(counters, tensors_of(model, floating=False))  # pyright: ignore


def tensors_of(model: nn.Module, *, floating: bool) -> list[Tensor]:
    """Return the weights and buffers that are floating-point numbers, or those that are not."""
    tensors = (tensor.detach() for tensor in chain(model.parameters(), model.buffers()))
    return [tensor for tensor in tensors if tensor.is_floating_point() == floating]
