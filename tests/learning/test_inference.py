"""Logits of every sample, averaged over views."""

import numpy as np
import torch
from accelerate import Accelerator

from pipeline.learning.inference import predict_logits, views
from pipeline.learning.model import build_model
from pipeline.loading.batch import Batch


def test_views_are_the_flips_and_the_eight_symmetries_of_the_square():
    image = torch.arange(9.0).reshape(1, 1, 3, 3)
    flips = {tuple(v.flatten().tolist()) for v in views(image, "flips")}
    turns = {tuple(v.flatten().tolist()) for v in views(image, "dihedral")}
    expected = {
        tuple(torch.rot90(source, k, (2, 3)).flatten().tolist())
        for k in range(4)
        for source in (image, image.flip(3))
    }
    assert len(flips) == 4 and flips < turns and turns == expected
    assert [view is image for view in views(image, "none")] == [True]


def test_predictions_keep_ids_and_average_the_views():
    torch.manual_seed(0)
    model, images = build_model("resnet18", 2).train(), torch.randn(3, 3, 32, 32)
    labels = torch.zeros(3, dtype=torch.int64)
    batches = [Batch(images, labels, ("x", "y", "z")), Batch(images[:0], labels[:0], ())]
    found = predict_logits(model, batches, accelerator=Accelerator(cpu=True), tta="flips")
    assert model.training and found.image_ids == ("x", "y", "z")
    model.eval()
    with torch.inference_mode():
        expected = sum(model(view) for view in views(images, "flips")) / 4
    torch.testing.assert_close(torch.from_numpy(found.logits), expected)


def test_no_batches_give_no_predictions():
    found = predict_logits(torch.nn.Identity(), [], accelerator=Accelerator(cpu=True))
    assert found.image_ids == () and found.logits.shape == (0, 0)
    assert found.logits.dtype == np.float32
