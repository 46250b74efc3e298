"""A stored model as one ONNX file that carries its own card, checked against PyTorch.

    export_onnx(model, card, Path("model.onnx"))
    worst = check_onnx(Path("model.onnx"), model, images)

Input ``images`` [N, 3, S, S] float32, normalised as the card says; outputs ``logits`` [N, K] and
``prob_malignant`` [N], after the card's temperature.
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
from pipeline.ham10000.taxonomy import DX_IS_MALIGNANT
from pipeline.learning.stored import StoredModel

TOLERANCE = 1e-3
"""Largest difference of a logit that is taken for rounding."""


class WithProbability(nn.Module):
    """The network, giving the calibrated probability of malignant beside its logits."""

    def __init__(self, model: nn.Module, card: StoredModel) -> None:
        """Wrap ``model``; its weights are shared, not copied."""
        super().__init__()
        self.model, self.temperature = model, card.temperature
        malignant = (0, 1) if card.task == "binary" else DX_IS_MALIGNANT
        self.register_buffer("malignant", torch.tensor(malignant, dtype=torch.float32))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images [N, 3, S, S] to logits [N, K] and probabilities [N]."""
        logits = self.model(images)
        return logits, (logits / self.temperature).softmax(1) @ self.malignant


def export_onnx(model: nn.Module, card: StoredModel, path: Path) -> None:
    """Write ``path``; the batch size stays free, the card goes along as metadata."""
    wrapped = WithProbability(model.cpu(), card).eval()
    example = torch.zeros(2, 3, card.image_size, card.image_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            wrapped, (example,), dynamo=True, verbose=False, input_names=["images"],
            output_names=["logits", "prob_malignant"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}},
        )  # fmt: skip
    assert program is not None
    proto = program.model_proto
    onnx.helper.set_model_props(proto, {"card": json.dumps(asdict(card))})
    onnx.checker.check_model(proto)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.partial")
    beside.write_bytes(proto.SerializeToString())
    beside.replace(path)


def check_onnx(path: Path, model: nn.Module, card: StoredModel, images: Tensor) -> dict[str, float]:
    """Run the file with onnxruntime and PyTorch on the same images.

    Args:
        path: what ``export_onnx`` wrote.
        model: the network that it was made from.
        card: its card.
        images: [N, 3, S, S] float32, normalised.

    Returns:
        The largest absolute difference of ``logits`` and of ``prob_malignant``.

    Raises:
        DataError: they differ by more than rounding.
    """
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(["logits", "prob_malignant"], {"images": images.numpy()})
    with torch.no_grad():
        expected = WithProbability(model.cpu(), card).eval()(images)
    names = ("logits", "prob_malignant")
    pairs = zip(names, found, expected, strict=True)
    worst = {k: float(np.abs(np.asarray(a) - b.numpy()).max()) for k, a, b in pairs}
    if not worst["logits"] <= TOLERANCE:  # NaN too
        raise DataError(
            f"{path}: onnxruntime's logits differ from PyTorch's by up to {worst['logits']:.2g} on "
            f"{len(images)} images (at most {TOLERANCE:g} is rounding); do not use this file"
        )
    return worst
