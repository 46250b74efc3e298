"""The network: any torchvision classifier by name, with a new last layer for this task.

    build_model("resnet34", 2, weights="imagenet")

The last layer of a torchvision classifier is its last ``Linear`` (its last ``Conv2d`` in
SqueezeNet). It is replaced by a ``Head`` of the same name in the state dict, with or without
dropout, so weights can move between runs.
"""

import difflib
import textwrap
from pathlib import Path
from urllib.error import URLError

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.errors import DataError
from pipeline.learning.flags import Task
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
    arch: str, outputs: int, *, weights: str = "none", dropout: float = 0.0
) -> nn.Module:
    """Return the network, on the CPU, in training mode.

    Args:
        arch: a torchvision classification model by name, as "resnet34".
        outputs: number of logits.
        weights: "imagenet" (torchvision's own), "none", or a path to a state dict
            (.safetensors, or what ``torch.save`` wrote).
        dropout: share of the features dropped before the last layer, besides what the
            architecture drops itself.
    """
    model = bare_model(arch)
    if weights == "imagenet":
        state = imagenet_state(arch)
        model.load_state_dict({k: v for k, v in state.items() if not k.startswith(AUXILIARY)})
    replace_head(model, outputs, dropout)
    if weights not in ("imagenet", "none"):
        load_weights(model, read_state(Path(weights)), source=weights, arch=arch, new_head=True)
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


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a .safetensors file, a torch file, or a stored model's folder."""
    path = path / "model.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise DataError(
            f"--weights {path}: no such file; give a .safetensors or torch file, "
            "a stored model's folder (RUN/best), imagenet or none"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DataError(f"--weights {path}: cannot be read as a state dict ({error})") from error
    for key in ("state_dict", "model"):
        state = state.get(key, state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise DataError(f"--weights {path}: expected a state dict (names to tensors)")
    return {name.removeprefix("module."): value for name, value in state.items()}


def load_weights(
    model: nn.Module, state: dict[str, Tensor], *, source: object, arch: str, new_head: bool = False
) -> None:
    """Load ``state`` whole; with ``new_head``, a last layer of another width is left out.

    Raises:
        DataError: it has missing or unexpected names, or other shapes.
    """
    own = model.state_dict()
    head = [name for name in own if new_head and name.startswith(f"{head_name(model)}.")]
    if any(name in state and state[name].shape != own[name].shape for name in head):
        state = state | {name: own[name] for name in head}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:  # a line for what is missing, what is unexpected, each shape
        found = "; ".join(textwrap.shorten(line, 200) for line in str(error).splitlines()[1:6])
        raise DataError(
            f"{source}: these weights do not fit {arch}: {found}. "
            "Give the architecture that they were trained with, or other weights"
        ) from error


def malignant_log_odds(logits: Tensor, task: Task) -> Tensor:
    """Return log(P(malignant) / P(benign)) [...] of logits [..., K]; differentiable."""
    malignant = malignant_classes(task)
    positive, negative = (np.flatnonzero(mask).tolist() for mask in (malignant, ~malignant))
    return logits[..., positive].logsumexp(-1) - logits[..., negative].logsumexp(-1)
