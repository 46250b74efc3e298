"""The loader's and the training's benchmarks run, count what they were given, and say what is not.

Nothing here looks at how fast anything was.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import loader
from benchmarks.loader_contest import Player, Task
from pipeline.errors import DataError

SMALL = ["--images", "64", "--batch-size", "8", "--image-size", "48", "--workers", "1"]


@pytest.fixture(scope="module")
def contest(
    tmp_path_factory: pytest.TempPathFactory, synthetic_source: Path, command: Callable
) -> tuple[dict, Path, str]:
    """One round of three contestants, on made-up images."""
    out = tmp_path_factory.mktemp("bench")
    names = ["portable", "webdataset-opencv", "jpeg-decoding"]
    files = ["--json", out / "out.json", "--figure", out / "out.png", "--work", out / "work"]
    turns = ["--rounds", "1", "--seconds", "0.05", "--only", *names]
    source = ["--originals", synthetic_source]
    done = command("-m", "benchmarks.loader", *source, *SMALL, *turns, *files)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "out.json").read_text()), out, done.stdout


@pytest.mark.slow
def test_every_contestant_is_counted_at_every_task(contest: tuple[dict, Path, str]) -> None:
    figures, _, _ = contest
    found = {(row["contestant"], row["recipe"], row["source"]) for row in figures["rows"]}
    makers = {
        (name, recipe, source)
        for name in ("portable", "webdataset-opencv")
        for recipe in ("full", "crop")
        for source in ("packed", "originals")
    }
    assert found == makers | {("jpeg-decoding", "decode", s) for s in ("packed", "originals")}
    for row in figures["rows"]:
        assert row["images"] >= 8
        assert row["images_per_s"] > 0
        assert row["layout"] == ("" if row["recipe"] == "decode" else "channels-last")


@pytest.mark.slow
def test_what_did_not_run_is_named_with_a_reason(contest: tuple[dict, Path, str]) -> None:
    figures, _, said = contest
    assert set(figures["left_out"]) == set(loader.ABOUT) - {
        row["contestant"] for row in figures["rows"]
    }
    assert set(figures["left_out"].values()) == {"not among --only"}
    assert all(f"  {name}" in said for name in figures["left_out"])


@pytest.mark.slow
def test_both_sources_hold_the_images_asked_for(contest: tuple[dict, Path, str]) -> None:
    figures, out, _ = contest
    assert [source["images"] for source in figures["sources"]] == [64, 64]
    for name in ("packed", "originals"):
        assert len(list((out / "work" / f"files-{name}").rglob("*.jpg"))) == 64
    assert (out / "out.png").read_bytes()[:4] == b"\x89PNG"


def test_a_contestant_that_breaks_is_left_out_with_its_last_words(tmp_path: Path) -> None:
    player = Player([sys.executable, "-c", "raise SystemExit('no such codec')"], tmp_path / "log")
    task = Task("full", "packed", "", "", "", 48, 8, 1, 0.1)
    assert player.ask(task) == {"skipped": "failed: no such codec"}


def test_a_name_that_nobody_has_is_refused() -> None:
    with pytest.raises(DataError, match="no contestant 'ffvc'"):
        loader.Options(only=("ffvc",))


@pytest.mark.slow
def test_training_is_measured_with_and_without_the_loader(
    tmp_path: Path, packed: Path, command: Callable
) -> None:
    flags = ["--sizes", "32", "--batch-size", "4", "--arch", "resnet18", "--threads", "1"]
    turns = ["--pairs", "2", "--seconds", "0.05", "--json", tmp_path / "out.json"]
    done = command("-m", "benchmarks.training", "--shards", packed, *flags, *turns)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert row["image_size"] == 32
    assert len(row["ratios"]) == 2
    assert min(row["cached"], row["loaded"], row["loader_alone"]) > 0
