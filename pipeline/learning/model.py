"""The network: a classifier of torchvision or timm by name, with a new last layer for this task.

    build_model("resnet34", 2, weights="imagenet")

The last layer of a classifier is its last ``Linear`` (its last ``Conv2d`` in SqueezeNet). It is
replaced by a ``Head`` of the same name in the state dict, with or without dropout, so weights can
move between runs.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.learning.architecture import head_name, make_network
from pipeline.learning.flags import Task
from pipeline.learning.foreign_weights import load_from
from pipeline.learning.probability import malignant_classes


class Head(nn.Linear):
    """The last layer, with dropout on the features before it."""

    def __init__(self, features: int, outputs: int, dropout: float) -> None:
        """Make a layer from ``features`` to ``outputs``; ``dropout`` is a share of features."""
        super().__init__(features, outputs)
        self.dropout = dropout

    def forward(self, input: Tensor) -> Tensor:
        """Map features [B, features] to logits [B, outputs]."""
        return super().forward(F.dropout(input, self.dropout, self.training))


def build_model(
    arch: str,
    outputs: int,
    *,
    weights: str = "none",
    dropout: float = 0.0,
    report: Callable[[str], object] = lambda line: None,
    arch_args: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Return the network, on the CPU, in training mode.

    Args:
        arch: a classifier of torchvision, as "resnet34", or of timm, as "timm:resnet34".
        outputs: number of logits.
        weights: "imagenet" (the library's own), "none", or a path (see ``foreign_weights``).
        dropout: share of the features dropped before the last layer, besides what the
            architecture drops itself.
        report: is called with a line that says what was taken from a path.
        arch_args: keyword arguments of the architecture, as ``{"drop_path_rate": 0.1}``.
    """
    model = make_network(arch, outputs, arch_args or {}, imagenet=weights == "imagenet")
    replace_head(model, outputs, dropout)
    if weights not in ("imagenet", "none"):
        report(load_from(Path(weights), model, head=head_name(model), arch=arch))
    return model


def head_of(model: nn.Module) -> nn.Module:
    """Return the last layer."""
    return model.get_submodule(head_name(model))


def replace_head(model: nn.Module, outputs: int, dropout: float) -> None:
    """Replace the last layer by a new one of ``outputs`` logits."""
    old = head_of(model)
    if isinstance(old, nn.Linear):
        new: nn.Module = Head(old.in_features, outputs, dropout)
    else:
        assert isinstance(old, nn.Conv2d)
        new = nn.Conv2d(old.in_channels, outputs, kernel_size=1)
    model.set_submodule(head_name(model), new)


def malignant_log_odds(logits: Tensor, task: Task) -> Tensor:
    """Return log(P(malignant) / P(benign)) [...] of logits [..., K]; differentiable."""
    malignant = malignant_classes(task)
    positive, negative = (np.flatnonzero(mask).tolist() for mask in (malignant, ~malignant))
    return logits[..., positive].logsumexp(-1) - logits[..., negative].logsumexp(-1)
