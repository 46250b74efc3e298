"""Weights in the files that other programs write: taken, or refused in words; nothing executed."""

import argparse
import functools
import os
import pathlib
import re
import shutil
from collections import defaultdict

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from pipeline.errors import DataError
from pipeline.learning.model import build_model

ARCH = "shufflenet_v2_x0_5"


def network(outputs=2, seed=0):
    torch.manual_seed(seed)
    return torchvision.models.get_model(ARCH, num_classes=outputs)


PLAIN = network().state_dict()
OTHER = network(seed=1).state_dict()


def under(prefix, state=PLAIN):
    return {prefix + name: value for name, value in state.items()}


class Lit(nn.Module):
    """A class that a reader of its pickle has not got."""

    def __init__(self):
        super().__init__()
        self.backbone = network()
        self.criterion = nn.CrossEntropyLoss(weight=torch.ones(2))


class CfgNode(dict):
    pass


FLAGS = argparse.Namespace(lr=0.1, output=pathlib.PurePosixPath("x"))
DONE = {"optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}, "epoch": 3}
AVERAGE = torch.optim.swa_utils.AveragedModel(network())

TAKEN = {
    "plain": PLAIN,
    "dataparallel": {"state_dict": under("module.")},
    "torchvision-reference": {"model": PLAIN, **DONE, "args": FLAGS},
    "torchvision-average": {"model": OTHER, "model_ema": AVERAGE.state_dict(), "args": FLAGS},
    "tutorial": {"model_state_dict": PLAIN, "optimizer_state_dict": DONE["optimizer"]},
    "lightning": {
        "state_dict": {**under("model."), "criterion.weight": torch.ones(5)},
        "hyper_parameters": {"optimizer": functools.partial(torch.optim.Adam, lr=0.1)},
    },
    "lightning-average": {"state_dict": {**under("net.", OTHER), **under("ema_net.module.")}},
    "compiled": under("_orig_mod."),
    "compiled-ddp": {"model": under("module._orig_mod.")},
    "compiled-inside": {"net": under("_orig_mod.backbone._orig_mod.")},
    "timm": {"state_dict": OTHER, "state_dict_ema": PLAIN, "args": FLAGS, "metric": 91.2},
    "nested": {"checkpoint": {"ema": {"model": PLAIN}}, "best": np.float64(0.9)},
    "config-classes": {"cfg": CfgNode(lr=1), "counts": defaultdict(int, a=1), "net": PLAIN},
    "whole-network": network(),
    "whole-lightning": {"module": Lit(), "epoch": 1},
    "half": {name: value.half() for name, value in PLAIN.items()},
    "parameters": dict(network().named_parameters()) | dict(network().named_buffers()),
    "head-in-a-sequential": {
        k.replace("fc.", "fc.1."): v for k, v in PLAIN.items() if not k.endswith("batches_tracked")
    },
}


def taken_from(path, tensor="conv5.0.weight", expected=PLAIN):
    """Load ``path``, check a tensor, and return the line of what was taken and the network."""
    lines = []
    model = build_model(ARCH, 2, weights=str(path), report=lines.append)
    torch.testing.assert_close(model.state_dict()[tensor], expected[tensor], rtol=1e-3, atol=1e-4)
    return lines[0], model.state_dict()


@pytest.mark.parametrize("kind", TAKEN)
def test_common_files_of_weights_are_taken_with_their_last_layer(kind, tmp_path):
    torch.save(TAKEN[kind], tmp_path / "w.pth")
    line, state = taken_from(tmp_path / "w.pth")
    assert "last layer, fc" in line and "new" not in line
    torch.testing.assert_close(state["fc.weight"], PLAIN["fc.weight"], rtol=1e-3, atol=1e-4)


def test_files_of_other_formats_and_names_are_taken(tmp_path):
    torch.save(
        {"model": PLAIN, "args": FLAGS}, tmp_path / "old", _use_new_zipfile_serialization=False
    )
    save_file(under("model."), tmp_path / "w.bin")
    (tmp_path / "only one").mkdir()
    torch.save(PLAIN, tmp_path / "only one" / "last.ckpt")
    (tmp_path / "RUN" / "best-step-00000003").mkdir(parents=True)
    save_file(PLAIN, tmp_path / "RUN" / "best-step-00000003" / "model.safetensors")
    for name in ("old", "w.bin", "only one", "RUN", "RUN/best", "RUN/best-step-00000003"):
        line, state = taken_from(tmp_path / name)
        assert "last layer, fc" in line and "new" not in line
        assert state.keys() == PLAIN.keys()


@pytest.mark.parametrize("outputs", [1, 7, 1000])
def test_a_last_layer_of_other_classes_stays_new_and_is_said(outputs, tmp_path):
    torch.save({"model": network(outputs).state_dict()}, tmp_path / "w.pth")
    line, _ = taken_from(tmp_path / "w.pth")
    assert "the last layer, fc, is new" in line


def test_what_the_network_lacks_is_left_out_and_named(tmp_path):
    state = {k: v for k, v in under("net.").items() if ".fc." not in k}
    torch.save(
        {**state, "net.projector.0.weight": torch.ones(3), "queue": torch.ones(9)}, tmp_path / "w"
    )
    line, _ = taken_from(tmp_path / "w")
    assert "net." in line and "is new" in line and "left out: projector" in line


def refused(path):
    with pytest.raises(DataError) as failure:
        build_model(ARCH, 2, weights=str(path))
    text = str(failure.value)
    assert str(path) in text and len(text) < 1500
    assert "weights_only" not in text and "safe_globals" not in text
    return text


def test_weights_of_another_network_are_refused_readably(tmp_path):
    bigger = torchvision.models.shufflenet_v2_x1_0(num_classes=2).state_dict()
    torch.save({"state_dict": under("module.", bigger)}, tmp_path / "bigger.pth")
    assert "size mismatch for" in refused(tmp_path / "bigger.pth")
    torch.save({**PLAIN, "stage2.9.weight": torch.ones(3)}, tmp_path / "more.pth")
    assert 'Unexpected key(s) in state_dict: "stage2.9.weight"' in refused(tmp_path / "more.pth")
    fewer = {k: v for k, v in PLAIN.items() if not k.startswith("stage3.1.")}
    torch.save(fewer, tmp_path / "fewer.pth")
    assert "Missing key(s)" in refused(tmp_path / "fewer.pth")
    torch.save({"a": {"b": torch.ones(3)}}, tmp_path / "none.pth")
    assert "expected, after a prefix, conv1.0.weight" in refused(tmp_path / "none.pth")


def test_files_that_hold_no_weights_are_refused_by_what_they_are(tmp_path):
    files = {
        "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        "page": (b"<!DOCTYPE html><html>", "a web page"),
        "empty": (b"", "cannot be read"),
        "noise": (b"\x80\x02\xff" * 40, "cannot be read"),
    }
    for name, (content, words) in files.items():
        (tmp_path / name).write_bytes(content)
        assert words in refused(tmp_path / name)
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "program.pt")
    assert "TorchScript" in refused(tmp_path / "program.pt")
    assert "no such file" in refused(tmp_path / "missing.pt")
    (tmp_path / "folder").mkdir()
    for name in ("a.pt", "b.pt"):
        torch.save(PLAIN, tmp_path / "folder" / name)
    assert "several files there (a.pt, b.pt)" in refused(tmp_path / "folder")


class Trap:
    """Copies a file when its pickle is executed."""

    def __init__(self, *words):
        self.words = words

    def __reduce__(self):
        return shutil.copy, self.words


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_file_is_executed(zipped, tmp_path):
    trap = Trap(__file__, str(tmp_path / "made"))
    for name, what in (("trap", trap), ("os", os.system)):
        content = {"model": PLAIN, "x": what}
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=zipped)
    taken_from(tmp_path / "trap")
    assert "blocked" in refused(tmp_path / "os")
    assert not (tmp_path / "made").exists()


def test_torchvisions_own_file_of_densenet_with_its_old_names_is_taken(tmp_path):
    state = torchvision.models.densenet121(num_classes=3).state_dict()
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", k): v for k, v in state.items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "w.pth")
    found = build_model("densenet121", 2, weights=str(tmp_path / "w.pth")).state_dict()
    name = "features.denseblock4.denselayer16.conv2.weight"
    torch.testing.assert_close(found[name], state[name])
