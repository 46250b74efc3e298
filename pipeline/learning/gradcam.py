"""Where in an image the evidence for a decision lies: Grad-CAM, by the grad-cam library.

    heat = decision_heat(model, images, called, task="binary")   # [N, H, W] float32 0-1

A map shows what moved the score, at the coarse grid of the last feature map. It is no proof that
the model looks at the right thing, and no outline of the lesion.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
import torchvision
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import show_cam_on_image
from torch import Tensor, nn

from pipeline.ham10000.taxonomy import DX_IS_MALIGNANT

FINE_ENOUGH = 4
"""Rows and columns that a map should have; small images leave the last ones fewer."""

CHUNK = 16
"""Images whose gradients are held at once."""


def malignant_log_odds(logits: Tensor, task: str) -> Tensor:
    """Log-odds of malignant from logits [..., K]: what the map explains, for either task."""
    if task == "binary":
        return logits[..., 1] - logits[..., 0]
    malignant = torch.tensor(DX_IS_MALIGNANT, dtype=torch.bool, device=logits.device)
    benign = logits[..., ~malignant]
    return logits[..., malignant].logsumexp(-1) - benign.logsumexp(-1)


def last_feature_map(model: nn.Module, image: Tensor) -> nn.Module:
    """The last module whose output is a map [B, C, h, w] fine enough to point at something.

    Args:
        model: a torchvision classifier in eval mode.
        image: [1, 3, H, W] float32, to see shapes with.
    """
    found: list[tuple[int, nn.Module]] = []

    def note(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            found.append((min(output.shape[2:]), module))

    handles = [module.register_forward_hook(note) for module in model.modules()]
    try:
        with torch.no_grad():
            model(image)
    finally:
        for handle in handles:
            handle.remove()
    finest = min(FINE_ENOUGH, max(side for side, _ in found))
    return [module for side, module in found if side >= finest][-1]


def tokens_to_map(tokens: Tensor) -> Tensor:
    """[B, 1 + s * s, C] tokens of a vision transformer as a map [B, C, s, s]."""
    side = int((tokens.shape[1] - 1) ** 0.5)
    return tokens[:, 1:].transpose(1, 2).unflatten(2, (side, side))


def decision_heat(model: nn.Module, images: Tensor, called: Sequence[int], task: str) -> np.ndarray:
    """Grad-CAM of the log-odds of the decision taken, malignant or benign.

    Args:
        model: in eval mode; its gradients are left untouched.
        images: [N, 3, H, W] float32, normalised, on the model's device.
        called: N decisions; 1 explains what speaks for malignant, 0 what speaks for benign.
        task: "binary" or "dx".

    Returns:
        [N, H, W] float32 0-1, each map scaled by its own maximum.
    """
    if isinstance(model, torchvision.models.VisionTransformer):
        layer: nn.Module = model.encoder.get_submodule("layers")[-1].ln_1  # type: ignore[index]
        reshape: Callable[[Tensor], Tensor] | None = tokens_to_map
    else:
        layer, reshape = last_feature_map(model, images[:1]), None

    def evidence_for(decision: int) -> Callable[[Tensor], Tensor]:
        sign = 1 if decision else -1
        return lambda logits: sign * malignant_log_odds(logits, task)

    targets, parts = [evidence_for(decision) for decision in called], []
    with GradCAM(model, [layer], reshape_transform=reshape) as cam:
        for start in range(0, len(images), CHUNK):
            here = slice(start, start + CHUNK)
            parts.append(cam(images[here], targets=targets[here]))  # type: ignore[arg-type]
    model.zero_grad(set_to_none=True)
    return np.concatenate(parts).astype(np.float32)


def overlay(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lay a map over its picture.

    Args:
        picture: [H, W, 3] uint8 RGB.
        heat: [h, w] float32 0-1, scaled to the picture's size.

    Returns:
        [H, W, 3] uint8 RGB.
    """
    heat = cv2.resize(heat, (picture.shape[1], picture.shape[0]))
    return show_cam_on_image(picture.astype(np.float32) / 255, heat, use_rgb=True, image_weight=0.6)
