"""The network: a classifier of torchvision, or of timm as ``timm:NAME``, with a new last layer.

    build_model("resnet34", 2, weights="imagenet")
    build_model("timm:resnet50d", 2, arch_args={"drop_path_rate": 0.1})

The last layer of a classifier is its last ``Linear`` (its last ``Conv2d`` in SqueezeNet). It is
replaced by a ``Head`` of the same name in the state dict, with or without dropout, so weights can
move between runs. timm is an extra; its ImageNet weights are kept beside torchvision's, in
``$TORCH_HOME/hub/checkpoints``.
"""

import difflib
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.errors import DataError
from pipeline.learning.foreign_weights import fit, load_from
from pipeline.learning.probability import Outputs

TIMM = "timm:"

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
    arch_args: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Return a network with so many outputs (logits), on the CPU, in training mode.

    ``arch`` is of torchvision, as "resnet34", or of timm, as "timm:resnet34"; ``arch_args`` are
    keyword arguments of it. ``weights`` are "imagenet" (the library's own), "none", or a path (see
    ``foreign_weights``); ``report`` is called with a line that says what was taken from that.
    ``dropout`` is the share of features dropped before the last layer, besides what the
    architecture drops itself.
    """
    model = make_network(arch, outputs, arch_args or {}, imagenet=weights == "imagenet")
    replace_head(model, outputs, dropout)
    if weights not in ("imagenet", "none"):
        report(load_from(Path(weights), model, head=head_name(model), arch=arch))
    return model


class Ensemble(nn.Module):
    """Several networks as one: its logits are the log of their mean calibrated probabilities."""

    def __init__(
        self,
        members: Sequence[nn.Module],
        calibration: Sequence[tuple[float, float]],
        outputs: Outputs,
    ) -> None:
        """Take the networks, and for each the temperature and bias of its calibration."""
        super().__init__()
        self.members, self.calibration = nn.ModuleList(members), tuple(calibration)
        self.malignant = tuple(outputs.malignant.astype(float).tolist())

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, 3, H, W] to logits [B, K], which need no calibration."""
        shares = []
        for member, (temperature, bias) in zip(self.members, self.calibration, strict=True):
            logits = member(images).float()
            shift = logits.new_tensor(self.malignant) * bias
            shares.append((logits / temperature + shift).log_softmax(-1))
        return torch.stack(shares).logsumexp(0) - math.log(len(shares))


def networks_of(model: nn.Module) -> list[nn.Module]:
    """Return the members of an ensemble, or the network alone."""
    return [*model.members] if isinstance(model, Ensemble) else [model]


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


def malignant_log_odds(logits: Tensor, outputs: Outputs) -> Tensor:
    """Return log(P(malignant) / P(benign)) [...] of logits [..., K]; differentiable."""
    malignant = outputs.malignant
    positive, negative = (np.flatnonzero(mask).tolist() for mask in (malignant, ~malignant))
    return logits[..., positive].logsumexp(-1) - logits[..., negative].logsumexp(-1)


def make_network(
    arch: str, outputs: int, arch_args: Mapping[str, Any], *, imagenet: bool
) -> nn.Module:
    """Return the network, on the CPU, in training mode.

    Its last layer may have another number of outputs than ``outputs``; ``arch_args`` are keyword
    arguments of its constructor. What cannot be made, or fetched, is a DataError.
    """
    make = _timm_network if arch.startswith(TIMM) else _torchvision_network
    try:
        return make(arch, outputs, dict(arch_args), imagenet)
    except DataError:
        raise
    except Exception as error:  # whatever a constructor says to arguments or weights
        typed = shlex.join(f"{name}={value}" for name, value in arch_args.items())
        given = f" --arch-args {typed}" if arch_args else ""
        raise DataError(f"--arch {arch}{given}: the network cannot be made: {error}") from error


