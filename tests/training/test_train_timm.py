"""Networks of timm: from the first step to the report, with arguments of their constructors."""

import json

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import DataError
from pipeline.ham10000.taxonomy import HAM10000
from pipeline.learning.gradcam import decision_heat
from pipeline.learning.model import build_model, head_of
from pipeline.learning.probability import Outputs
from pipeline.learning.stored_model import load_stored

timm = pytest.importorskip("timm")

BINARY = Outputs("binary", HAM10000)

NETS = {
    "timm:test_resnet": ("drop_path_rate=0.1", "aa_layer=blurpool"),
    "timm:test_vit": ("img_size=32", "drop_path_rate=0.1"),
}


@pytest.mark.slow
@pytest.mark.parametrize("arch", NETS)
def test_a_net_of_timm_is_trained_resumed_explained_judged_and_exported(
    train, tiny, packed, command, tmp_path, arch
):
    run_dir, report, onnx = (tmp_path / name for name in ("run", "report", "model.onnx"))
    flags = [*tiny, "--arch", arch, "--arch-args", *NETS[arch], "--schedule", "constant"]
    first = train(*flags, "--epochs", 1, "--run-dir", run_dir)
    assert first.codes == [0], first.text
    again = train(*flags, "--epochs", 2, "--run-dir", run_dir)
    assert again.codes == [0], again.text
    assert "resuming from" in again.text
    straight = train(*flags, "--epochs", 2, "--run-dir", tmp_path / "straight")
    assert straight.codes == [0], straight.text
    for name in ("history.csv", "best/model.safetensors"):
        assert (run_dir / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()
    refused = train(
        *flags, "--arch-args", "drop_path_rate=0.2", "--epochs", 2, "--run-dir", run_dir
    )
    assert refused.codes == [2]
    assert "--arch-args" in refused.text

    card = json.loads((run_dir / "best" / "model.json").read_text())
    assert card["arch_args"]["drop_path_rate"] == 0.1
    assert json.loads((run_dir / "config.json").read_text())["flags"]["arch_args"] == [*NETS[arch]]
    model, _, _ = load_stored(run_dir)
    rates = [m.drop_prob for m in model.modules() if type(m).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(0.1)
    where = ("--checkpoint", run_dir / "best", "--shards", packed)
    done = command("eval.py", *where, "--out", report, "--resamples", "20", "--cases", "2")
    assert done.returncode == 0, done.stderr
    done = command("eval.py", "export", *where, "--onnx", onnx, "--images", "4")
    assert done.returncode == 0, done.stderr
    images = torch.randn(3, 3, 32, 32)
    (logits,) = onnxruntime.InferenceSession(onnx).run(["logits"], {"images": images.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(logits, model(images).numpy(), atol=1e-3)
    assert len(pd.read_csv(report / "predictions.csv")) > 5


def test_a_net_of_timm_is_built_with_its_arguments_and_explained():
    torch.manual_seed(0)
    for arch, words in NETS.items():
        given = {"aa_layer": "blurpool"} if "aa_layer=blurpool" in words else {"img_size": 32}
        model = build_model(arch, 2, dropout=0.1, arch_args=given).eval()
        kinds = {type(module).__name__ for module in model.modules()}
        assert ("BlurPool2d" in kinds) is ("aa_layer" in given)
        assert head_of(model).weight.shape[0] == 2
        heat = decision_heat(model, torch.randn(1, 3, 32, 32).repeat(2, 1, 1, 1), [1, 0], BINARY)
        assert heat.shape == (2, 32, 32)
        assert np.isfinite(heat).all()
        assert heat.max() <= 1


def test_a_transformers_map_lies_where_the_evidence_is():
    from pipeline.learning.gradcam import tokens_to_map

    grid = torch.arange(16.0).reshape(1, 4, 4)
    for prefix in (0, 1, 2, 5):  # class and register tokens come first
        tokens = torch.cat([torch.full((1, prefix), -1.0), grid.flatten(1)], 1)[..., None]
        torch.testing.assert_close(tokens_to_map(tokens)[:, 0], grid)


def test_timms_imagenet_weights_come_from_torchs_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / "test_resnet.r160_in1k.safetensors"
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with pytest.raises(DataError, match=r"Fetch https://\S+ on a machine with a network") as found:
        build_model("timm:test_resnet", 2, weights="imagenet")
    assert f"save it as {file}" in str(found.value)
    source = timm.create_model("test_resnet", num_classes=1000).state_dict()
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(source, file)
    state = build_model("timm:test_resnet", 2, weights="imagenet").state_dict()
    name = "layer1.0.conv1.weight"
    torch.testing.assert_close(state[name], source[name])
    assert state["fc.weight"].shape[0] == 2
    file.write_bytes(b"half")
    with pytest.raises(DataError, match="could not be fetched or read"):
        build_model("timm:test_resnet", 2, weights="imagenet")


@pytest.mark.parametrize(
    ("arch", "arch_args", "words"),
    [
        ("timm:resnet43", {}, r"near it: .*timm:resnet34"),
        ("timm:test_resnet", {"foo": 1}, r"--arch-args foo=1.*unexpected keyword argument"),
        ("resnet18", {"foo": 1}, r"--arch-args foo=1.*unexpected keyword argument"),
        ("timm:levit_128s", {}, "several last layers"),
        ("timm:test_resnet.nowhere", {}, "Invalid pretrained tag"),
    ],
)
def test_a_name_or_an_argument_that_cannot_be_is_one_message(arch, arch_args, words):
    with pytest.raises(DataError, match=words):
        build_model(arch, 2, arch_args=arch_args)
