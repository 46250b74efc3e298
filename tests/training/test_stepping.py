"""Steps and looks wait for no GPU, and yet no loss that is not finite reaches a checkpoint."""

import json
from pathlib import Path

import pytest
import torch

from pipeline.training.pace import PendingLosses

STEPPING = Path(__file__).with_name("stepping.py")
CUDA = pytest.param("cuda", marks=pytest.mark.gpu)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("stepping")


@pytest.fixture(scope="module")
def stepping(command, packed, folder) -> dict:
    """What tests/training/stepping.py prints."""
    done = command(STEPPING, packed, folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def device(request) -> torch.device:
    """The device of that name, where there is one."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device(request.param)


def test_ten_steps_read_nothing_from_tensors_that_have_no_values(stepping):
    if torch.cuda.is_available():
        pytest.skip("a GPU itself is asked below")
    found = stepping["reads"]
    assert found["steps"] == 10 and "meta tensor" in found["error"]  # at the first look


@pytest.mark.gpu
def test_an_epoch_with_its_looks_makes_no_sync_that_torch_knows_of(stepping):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    found = stepping["reads"]
    assert found["steps"] == 50 and "synchroniz" in found["error"]  # by the read after the epoch
    assert found["points"] == [[16 * step, step] for step in (10, 20, 30, 40, 50)]


@pytest.mark.parametrize("device", ["cpu", CUDA], indirect=True)
def test_nan_is_told_before_a_checkpoint_is_written(device, stepping, folder):
    found = stepping["nan"]
    ids = ", ".join(f"image {number}" for number in range(24 * 8, 26 * 8))
    where = "at step 13, learning rate 4.67e-05"
    assert found["error"].startswith(f"the loss is nan {where}, with the images {ids}. ")
    assert found["steps"] == 20 and found["points"] == [[160, 10]]
    assert [path.name for path in (folder / "nan" / "checkpoints").iterdir()] == ["step-00000010"]


@pytest.mark.parametrize("device", ["cpu", CUDA], indirect=True)
def test_a_point_gets_the_mean_of_its_own_steps_on_a_gpu_one_look_later(device):
    losses, told = PendingLosses([]), []
    for look in range(3):
        for step in range(10 * look, 10 * look + 10):
            losses.add(step, 0.1, torch.tensor(float(step), device=device), [])
        losses.look(lambda mean, look=look: told.append((look, mean)))
        assert len(told) == look + (device.type == "cpu")
    losses.add(30, 0.1, torch.tensor(7.0, device=device), [])
    losses.drain()
    assert told == [(0, 4.5), (1, 14.5), (2, 24.5)] and losses.read_means == [7.0]
