"""The network: any torchvision classifier by name, with a new last layer for this task.

    build_model("resnet34", 2, weights="imagenet")

The last layer of a torchvision classifier is its last ``Linear`` (its last ``Conv2d`` in
SqueezeNet). It is replaced by a ``Head`` of the same name in the state dict, with or without
dropout, so weights can move between runs.
"""

import difflib
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from pipeline.errors import DataError
from pipeline.learning.flags import Task
from pipeline.learning.foreign_weights import fit, load_from
from pipeline.learning.probability import malignant_classes

AUXILIARY = ("AuxLogits", "aux1", "aux2")
"""Second classifiers of Inception and GoogLeNet, which return logits of their own in training."""


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
) -> nn.Module:
    """Return the network, on the CPU, in training mode.

    Args:
        arch: a torchvision classification model by name, as "resnet34".
        outputs: number of logits.
        weights: "imagenet" (torchvision's own), "none", or a path (see ``foreign_weights``).
        dropout: share of the features dropped before the last layer, besides what the
            architecture drops itself.
        report: is called with a line that says what was taken from a path.
    """
    model = bare_model(arch)
    replace_head(model, outputs, dropout)
    head = head_name(model)
    if weights == "imagenet":
        fit(model, imagenet_state(arch), source="ImageNet weights", head=head, arch=arch)
    elif weights != "none":
        report(load_from(Path(weights), model, head=head, arch=arch))
    return model


def bare_model(arch: str) -> nn.Module:
    """Return torchvision's classifier of that name with random weights and its own last layer."""
    names = torchvision.models.list_models(module=torchvision.models)
    if arch not in names:
        near = ", ".join(difflib.get_close_matches(arch, names, 4)) or "resnet34, resnet50, ..."
        raise DataError(
            f"--arch {arch}: torchvision has no classifier of that name; near it: {near}. "
            "python -c 'import torchvision.models as m; print(*m.list_models(m))' lists them all"
        )
    quiet = {"init_weights": True} if arch in ("googlenet", "inception_v3") else {}
    model = torchvision.models.get_model(arch, weights=None, **quiet)
    for name in AUXILIARY:
        if hasattr(model, name):
            model.aux_logits = False  # type: ignore[assignment]
            setattr(model, name, None)
    return model


def imagenet_state(arch: str) -> dict[str, Tensor]:
    """Return torchvision's best ImageNet weights, from its cache or the network."""
    weights = torchvision.models.get_model_weights(arch).DEFAULT  # type: ignore[attr-defined]
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (URLError, OSError, RuntimeError) as error:
        cache = Path(torch.hub.get_dir()) / "checkpoints"
        raise DataError(
            f"--weights imagenet: the weights of {arch} could not be fetched ({error}). Fetch "
            f"{weights.url} on a machine with a network, then either give its path "
            f"(--weights PATH) or put it into {cache}; or start from scratch with --weights none"
        ) from error


def head_name(model: nn.Module) -> str:
    """Return the dotted name of the last layer: the last Linear, else the last Conv2d."""
    linear = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    convolutions = [name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)]
    return (linear or convolutions)[-1]


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
