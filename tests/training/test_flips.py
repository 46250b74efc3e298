"""A flipped bit anywhere in RUN is named before it is used, or changes nothing."""

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.errors import DataError
from pipeline.learning.stored_model import load_stored
from pipeline.tracking.tracker import run_id
from pipeline.training.checkpoints import read_checkpoint

pytestmark = pytest.mark.slow

FLIPS = 400
KEPT = ("history.csv", "best/model.safetensors", "best/model.json", "best/training_samples.csv")


@pytest.fixture(scope="module")
def flags(tiny):
    return [*tiny, "--epochs", "3", "--checkpoint-steps", "5", "--keep-checkpoints", "3"]


@pytest.fixture(scope="module")
def undisturbed(train, flags, tmp_path_factory):
    run = tmp_path_factory.mktemp("calm") / "run"
    assert train(*flags, "--run-dir", run).codes == [0]
    return run


@pytest.fixture(scope="module")
def killed(train, flags, tmp_path_factory):
    """A run that was killed in the middle of the last epoch."""
    run = tmp_path_factory.mktemp("killed") / "run"
    assert train(*flags, "--run-dir", run, die=[0, "step", "33"]).codes == [-9]
    run_id(run)  # as a tracked run has it
    return run


def files_of(run: Path) -> list[Path]:
    """The files that a start may read: all but those of trackers; each once."""
    found = [path for path in run.rglob("*") if path.is_file() and not path.is_symlink()]
    return sorted(path for path in found if "best" not in path.relative_to(run).parts)


def flip(path: Path, draw: random.Random) -> str:
    """Flip one bit of a file; return which."""
    data = bytearray(path.read_bytes())
    place, bit = draw.randrange(len(data)), draw.randrange(8)
    text = f"{path}, bit {bit} of byte {place}, {data[place : place + 1]!r}"
    data[place] ^= 1 << bit
    path.write_bytes(data)
    return text


@contextmanager
def flipped(path: Path, draw: random.Random) -> Iterator[str]:
    """Flip one bit for the block."""
    data = path.read_bytes()
    yield flip(path, draw)
    path.write_bytes(data)


def stored(folder: Path) -> tuple:
    """What is made of a stored model."""
    model, card, samples = load_stored(folder)
    weights = {name: value.numpy().tobytes() for name, value in model.state_dict().items()}
    return weights, card, samples.to_csv()


def openers(path: Path) -> list[Callable[[Path], object]]:
    """The functions that open what a file belongs to, each of which takes the file's folder."""
    if path.name == "wandb_id.txt":
        return [run_id]
    model = [] if path.name in ("checkpoint.json", "state.pt") else [stored]
    return [read_checkpoint, *model] if path.parent.parent.name == "checkpoints" else model


def test_each_of_400_flips_is_refused_when_opened_or_what_is_read_is_the_same(killed):
    draw, refused = random.Random(0), 0
    paths = [p for p in files_of(killed) if p.parent != killed] + [killed / "wandb_id.txt"]
    whole = {(open_it, p.parent): open_it(p.parent) for p in paths for open_it in openers(p)}
    for number in range(FLIPS):
        path = paths[number % len(paths)]
        with flipped(path, draw) as what:
            for open_it in openers(path):
                try:
                    same = open_it(path.parent) == whole[open_it, path.parent]
                    assert same and path.suffix == ".json", what  # its layout is free
                except DataError as error:
                    assert path.name in str(error), what
                    refused += 1
    assert refused > FLIPS


@pytest.mark.parametrize("which", ["killed", "undisturbed"])
def test_a_start_with_a_flipped_bit_ends_with_the_same_bytes_or_has_said_so_at_once(
    which, request, train, flags, undisturbed, tmp_path
):
    run, draw, named = request.getfixturevalue(which), random.Random(1), 0
    for number, path in enumerate(files_of(run)):
        copy = tmp_path / str(number)
        shutil.copytree(run, copy, symlinks=True)
        what = flip(copy / path.relative_to(run), draw)
        outcome = train(*flags, "--run-dir", copy)
        told = "damaged" in outcome.text.partition("\nepoch ")[0]
        named += told
        same = all((copy / name).read_bytes() == (undisturbed / name).read_bytes() for name in KEPT)
        assert same or (outcome.codes == [2] and told), (what, outcome.text)
        shutil.rmtree(copy)
    assert named >= 3
