"""Undecodable samples, lost shards, exhausted memory: errors that name the place, with advice."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.cli import guard
from pipeline.errors import DataError
from pipeline.loading.portable import decode_rgb
from pipeline.out_of_memory import out_of_memory
from pipeline.shards.dataset import Split, open_shards
from pipeline.shards.intact import ensure_intact

ROOT = Path(__file__).resolve().parents[2]
ACCELERATE = str(Path(sys.executable).with_name("accelerate"))

BACKENDS = ("dali", "portable")

backends = pytest.mark.parametrize("backend", BACKENDS)


def half(jpeg: bytes) -> bytes:
    return jpeg[: len(jpeg) // 2] + bytes(len(jpeg) - len(jpeg) // 2)


def zeros(jpeg: bytes) -> bytes:
    return bytes(len(jpeg))


def spoil(split: Split, sample: int, how=zeros) -> str:
    """Spoil a sample in its tar, size and mtime kept; return its place as a message names it."""
    where = split.locations()
    tar, start = split.tars[where.shard[sample]], int(where.offset[sample])
    before, data = tar.stat(), bytearray(tar.read_bytes())
    stop = start + int(where.size[sample])
    data[start:stop] = how(bytes(data[start:stop]))
    tar.write_bytes(data)
    os.utime(tar, ns=(before.st_atime_ns, before.st_mtime_ns))
    return f"{split.samples['image_id'][sample]} in {tar} at byte {start}"


@pytest.fixture
def copied(packed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "shards"))


@backends
@pytest.mark.parametrize("phase", ["train", "eval"])
@pytest.mark.parametrize("how", [zeros, half])
def test_a_sample_that_cannot_be_decoded_is_named(
    loader, copied: Path, backend: str, phase: str, how
) -> None:
    split = open_shards(copied).split("train")
    place = spoil(split, 33, how)
    with pytest.raises(DataError) as caught:
        list(loader(split=split, phase=phase, backend=backend, image_size=32).epoch(0))
    assert f"cannot decode {place}" in str(caught.value)
    assert "pipeline.shards verify" in str(caught.value)


def flip(jpeg: bytes, *, decodes: bool) -> bytes:
    """Flip a bit of the entropy-coded data; a decoder that is strict takes it or refuses it."""
    for at in range(jpeg.rindex(b"\xff\xda") + 20, len(jpeg) - 2):
        changed = jpeg[:at] + bytes([jpeg[at] ^ 1]) + jpeg[at + 1 :]
        try:
            taken = not np.array_equal(decode_rgb(changed), decode_rgb(jpeg))
        except ValueError:
            taken = False
        if taken is decodes:
            return changed
    raise AssertionError("no such bit")


@pytest.mark.parametrize("decodes", [True, False], ids=["decodes", "does not decode"])
@pytest.mark.parametrize(
    ("backend", "device"),
    [
        *(("portable", "cpu"), ("dali", "cpu")),
        pytest.param("dali", "cuda:0", marks=pytest.mark.gpu),
    ],
)
def test_a_byte_that_changes_after_the_check_is_named_whatever_a_decoder_makes_of_it(
    loader, copied: Path, tmp_path: Path, monkeypatch, backend: str, device: str, decodes: bool
) -> None:
    if device != "cpu" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shards, where = open_shards(copied), torch.device(device)
    ensure_intact(shards, ["train"], progress=False)
    split = shards.split("train")
    flags = {"split": split, "backend": backend, "image_size": 32, "device": where}
    assert sum(map(len, loader(**flags, phase="eval").epoch(0))) == len(split)
    place = spoil(split, 33, lambda jpeg: flip(jpeg, decodes=decodes))
    for phase in ("train", "eval"):
        with pytest.raises(DataError) as caught:
            list(loader(**flags, phase=phase).epoch(0))
        assert f"cannot decode {place}" in str(caught.value)
        assert "other bytes than were verified" in str(caught.value)


@backends
def test_a_rank_without_the_damaged_sample_is_not_disturbed(
    loader, copied: Path, backend: str
) -> None:
    split = open_shards(copied).split("train")
    place = spoil(split, 33)
    flags = {"split": split, "phase": "eval", "backend": backend, "image_size": 32}
    ranks = [loader(**flags, batch_size=8, rank=rank, world_size=2) for rank in range(2)]
    assert sum(map(len, ranks[1].epoch(0))) == 39  # sample 33 is in batch 4, rank 0's
    with pytest.raises(DataError, match="cannot decode") as caught:
        list(ranks[0].epoch(0))
    assert place in str(caught.value)


@backends
def test_a_loader_can_be_used_after_an_error(loader, copied: Path, backend: str) -> None:
    split = open_shards(copied).split("train")
    healthy = split.tars[1].read_bytes()
    spoil(split, 33)
    used = loader(split=split, phase="eval", backend=backend, image_size=32)
    with pytest.raises(DataError):
        list(used.epoch(0))
    split.tars[1].write_bytes(healthy)
    assert sum(map(len, used.epoch(0))) == len(split)


def remove(tar: Path) -> None:
    tar.unlink()


def cut(tar: Path) -> None:
    tar.write_bytes(tar.read_bytes()[:5000])


@backends
@pytest.mark.parametrize(
    ("loss", "said"), [(remove, "was the folder moved"), (cut, "the shard ends early")]
)
def test_a_shard_that_is_lost_in_the_middle_of_an_epoch_gives_advice(
    loader, copied: Path, backend: str, loss, said: str
) -> None:
    split = open_shards(copied).split("train")
    batches = loader(split=split, phase="eval", backend=backend, batch_size=4).epoch(0)
    next(batches)
    loss(split.tars[-1])  # some ten batches on, so no thread has opened it yet
    with pytest.raises(DataError, match=said) as caught:
        list(batches)
    assert str(split.tars[-1]) in str(caught.value)


@backends
def test_no_more_than_64_shards_are_open_at_a_time(loader, split_of, jpeg_of, backend: str) -> None:
    """Descriptors are few (`ulimit -n` may be 256), while a split can have thousands of shards."""
    split = split_of([jpeg_of(np.full((12, 16, 3), 90, dtype=np.uint8))] * 80, per_shard=1)
    flags = {"split": split, "phase": "eval", "backend": backend, "image_size": 8}
    most, tars = 0, {str(tar.resolve()) for tar in split.tars}
    for _ in loader(**flags, batch_size=4).epoch(0):
        open_files = [os.path.realpath(each) for each in Path("/proc/self/fd").iterdir()]
        most = max(most, sum(path in tars for path in open_files))
    assert 60 <= most <= 64 + 4  # and as many as threads that are reading


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.parametrize("backend", ["dali", pytest.param("portable", marks=pytest.mark.slow)])
def test_one_damaged_sample_ends_a_launched_training_on_all_ranks(
    packed: Path, tmp_path: Path, backend: str
) -> None:
    """The shards are damaged after the check of every byte, which remembers sizes and times."""
    root = Path(shutil.copytree(packed, tmp_path / "shards"))
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", cache["XDG_CACHE_HOME"])
        ensure_intact(open_shards(root), ["train", "val"], progress=False)
    place = spoil(open_shards(root).split("train"), 33)
    words = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--main_process_port"]
    tiny = ["--arch", "shufflenet_v2_x0_5", "--weights", "none", "--image-size", "32"]
    tiny += ["--epochs", "50", "--batch-size", "6", "--tracker", "none", "--shards", str(root)]
    tiny += ["--backend", backend, "--run-dir", str(tmp_path / "run")]
    launch = subprocess.Popen(
        [ACCELERATE, "launch", *words, free_port(), "train.py", *tiny],
        cwd=ROOT,
        env={**os.environ, **cache},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    text, _ = launch.communicate(timeout=200)  # 50 epochs would take longer, a hang for ever
    assert launch.returncode != 0
    assert text.count(f"error: cannot decode {place}") == 1, text
    assert not ranks_of(launch.pid)


def ranks_of(launcher: int) -> list[str]:
    """Processes of the launch that are still there."""
    return [
        status.parent.name
        for status in Path("/proc").glob("[0-9]*/status")
        if f"\nPPid:\t{launcher}\n" in status.read_text()
    ]


def test_loaders_keep_nothing_in_shared_memory(loader) -> None:
    for backend in BACKENDS:
        batches = loader(backend=backend).epoch(0)
        next(batches)
        lines = Path("/proc/self/maps").read_text().splitlines()
        lines += [str(each.resolve()) for each in Path("/proc/self/fd").iterdir()]
        # a semaphore is 32 bytes, and the test runner's
        assert not [line for line in lines if "/dev/shm" in line and "/dev/shm/sem." not in line]


# Messages of the libraries: torch, DALI (libdali_core.so), CUDA, NCCL.
MESSAGES = [
    ("GPU memory", torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")),
    ("GPU memory", RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be ...")),
    ("GPU memory", RuntimeError("Error in MIXED operator:\nCUDA allocation failed")),
    ("GPU memory", RuntimeError("Can't allocate 1048576 bytes on device 0.")),
    ("GPU memory", RuntimeError("CUDA driver API error CUDA_ERROR_OUT_OF_MEMORY (2)")),
    ("page-locked memory", RuntimeError("Can't allocate 1048576 bytes on host.")),
    ("shared memory", RuntimeError("unable to allocate shared memory(shm) for file </torch_1>")),
    (
        "shared memory",
        RuntimeError(
            "ncclSystemError: System call failed\nLast error:\nError while creating shared memory "
            "segment /dev/shm/nccl-Xq2 (size 9637888), error: No space left on device (28)"
        ),
    ),
    ("main memory", RuntimeError("std::bad_alloc")),
    ("main memory", MemoryError()),
]


@pytest.mark.parametrize(("kind", "error"), MESSAGES)
def test_each_kind_of_memory_gives_its_own_advice(kind: str, error: Exception, capsys) -> None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        guard(main)
    said = capsys.readouterr().err
    assert caught.value.code == 2
    assert said.startswith(f"error: out of {kind}")
    assert "--" in said  # a flag that helps
    assert said.count("\n") == 1


def allocated_by_torch() -> object:
    return torch.empty(10**15)


def allocated_by_numpy() -> object:
    return np.empty(10**16)


@pytest.mark.parametrize("allocate", [allocated_by_torch, allocated_by_numpy])
def test_main_memory_that_really_runs_out_is_recognised(allocate) -> None:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        allocate()
    explained = out_of_memory(caught.value)
    assert isinstance(explained, DataError)
    assert "out of main memory" in str(explained)


@pytest.mark.parametrize(
    "words",
    [
        "CUDA runtime API error cudaErrorIllegalAddress (700): an illegal memory access was ...",
        "Output must be contiguous in memory",
        "memory size or pointer value too large to fit in 32 bit",
    ],
)
def test_errors_that_only_mention_memory_are_left_alone(words: str) -> None:
    error = RuntimeError(words)
    assert out_of_memory(error) is error
    with pytest.raises(RuntimeError, match=words.split()[0]):
        guard(lambda: (_ for _ in ()).throw(error))


@pytest.mark.parametrize("phase", ["train", "eval"])
def test_memory_that_dali_cannot_allocate_gives_advice(loader, phase: str) -> None:
    too_large = loader(backend="dali", phase=phase, batch_size=2, image_size=2**23)  # 200 TB each
    with pytest.raises(DataError, match=r"out of main memory: .*--batch-size") as caught:
        next(too_large.epoch(0))
    assert "bad_alloc" in str(caught.value.__cause__)


@pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")
def test_other_errors_of_dali_keep_their_words_and_name_the_images(loader, train_split) -> None:
    no_pixels = loader(backend="dali", batch_size=len(train_split), image_size=0)
    with pytest.raises(RuntimeError, match="Output size must be positive") as caught:
        next(no_pixels.epoch(0))
    assert not isinstance(caught.value, DataError)
    assert all(image_id in str(caught.value) for image_id in train_split.samples["image_id"])
    assert "fn.warp_affine" in str(caught.value.__cause__)
