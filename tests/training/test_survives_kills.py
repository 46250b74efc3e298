"""SIGKILL at any moment: the same command again ends with the same bytes."""

import csv
import random
from pathlib import Path

import pytest

KEPT = ("history.csv", "best/model.safetensors", "best/model.json", "best/training_samples.csv")


def what_stays(run: Path) -> dict[str, bytes]:
    """Bytes of everything that a rerun must reproduce, the last checkpoint's weights included."""
    last = max((run / "checkpoints").glob("step-*"))
    weights = {f"{last.name}/weights": (last / "model.safetensors").read_bytes()}
    return weights | {name: (run / name).read_bytes() for name in KEPT}


LAST_STEP = {1: 39, 2: 18}
"""Steps of the tiny training, by number of ranks."""

WRITES = (("sync", "/state.pt"), ("sync", "/model.safetensors"), ("sync", ""), ("rename", ""))
"""Moments of writing a checkpoint."""


@pytest.fixture(scope="module")
def undisturbed(train, tiny, tmp_path_factory):
    """What a training without kills leaves, by number of ranks."""
    done: dict[int, dict[str, bytes]] = {}

    def get(ranks: int) -> dict[str, bytes]:
        if ranks not in done:
            run = tmp_path_factory.mktemp("calm") / "run"
            outcome = train(*tiny, "--run-dir", run, ranks=ranks)
            assert outcome.codes == [0] * ranks, outcome.text
            done[ranks] = what_stays(run)
        return done[ranks]

    return get


def random_deaths(kills: int, ranks: int, seed: int) -> list[list]:
    """Where to die in turn: [rank, moment, pattern], at rising steps; rank 0 alone writes files."""
    draw = random.Random(seed)
    steps = sorted(draw.sample(range(2, LAST_STEP[ranks] + 1), kills - 2))
    deaths: list[list] = []
    for number, step in enumerate(steps):
        if number % 2:
            moment, file = draw.choice(WRITES)
            deaths.append([0, moment, f"*/step-{step:08d}{file}"])
        else:
            deaths.append([draw.randrange(ranks), "step", str(step)])
    return [*deaths, [draw.randrange(ranks), "validation", "0"], [0, "rename", "*/history.csv"]]


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("kills", [5, pytest.param(12, marks=pytest.mark.slow)])
def test_killed_training_resumes_to_the_same_bytes(
    train, tiny, tmp_path, undisturbed, kills, ranks
):
    flags = [*tiny, "--run-dir", tmp_path, "--checkpoint-steps", "1"]
    for death in random_deaths(kills, ranks, seed=kills + ranks):
        outcome = train(*flags, ranks=ranks, die=death)
        assert outcome.codes[death[0]] == -9, (death, outcome.text)
    outcome = train(*flags, ranks=ranks)
    assert outcome.codes == [0] * ranks, outcome.text
    assert what_stays(tmp_path) == undisturbed(ranks)
    assert not list(tmp_path.rglob(".*.partial"))


@pytest.mark.parametrize("ranks", [1, 2])
def test_average_of_the_weights_follows_the_network_on_every_launch(undisturbed, ranks):
    rows = list(csv.DictReader(undisturbed(ranks)["history.csv"].decode().splitlines()))
    assert len(rows) == 3
    assert len({row["val_loss"] for row in rows}) == 3  # what is validated is the average
