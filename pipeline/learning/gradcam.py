"""Grad-CAM by the grad-cam library: which regions of an image raised the score of a decision.

    heat = decision_heat(model, images, called, outputs)   # [N, H, W] float32 0-1

A map has the coarse grid of the last feature map. It does not show that the model uses medically
meaningful features, and it does not outline the lesion.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import torch
import torchvision
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import show_cam_on_image
from torch import Tensor, nn

from pipeline.learning.model import malignant_log_odds
from pipeline.learning.probability import Outputs

FINE_ENOUGH = 4
"""Rows and columns that a map should have; the last layers have fewer for small images."""

Reshape = Callable[[Tensor], Tensor]

CHUNK = 16
"""Images whose gradients are held at once."""


def last_feature_map(model: nn.Module, image: Tensor) -> tuple[nn.Module, Reshape | None]:
    """Return the layer to look at, and how its output becomes [B, C, h, w].

    It is the last one whose map has at least ``FINE_ENOUGH`` rows, found by a forward pass of
    ``image`` [1, 3, H, W]; in a vision transformer, the norm before the last attention.
    """
    if isinstance(model, torchvision.models.VisionTransformer):
        return model.get_submodule("encoder.layers")[-1].ln_1, tokens_to_map  # type: ignore[index]
    blocks: Any = getattr(model, "blocks", None)
    if blocks is not None and hasattr(blocks[-1], "norm1"):  # timm's
        return blocks[-1].norm1, tokens_to_map
    channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"  # timm's Swin
    sides = slice(1, 3) if channels_last else slice(2, 4)
    found: list[tuple[int, nn.Module]] = []

    def note(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            found.append((min(output.shape[sides]), module))

    handles = [module.register_forward_hook(note) for module in model.modules()]
    try:
        with torch.no_grad():
            model(image)
    finally:
        for handle in handles:
            handle.remove()
    finest = min(FINE_ENOUGH, max(side for side, _ in found))
    layer = [module for side, module in found if side >= finest][-1]
    return layer, (lambda maps: maps.permute(0, 3, 1, 2)) if channels_last else None


def tokens_to_map(tokens: Tensor) -> Tensor:
    """Return a transformer's tokens [B, N, C], class tokens first, as a map [B, C, s, s]."""
    side = math.isqrt(tokens.shape[1])
    return tokens[:, tokens.shape[1] - side**2 :].transpose(1, 2).unflatten(2, (side, side))


def decision_heat(
    model: nn.Module, images: Tensor, called: Sequence[int], outputs: Outputs
) -> np.ndarray:
    """Return Grad-CAM maps of the log-odds of each decision, float32 [N, H, W] 0-1.

    ``model`` is in eval mode and keeps its gradients; ``images`` [N, 3, H, W] float32 are
    normalised and on its device. ``called`` has N decisions: 1 explains malignant, 0 benign.
    """
    layer, reshape = last_feature_map(model, images[:1])
    signs, parts = [1 if decision else -1 for decision in called], []
    targets = [
        lambda logits, sign=sign: sign * malignant_log_odds(logits, outputs) for sign in signs
    ]
    with GradCAM(model, [layer], reshape_transform=reshape) as cam:
        for start in range(0, len(images), CHUNK):
            part = slice(start, start + CHUNK)
            parts.append(cam(images[part], targets=targets[part]))  # type: ignore[arg-type]
    model.zero_grad(set_to_none=True)
    return np.concatenate(parts).astype(np.float32)


def overlay(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Return ``picture`` [H, W, 3] uint8 RGB with ``heat`` [h, w] float32 0-1 over it.

    Where nothing speaks for the decision there is no heat, and the picture stays as it is.
    """
    if not heat.any():
        return picture
    heat = cv2.resize(heat, (picture.shape[1], picture.shape[0]))
    return show_cam_on_image(picture.astype(np.float32) / 255, heat, use_rgb=True, image_weight=0.6)
