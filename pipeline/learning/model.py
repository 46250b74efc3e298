"""The network: any torchvision classifier by name, with a new last layer for this task.

    build_model("resnet34", 2, weights="imagenet")

The last layer of a torchvision classifier is its last ``Linear`` (its last ``Conv2d`` in
SqueezeNet); it is replaced by a ``Head`` that keeps the layer's name in the state dict with and
without dropout, so that weights move between runs.
"""

import difflib
from pathlib import Path
from urllib.error import URLError

import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.errors import DataError

AUXILIARY = ("AuxLogits", "aux1", "aux2")
"""Second classifiers of Inception and GoogLeNet, given beside the logits in training."""

SHOWN = 5
"""How many keys of each kind a report of mismatches names."""


class Head(nn.Linear):
    """The last layer, with dropout on the features before it."""

    def __init__(self, features: int, outputs: int, dropout: float) -> None:
        """Make a layer from ``features`` to ``outputs``, dropping features with ``dropout``."""
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
        load_into(model, read_state(Path(weights)), source=weights, arch=arch)
    return model


def bare_model(arch: str) -> nn.Module:
    """Return torchvision's classifier of that name with random weights and one output."""
    names = torchvision.models.list_models(module=torchvision.models)
    if arch not in names:
        near = ", ".join(difflib.get_close_matches(arch, names, 4)) or "resnet34, resnet50, ..."
        raise DataError(
            f"--arch {arch}: torchvision has no classifier of that name; near it: {near}. "
            "python -c 'import torchvision.models as m; print(*m.list_models(m))' lists them all"
        )
    quiet = {"init_weights": True} if arch in ("googlenet", "inception_v3") else {}
    model = torchvision.models.get_model(arch, weights=None, **quiet)
    if hasattr(model, "aux_logits"):
        setattr(model, "aux_logits", False)  # noqa: B010 - a plain attribute, no submodule
    for name in AUXILIARY:
        if hasattr(model, name):
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
    for kind in (nn.Linear, nn.Conv2d):
        names = [name for name, module in model.named_modules() if isinstance(module, kind)]
        if names:
            return names[-1]
    raise DataError(f"{type(model).__name__} has no last layer to replace")


def head_of(model: nn.Module) -> nn.Module:
    """Return the last layer."""
    return model.get_submodule(head_name(model))


def replace_head(model: nn.Module, outputs: int, dropout: float) -> None:
    """Put a new last layer of ``outputs`` logits in place of the one there."""
    name = head_name(model)
    old = model.get_submodule(name)
    if isinstance(old, nn.Linear):
        new: nn.Module = Head(old.in_features, outputs, dropout)
    else:
        assert isinstance(old, nn.Conv2d)
        new = nn.Conv2d(old.in_channels, outputs, kernel_size=1)
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, new)


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


def load_into(model: nn.Module, state: dict[str, Tensor], *, source: str, arch: str) -> None:
    """Load ``state`` whole; only a last layer of another width may stay new.

    Raises:
        DataError: naming what is missing, unexpected or of another shape.
    """
    own = model.state_dict()
    head = head_name(model)
    keys = {f"{head}.weight", f"{head}.bias"}
    if any(k in state and k in own and state[k].shape != own[k].shape for k in keys):
        state = {k: v for k, v in state.items() if k not in keys}
        state |= {k: own[k] for k in keys}
    report = mismatches(own, state)
    if report:
        raise DataError(
            f"{source}: these weights do not fit {arch}: {'; '.join(report)}. "
            "Give the architecture that they were trained with, or other weights"
        )
    model.load_state_dict(state)


def mismatches(own: dict[str, Tensor], state: dict[str, Tensor]) -> list[str]:
    """Return one line for each way in which ``state`` differs from what a model expects."""
    shapes = [
        f"{k} {tuple(state[k].shape)} for {tuple(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    # counters of batches seen, absent from old files, are no reason to refuse one
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in own]
    found = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
    return [
        f"{len(names)} {kind}: {', '.join(names[:SHOWN])}{', ...' if names[SHOWN:] else ''}"
        for kind, names in found
        if names
    ]


class Features(nn.Module):
    """The same network, giving what enters its last layer, [B, features], in place of logits."""

    def __init__(self, model: nn.Module) -> None:
        """Wrap ``model``; its weights are shared, not copied."""
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, 3, H, W] to features [B, features]."""
        seen: list[Tensor] = []
        handle = head_of(self.model).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        try:
            self.model(images)
        finally:
            handle.remove()
        return seen[0].flatten(1)
