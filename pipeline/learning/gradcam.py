"""Where in an image the evidence for "malignant" lies: Grad-CAM, by the grad-cam library.

    heat = malignant_heat(model, images, task="binary")   # [N, H, W] float32 0-1

A map shows what moved the score, at the coarse grid of the last feature map. It is no proof that
the model looks at the right thing, and no outline of the lesion.
"""

from collections.abc import Callable

import cv2
import numpy as np
import torch
import torchvision
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import show_cam_on_image
from torch import Tensor, nn

from pipeline.ham10000.taxonomy import DX_IS_MALIGNANT

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
    """The last module whose output is a map [B, C, h, w] with more than one place.

    Args:
        model: a torchvision classifier in eval mode.
        image: [1, 3, H, W] float32, to see shapes with.
    """
    found: list[nn.Module] = []

    def note(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[2:]) > 1:
            found.append(module)

    handles = [module.register_forward_hook(note) for module in model.modules()]
    try:
        with torch.no_grad():
            model(image)
    finally:
        for handle in handles:
            handle.remove()
    return found[-1]


def tokens_to_map(tokens: Tensor) -> Tensor:
    """[B, 1 + s * s, C] tokens of a vision transformer as a map [B, C, s, s]."""
    side = int((tokens.shape[1] - 1) ** 0.5)
    return tokens[:, 1:].transpose(1, 2).unflatten(2, (side, side))


def malignant_heat(model: nn.Module, images: Tensor, task: str) -> np.ndarray:
    """Grad-CAM of the log-odds of malignant.

    Args:
        model: in eval mode; its gradients are left untouched.
        images: [N, 3, H, W] float32, normalised, on the model's device.
        task: "binary" or "dx".

    Returns:
        [N, H, W] float32 0-1, each map scaled by its own maximum.
    """
    if isinstance(model, torchvision.models.VisionTransformer):
        layer: nn.Module = model.encoder.get_submodule("layers")[-1].ln_1  # type: ignore[index]
        reshape: Callable[[Tensor], Tensor] | None = tokens_to_map
    else:
        layer, reshape = last_feature_map(model, images[:1]), None

    def evidence(logits: Tensor) -> Tensor:
        return malignant_log_odds(logits, task)

    with GradCAM(model, [layer], reshape_transform=reshape) as cam:
        parts = [
            cam(chunk, targets=[evidence] * len(chunk))  # type: ignore[arg-type]
            for chunk in images.split(CHUNK)
        ]
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
