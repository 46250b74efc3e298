"""A stored model as one ONNX file that carries its own card, checked against PyTorch.

    worst = export_onnx(Path("model.onnx"), model, card, images)

Input ``images`` [N, 3, S, S] float32, normalised with the card's mean and std; outputs ``logits``
[N, K] and ``prob_malignant`` [N], calibrated by the card's temperature and bias.
"""

import json
import os
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from pipeline.errors import DataError
from pipeline.files import write_output
from pipeline.learning.model import malignant_log_odds
from pipeline.learning.stored_model import ModelCard, card_values

TOLERANCE = 1e-3
"""Largest difference of a logit that counts as rounding."""

OUTPUTS = ["logits", "prob_malignant"]


class WithProbability(nn.Module):
    """The network with the calibrated probability of malignant beside its logits."""

    def __init__(self, model: nn.Module, card: ModelCard) -> None:
        """Wrap ``model``; its weights are shared, not copied."""
        super().__init__()
        self.model, self.card = model, card

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images [N, 3, S, S] to logits [N, K] and probabilities [N]."""
        logits = self.model(images)
        log_odds = malignant_log_odds(logits / self.card.temperature, self.card.outputs)
        return logits, (log_odds + self.card.bias).sigmoid()


def export_onnx(
    path: Path, model: nn.Module, card: ModelCard, images: Tensor, *, tolerance: float = TOLERANCE
) -> dict[str, float]:
    """Write ``path`` and return the largest difference from PyTorch of each output.

    ``model`` is in eval mode, on the CPU. The outputs are compared on ``images`` [N, 3, S, S]
    float32, normalised; logits may differ by ``tolerance``. The card is metadata of the file.
    DataError: the logits differ by more; nothing is written.
    """
    wrapped = WithProbability(model, card).eval()
    content = to_onnx(wrapped, card)
    worst = differences(content, wrapped, images)
    if not worst["logits"] <= tolerance:  # NaN too
        raise DataError(
            f"{path} was not written: onnxruntime's logits differ from PyTorch's by up to "
            f"{worst['logits']:.2g} on {len(images)} images (at most {tolerance:g} is rounding)"
        )
    write_output(path, content)
    return worst


def to_onnx(wrapped: WithProbability, card: ModelCard) -> bytes:
    """Translate the network; the number of images stays free."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            wrapped,
            (torch.zeros(2, 3, card.image_size, card.image_size),),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=OUTPUTS,
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        )
    assert program is not None
    proto = program.model_proto
    onnx.helper.set_model_props(proto, {"card": json.dumps(card_values(card))})
    onnx.checker.check_model(proto)
    return proto.SerializeToString()


def differences(content: bytes, wrapped: WithProbability, images: Tensor) -> dict[str, float]:
    """Return the largest absolute difference between onnxruntime and PyTorch, by output."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when it is imported
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    largest = []
    for chunk in images.split(16):  # bounds the memory
        found = session.run(OUTPUTS, {"images": chunk.numpy()})
        with torch.inference_mode():
            pairs = zip(wrapped(chunk), found, strict=True)
            largest.append([np.abs(ours.numpy() - theirs).max() for ours, theirs in pairs])
    return dict(zip(OUTPUTS, np.max(largest, axis=0).tolist(), strict=True))
