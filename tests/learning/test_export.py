import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from pipeline.errors import DataError
from pipeline.ham10000.taxonomy import HAM10000, LABELS
from pipeline.learning.export import export_onnx
from pipeline.learning.model import build_model
from pipeline.learning.probability import Outputs, malignant_probability
from pipeline.learning.stored_model import ModelCard


@pytest.fixture(scope="module", params=["binary", "dx"])
def exported(request, tmp_path_factory):
    torch.manual_seed(0)
    classes = Outputs(request.param, HAM10000).names
    model = build_model("resnet18", len(classes)).eval()
    card = ModelCard(
        arch="resnet18",
        task=request.param,
        classes=classes,
        image_size=64,
        temperature=1.7,
        bias=-0.6,
    )
    path = tmp_path_factory.mktemp("onnx") / "deep" / "model.onnx"
    worst = export_onnx(path, model, card, torch.randn(5, 3, 64, 64))
    return path, model, card, worst


@pytest.mark.parametrize("count", [1, 7])
def test_onnx_gives_the_logits_and_calibrated_probability_at_any_batch_size(exported, count):
    path, model, card, _ = exported
    images = torch.randn(count, 3, 64, 64)
    session = onnxruntime.InferenceSession(str(path))
    logits, prob = session.run(["logits", "prob_malignant"], {"images": images.numpy()})
    with torch.no_grad():
        expected = model(images).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    judged = malignant_probability(expected, card.outputs, card.temperature, card.bias)
    np.testing.assert_allclose(prob, judged, atol=1e-5)


def test_the_file_is_valid_carries_its_card_and_its_check(exported):
    path, _, card, worst = exported
    proto = onnx.load(path)
    onnx.checker.check_model(proto)
    stored = {p.key: p.value for p in proto.metadata_props}
    assert json.loads(stored["card"])["temperature"] == card.temperature
    assert worst["logits"] < 1e-4
    assert [p.name for p in path.parent.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(("pixel", "tolerance"), [(float("nan"), 1e-3), (1.0, 0.0)])
def test_a_file_that_differs_from_pytorch_is_not_written(tmp_path, pixel, tolerance):
    model = build_model("shufflenet_v2_x0_5", 2).eval()
    card = ModelCard("shufflenet_v2_x0_5", "binary", LABELS, image_size=32)
    images = torch.randn(2, 3, 32, 32) * pixel
    with pytest.raises(DataError, match="was not written"):
        export_onnx(tmp_path / "model.onnx", model, card, images, tolerance=tolerance)
    assert not list(tmp_path.iterdir())
