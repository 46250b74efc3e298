"""Networks by name, weights by path."""

from pathlib import Path
from urllib.parse import urlparse
from urllib.request import ProxyHandler, build_opener, install_opener

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from pipeline.errors import DataError
from pipeline.learning.model import build_model, head_of
from pipeline.learning.refit import without_head


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
        if arch == "squeezenet1_1":  # ends in a convolution
            with pytest.raises(DataError, match=r"--refit-head needs a linear last layer"):
                without_head(model)
            return
        features = without_head(model)(images)
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


def test_weights_of_old_files_without_batch_counters_fit(tmp_path):
    source = torchvision.models.resnet18(num_classes=2).state_dict()
    kept = {k: v for k, v in source.items() if not k.endswith("num_batches_tracked")}
    save_file(kept, tmp_path / "w.safetensors")
    model = build_model("resnet18", 2, weights=str(tmp_path / "w.safetensors"))
    torch.testing.assert_close(model.state_dict()["fc.weight"], source["fc.weight"])


def test_weights_that_do_not_fit_are_reported_readably(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(torchvision.models.resnet34().state_dict(), path)
    with pytest.raises(DataError, match=r"Unexpected key.*layer1\.2") as failure:
        build_model("resnet18", 2, weights=str(path))
    assert "these weights do not fit resnet18" in str(failure.value)
    assert len(str(failure.value)) < 1500
    path.write_bytes(b"nonsense")
    with pytest.raises(DataError, match="cannot be read as weights"):
        build_model("resnet18", 2, weights=str(path))


IMAGENET_FILE = Path(urlparse(torchvision.models.ResNet18_Weights.DEFAULT.url).path).name


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder in which torch looks for downloaded weights; nothing can be downloaded."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    nobody = {"https": "http://127.0.0.1:9", "http": "http://127.0.0.1:9"}
    install_opener(build_opener(ProxyHandler(nobody)))
    yield tmp_path / "hub" / "checkpoints"
    install_opener(None)  # type: ignore[arg-type]


def test_imagenet_without_a_network_says_how_to_fetch_the_file(cache):
    with pytest.raises(DataError, match=r"Fetch https://.*resnet18.*--weights PATH") as failure:
        build_model("resnet18", 2, weights="imagenet")
    assert f"save it as {cache / IMAGENET_FILE}" in str(failure.value)


def test_imagenet_weights_are_torchvisions_with_a_new_head(cache):
    source = torchvision.models.resnet18().state_dict()
    cache.mkdir(parents=True)
    torch.save(source, cache / IMAGENET_FILE)
    found = build_model("resnet18", 2, weights="imagenet").state_dict()
    torch.testing.assert_close(found["conv1.weight"], source["conv1.weight"])
    assert found["fc.weight"].shape == (2, 512)


def test_an_unknown_architecture_is_refused_with_near_names():
    with pytest.raises(DataError, match=r"no classifier of that name; near it: .*resnet34"):
        build_model("resnet43", 2)