def _torchvision_network(
    arch: str, outputs: int, arch_args: dict[str, Any], imagenet: bool
) -> nn.Module:
    names = torchvision.models.list_models(module=torchvision.models)
    if arch not in names:
        raise _unknown(arch, names, "import torchvision.models as m; print(*m.list_models(m))")
    quiet = {"init_weights": True} if arch in ("googlenet", "inception_v3") else {}
    model = torchvision.models.get_model(arch, weights=None, **quiet | arch_args)
    for name in AUXILIARY:
        if hasattr(model, name):
            model.aux_logits = False  # type: ignore[assignment]
            setattr(model, name, None)
    if imagenet:
        weights = torchvision.models.get_model_weights(arch).DEFAULT  # type: ignore[attr-defined]
        try:
            state = weights.get_state_dict(progress=False, check_hash=True)
        except Exception as error:  # no network, another sha256, a damaged file
            raise _no_weights(arch, weights.url, _cache(Path(weights.url).name), error) from error
        fit(model, state, source="ImageNet weights", head=head_name(model), arch=arch)
    return model


def _timm_network(arch: str, outputs: int, arch_args: dict[str, Any], imagenet: bool) -> nn.Module:
    try:
        import timm
        from timm.layers.blur_pool import BlurPool2d
    except ImportError as error:
        raise DataError(
            f"--arch {arch} needs timm: install the extra `timm` (pip install timm)"
        ) from error
    name, pretrained = arch.removeprefix(TIMM), {}
    if not timm.is_model(name):
        names = [f"{TIMM}{known}" for known in timm.list_models()]
        raise _unknown(arch, names, "import timm; print(*timm.list_models())")
    if imagenet:
        file = _timm_weights(arch)
        pretrained = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(file)}}
    # ResNets want the class, other networks take its name too
    pools = {"avg": nn.AvgPool2d, "blur": BlurPool2d}
    pool = arch_args.get("aa_layer")
    if isinstance(pool, str):
        arch_args["aa_layer"] = pools.get(pool.lower().removesuffix("pool"), pool)
    model: Any = timm.create_model(name, **{**arch_args, "num_classes": outputs, **pretrained})
    if not isinstance(model.get_classifier(), nn.Linear | nn.Conv2d):
        raise DataError(f"--arch {arch} has several last layers; choose a network with one")
    return model


def _timm_weights(arch: str) -> Path:
    """Return the file of timm's weights: from torch's or Hugging Face's cache, or the network."""
    import timm
    from huggingface_hub import hf_hub_url, try_to_load_from_cache

    facts = timm.get_pretrained_cfg(arch.removeprefix(TIMM))
    if not (facts and facts.hf_hub_id):
        raise DataError(f"--weights imagenet: timm has none of {arch}; use --weights none")
    path = _cache(f"{facts.architecture}.{facts.tag}.safetensors")
    cached = try_to_load_from_cache(facts.hf_hub_id, "model.safetensors")
    if path.is_file() or not isinstance(cached, str):
        cached = path
    url = hf_hub_url(facts.hf_hub_id, "model.safetensors")
    try:
        if not Path(cached).is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), progress=False)
        load_file(cached)
    except Exception as error:  # no network, a damaged file
        raise _no_weights(arch, url, path, error) from error
    return Path(cached)


def _cache(name: str) -> Path:
    """Return where torch keeps downloaded weights of that file name."""
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def _no_weights(arch: str, url: str, path: Path, error: Exception) -> DataError:
    return DataError(
        f"--weights imagenet: the weights of {arch} could not be fetched or read ({error}). Fetch "
        f"{url} on a machine with a network, then save it as {path}, or give its path "
        "(--weights PATH); or start from scratch with --weights none"
    )


def _unknown(arch: str, names: list[str], listing: str) -> DataError:
    near = ", ".join(difflib.get_close_matches(arch, names, 4)) or "resnet34, timm:resnet50, ..."
    return DataError(
        f"--arch {arch}: there is no classifier of that name; near it: {near}. "
        f"python -c '{listing}' lists them all"
    )
