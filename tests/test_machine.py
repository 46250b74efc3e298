"""What is said of the machine: `python -m pipeline info`, and the facts that a run keeps."""

from importlib.metadata import version

import psutil
import pytest
import torch

from pipeline.machine import cores, hardware, jpeg_engines


def test_info_says_on_one_screen_what_decides_pixels_and_speed(command):
    done = command("-m", "pipeline", "info")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") <= 30
    rows = [line.partition("  ") for line in done.stdout.splitlines()]
    said = {name.strip(): value.strip() for name, _, value in rows}
    assert said["cores"] == str(cores()) and said["cpu"] not in ("", "-")
    assert float(said["memory_gib"]) == pytest.approx(psutil.virtual_memory().total / 2**30, abs=1)
    for package in ("torch", "nvidia-dali-cuda130"):
        assert said[package] == version(package)
    assert said["cuda of torch"] == torch.version.cuda and said["bf16"] in ("True", "False")
    assert said["dermpipe"] and said["driver"]
    if not torch.cuda.is_available():
        assert [said[name] for name in ("gpu", "gpus", "jpeg engines")] == ["-", "0", "0"]


def test_without_a_gpu_nvjpeg_is_asked_without_an_error(monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert jpeg_engines() is None
    monkeypatch.setattr("sys.path", [])  # where no wheel brings nvJPEG
    assert jpeg_engines() is None


@pytest.mark.gpu
def test_the_facts_of_a_gpu_are_those_of_torch():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    facts = hardware()
    assert facts["gpu"] == torch.cuda.get_device_name(0)
    assert facts["gpus"] == torch.cuda.device_count()
    total = torch.cuda.get_device_properties(0).total_memory / 2**30
    assert facts["gpu memory_gib"] == pytest.approx(total, abs=1)
    assert facts["bf16"] is (torch.cuda.get_device_capability(0) >= (8, 0))
    engines = facts["jpeg engines"]
    assert engines == jpeg_engines()  # each call opens nvJPEG and closes it
    has_some = any(name in facts["gpu"] for name in ("A100", "H100", "H200"))
    # None: a container that does not hand them on
    assert engines is None or (engines > 0 if has_some else engines >= 0)
