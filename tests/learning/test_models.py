"""Networks by name, weights by path, and what is kept of a trained one."""

import json
from types import SimpleNamespace
from urllib.error import URLError

import pandas as pd
import pytest
import torch
import torchvision
from accelerate import Accelerator
from safetensors.torch import save_file

from pipeline.errors import DataError
from pipeline.learning.inference import predict_logits, views
from pipeline.learning.model import Features, build_model, head_of
from pipeline.learning.stored_model import ModelCard, load_stored, save_stored

SAMPLES = pd.DataFrame(
    {"image_id": ["a", "b"], "lesion_id": ["l", ""], "group": ["l", "b"], "split": ["train", "val"]}
)


@pytest.mark.parametrize(
    "arch",
    (
        *("resnet34", "resnet50", "efficientnet_b0", "efficientnet_v2_s", "convnext_tiny"),
        "squeezenet1_1",
    ),
)
def test_last_layer_is_replaced_whatever_the_architecture(arch):
    model = build_model(arch, 7).eval()
    with torch.inference_mode():
        images = torch.randn(2, 3, 64, 64)
        assert model(images).shape == (2, 7)
        features = Features(model)(images)
        if isinstance(head_of(model), torch.nn.Linear):
            torch.testing.assert_close(head_of(model)(features), model(images))


@pytest.mark.parametrize("arch", ["googlenet"])
def test_training_gives_logits_where_torchvision_gives_two_answers(arch):
    assert build_model(arch, 2).train()(torch.randn(2, 3, 96, 96)).shape == (2, 2)


def test_dropout_before_the_last_layer_acts_in_training_only():
    model = build_model("resnet18", 2, dropout=0.5)
    assert build_model("resnet18", 2).state_dict().keys() == model.state_dict().keys()
    head, features = head_of(model), torch.ones(4, 512)
    assert not torch.equal(head(features), head(features))
    head.eval()
    torch.testing.assert_close(
        head(features), torch.nn.functional.linear(features, head.weight, head.bias)
    )


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_weights_come_from_a_path_and_a_head_of_another_width_stays_new(tmp_path, suffix):
    torch.manual_seed(1)
    source = torchvision.models.resnet18(num_classes=1000).state_dict()
    path = tmp_path / f"w.{suffix}"
    if suffix == "pt":
        torch.save({"state_dict": {f"module.{k}": v for k, v in source.items()}}, path)
    else:
        save_file(source, path)
    model = build_model("resnet18", 2, weights=str(path))
    name = "layer1.0.conv1.weight"
    torch.testing.assert_close(model.state_dict()[name], source[name])
    assert model.state_dict()["fc.weight"].shape == (2, 512)


def test_weights_that_do_not_fit_are_reported_readably(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(torchvision.models.resnet34().state_dict(), path)
    with pytest.raises(DataError, match=r"unexpected: .*layer1\.2") as failure:
        build_model("resnet18", 2, weights=str(path))
    assert "these weights do not fit resnet18" in str(failure.value)
    assert len(str(failure.value)) < 1500
    path.write_bytes(b"nonsense")
    with pytest.raises(DataError, match="cannot be read as a state dict"):
        build_model("resnet18", 2, weights=str(path))


def test_imagenet_without_a_network_says_how_to_fetch_the_file(monkeypatch):
    def no_network(*args, **kwargs):
        raise URLError("no route")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", no_network)
    with pytest.raises(DataError, match=r"Fetch https://.*resnet18.*--weights PATH"):
        build_model("resnet18", 2, weights="imagenet")


def test_imagenet_weights_are_torchvisions_with_a_new_head(monkeypatch):
    source = torchvision.models.resnet18().state_dict()
    monkeypatch.setattr(
        torchvision.models._api, "load_state_dict_from_url", lambda *a, **k: dict(source)
    )
    try:
        found = build_model("resnet18", 2, weights="imagenet").state_dict()
    except RuntimeError as error:  # a bare model has one head, the file another
        pytest.fail(str(error))
    torch.testing.assert_close(found["conv1.weight"], source["conv1.weight"])
    assert found["fc.weight"].shape == (2, 512)


@pytest.fixture
def kept(tmp_path):
    model = build_model("resnet18", 2)
    card = ModelCard("resnet18", "binary", ("benign", "malignant"), 64, threshold=0.3)
    card = save_stored(tmp_path / "best", model.state_dict(), card, SAMPLES)
    return tmp_path, model, card


def test_stored_model_comes_back_whole(kept):
    folder, model, card = kept
    for path in (folder, folder / "best"):
        loaded, found, samples = load_stored(path)
        assert found == card and not loaded.training
        assert samples.to_dict("list") == SAMPLES.to_dict("list")
        for name, tensor in loaded.state_dict().items():
            assert torch.equal(tensor, model.state_dict()[name])


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        ("weights", "damaged or exchanged"),
        ("arch", "not of the architecture resnet34"),
        ("version", "format version 99"),
        ("samples", "training_samples.csv missing"),
    ],
)
def test_stored_model_that_cannot_be_trusted_is_refused(kept, harm, message):
    folder = kept[0] / "best"
    card = json.loads((folder / "model.json").read_text())
    if harm == "weights":
        (folder / "model.safetensors").write_bytes(b"x")
    elif harm == "samples":
        (folder / "training_samples.csv").unlink()
    else:
        card |= {"arch": {"arch": "resnet34"}, "version": {"format_version": 99}}[harm]
        (folder / "model.json").write_text(json.dumps(card))
    with pytest.raises(DataError, match=message):
        load_stored(kept[0])


def test_views_are_the_flips_and_the_eight_of_the_square():
    image = torch.arange(9.0).reshape(1, 1, 3, 3)
    flips = {tuple(v.flatten().tolist()) for v in views(image, "flips")}
    turns = {tuple(v.flatten().tolist()) for v in views(image, "dihedral")}
    expected = {
        tuple(torch.rot90(source, k, (2, 3)).flatten().tolist())
        for k in range(4)
        for source in (image, image.flip(3))
    }
    assert len(flips) == 4 and flips < turns and turns == expected


def test_predictions_keep_ids_and_average_the_views():
    torch.manual_seed(0)
    model, images = build_model("resnet18", 2).train(), torch.randn(3, 3, 32, 32)
    batches = [
        SimpleNamespace(images=images, image_ids=("x", "y", "z")),
        SimpleNamespace(images=images[:0], image_ids=()),
    ]
    found = predict_logits(model, batches, accelerator=Accelerator(cpu=True), tta="flips")
    assert model.training and found.image_ids == ("x", "y", "z")
    model.eval()
    with torch.inference_mode():
        expected = sum(model(view) for view in views(images, "flips")) / 4
    torch.testing.assert_close(torch.from_numpy(found.logits), expected)
