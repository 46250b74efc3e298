"""A stored model as one ONNX file that carries its own card, checked against PyTorch.

    worst = export_onnx(Path("model.onnx"), model, card, images)

Input ``images`` [N, 3, S, S] float32, normalised as the card says; outputs ``logits`` [N, K] and
``prob_malignant`` [N], calibrated by the card's temperature and bias.
"""

import json
import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from pipeline.errors import DataError
from pipeline.learning.probability import malignant_classes
from pipeline.learning.stored_model import ModelCard

TOLERANCE = 1e-3
"""Largest difference of a logit that is taken for rounding."""

CHUNK = 16
"""Images that are compared at once."""


class WithProbability(nn.Module):
    """The network, giving the calibrated probability of malignant beside its logits."""

    malignant: Tensor
    """float32 [K], 1 for each malignant class."""

    def __init__(self, model: nn.Module, card: ModelCard) -> None:
        """Wrap ``model``; its weights are shared, not copied."""
        super().__init__()
        self.model, self.temperature, self.bias = model, card.temperature, card.bias
        malignant = torch.from_numpy(malignant_classes(card.task)).float()
        self.register_buffer("malignant", malignant)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images [N, 3, S, S] to logits [N, K] and probabilities [N]."""
        logits = self.model(images)
        shifted = logits / self.temperature + self.bias * self.malignant
        return logits, shifted.softmax(1) @ self.malignant


def export_onnx(path: Path, model: nn.Module, card: ModelCard, images: Tensor) -> dict[str, float]:
    """Write ``path``, unless onnxruntime's outputs are not PyTorch's.

    Args:
        path: the file; appears whole and checked or not at all.
        model: in eval mode, on the CPU.
        card: goes along as metadata, under "card".
        images: [N, 3, S, S] float32, normalised, to check with.

    Returns:
        The largest absolute difference of ``logits`` and of ``prob_malignant``.

    Raises:
        DataError: they differ by more than rounding.
    """
    wrapped = WithProbability(model, card).eval()
    data = to_onnx(wrapped, card)
    worst = differences(data, wrapped, images)
    if not worst["logits"] <= TOLERANCE:  # NaN too
        raise DataError(
            f"{path} was not written: onnxruntime's logits differ from PyTorch's by up to "
            f"{worst['logits']:.2g} on {len(images)} images (at most {TOLERANCE:g} is rounding)"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.partial")
    beside.write_bytes(data)
    beside.replace(path)
    return worst


def to_onnx(wrapped: WithProbability, card: ModelCard) -> bytes:
    """Translate the network; the number of images stays free."""
    example = torch.zeros(2, 3, card.image_size, card.image_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            wrapped,
            (example,),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=["logits", "prob_malignant"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        )
    assert program is not None
    proto = program.model_proto
    onnx.helper.set_model_props(proto, {"card": json.dumps(asdict(card))})
    onnx.checker.check_model(proto)
    return proto.SerializeToString()


def differences(data: bytes, wrapped: WithProbability, images: Tensor) -> dict[str, float]:
    """Largest absolute difference between onnxruntime and PyTorch, by output."""
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    names = ["logits", "prob_malignant"]
    worst = dict.fromkeys(names, 0.0)
    for chunk in images.split(CHUNK):
        found = session.run(names, {"images": chunk.numpy()})
        with torch.inference_mode():
            expected = wrapped(chunk)
        for name, ours, theirs in zip(names, expected, found, strict=True):
            worst[name] = float(np.maximum(worst[name], np.abs(ours.numpy() - theirs).max()))
    return worst
