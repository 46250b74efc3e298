"""Iterate loaders in processes that are killed, and in others that resume from the saved state.

    iterate.py SHARDS BACKEND FOLDER

Prints {case: {"undisturbed": digests, "killed": [signal, digests], "resumed": digests}} as JSON; a
digest is of a batch's pixels, labels and ids. Each loader runs in a fork of its own: this process
has imported everything and started no thread. A process that will be killed logs some batches,
saves its state, and waits for SIGKILL in the middle of an epoch, while its threads read ahead.
"""

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

import pipeline.loading.dali.loader  # noqa: F401 - so that every fork has it
from pipeline.loading.batch import Batch
from pipeline.loading.loader import make_loader
from pipeline.shards.dataset import open_shards

EPOCHS = 2
CASES = {  # rank, ranks, batches before the kill
    "rank 0 of 1, first batch": (0, 1, 1),
    "rank 0 of 1, second epoch": (0, 1, 11),
    "rank 0 of 2": (0, 2, 3),
    "rank 1 of 2": (1, 2, 6),
}


def digest(batch: Batch) -> str:
    found = hashlib.sha256(batch.images.contiguous().numpy().tobytes())
    found.update(batch.labels.numpy().tobytes())
    assert batch.lam is not None
    found.update(batch.lam.numpy().tobytes())
    found.update(" ".join(batch.image_ids).encode())
    return found.hexdigest()


def iterate(words: list[str], rank: int, ranks: int, folder: Path, die_after: int) -> None:
    """Log a line a batch to FOLDER/log and keep (epoch, next batch) in FOLDER/state."""
    loader = make_loader(
        open_shards(Path(words[0])).split("train"),
        phase="train",
        image_size=48,
        batch_size=8,
        rank=rank,
        world_size=ranks,
        device=torch.device("cpu"),
        threads=2,
        backend=words[1],  # type: ignore[arg-type]
        augment="strong",
        mixup=0.3,
        seed=5,
    )
    state = folder / "state"
    epoch, start = json.loads(state.read_text()) if state.exists() else (0, 0)
    with (folder / "log").open("a") as log:
        for number in range(epoch, EPOCHS):
            for place, batch in enumerate(loader.epoch(number, start), start):
                log.write(f"{digest(batch)}\n")
                log.flush()
                (folder / "next").write_text(json.dumps([number, place + 1]))
                (folder / "next").replace(state)
                die_after -= 1
                if die_after == 0:
                    (folder / "waiting").touch()
                    time.sleep(600)
            start = 0


def forked(*arguments) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            iterate(*arguments)
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        os._exit(code)
    return pid


def lines(folder: Path) -> list[str]:
    return (folder / "log").read_text().splitlines()


def case(words: list[str], folder: Path, rank: int, ranks: int, die_after: int) -> dict:
    calm, cut = folder / "calm", folder / "cut"
    calm.mkdir(parents=True)
    cut.mkdir()
    pid = forked(words, rank, ranks, calm, 0)
    assert os.waitpid(pid, 0)[1] == 0
    pid = forked(words, rank, ranks, cut, die_after)
    while not (cut / "waiting").exists():
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    killed = [-os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), lines(cut)]
    (cut / "log").unlink()
    pid = forked(words, rank, ranks, cut, 0)
    assert os.waitpid(pid, 0)[1] == 0
    return {"undisturbed": lines(calm), "killed": killed, "resumed": lines(cut)}


if __name__ == "__main__":
    found = {
        name: case(sys.argv[1:3], Path(sys.argv[3]) / str(number), *settings)
        for number, (name, settings) in enumerate(CASES.items())
    }
    print(json.dumps(found))
