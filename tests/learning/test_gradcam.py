import numpy as np
import pytest
import torch
from torch import nn

from pipeline.ham10000.taxonomy import HAM10000
from pipeline.learning.gradcam import decision_heat, overlay
from pipeline.learning.model import build_model
from pipeline.learning.probability import Outputs

BINARY = Outputs("binary", HAM10000)


class BrightCorner(nn.Module):
    """Malignant where the image is bright: the right map is known."""

    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(3, 2, kernel_size=8, stride=8, bias=False)
        with torch.no_grad():
            self.features.weight[0], self.features.weight[1] = -1 / 192, 1 / 192

    def forward(self, images):
        return self.features(images).mean((2, 3))


def test_the_map_lies_where_the_evidence_is():
    images = torch.zeros(2, 3, 64, 64)
    images[0, :, :16, :16] = 1  # light in the upper left speaks for malignant
    images[1, :, 48:, 48:] = 1
    heat = decision_heat(BrightCorner().eval(), images, [1, 1], BINARY)
    assert heat.shape == (2, 64, 64)
    assert heat[0, 8, 8] == pytest.approx(1, abs=0.05)
    assert heat[1, 56, 56] == pytest.approx(1, abs=0.05)
    assert heat[0, 48:, 48:].max() == heat[1, :16, :16].max() == 0


def test_a_benign_decision_is_explained_by_what_speaks_for_benign():
    images = torch.zeros(1, 3, 64, 64)
    images[:, :, :16, :16] = -1  # darkness speaks for benign
    model = BrightCorner().eval()
    assert decision_heat(model, images, [0], BINARY)[0, 8, 8] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v3_small", "vit_b_16"])
def test_any_architecture_gets_a_finite_map_and_keeps_its_weights_ungraded(arch):
    model = build_model(arch, 2).eval()
    side = 224 if arch == "vit_b_16" else 96
    heat = decision_heat(model, torch.randn(2, 3, side, side), [1, 0], BINARY)
    assert heat.shape == (2, side, side)
    assert np.isfinite(heat).all()
    assert heat.min() >= 0
    assert heat.max() <= 1
    assert all(p.grad is None for p in model.parameters())


def test_the_overlay_has_the_pictures_size_whatever_the_maps():
    shown = overlay(np.full((144, 144, 3), 128, np.uint8), np.eye(96, dtype=np.float32))
    assert shown.shape == (144, 144, 3)
    assert shown.dtype == np.uint8
