"""Duplicates: photographs of one made-up lesion under two ids are found, and others are not."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from pipeline.cli import guard
from pipeline.duplicates import find as duplicates
from pipeline.duplicates.features import extract, neighbours
from pipeline.duplicates.match import best_similarity, compare
from pipeline.errors import DataError
from pipeline.ham10000.images import ImageStore
from pipeline.ham10000.synthetic import synthesize
from pipeline.shards.splits import read_pairs

LANDMARKS = (300, 225)


@pytest.fixture(scope="module")
def split_lesions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[frozenset[str]]]:
    """A source whose every image has a lesion_id of its own, and the pairs that this hides."""
    source = tmp_path_factory.mktemp("duplicates") / "source"
    synthesize(source, images=60, seed=1)
    path = source / "HAM10000_metadata.csv"
    table = pd.read_csv(path)
    hidden = {
        frozenset((a, b))
        for _, rows in table.groupby("lesion_id")
        for a in rows["image_id"]
        for b in rows["image_id"]
        if a < b
    }
    table["lesion_id"] = [f"HAM_{n:07d}" for n in range(len(table))]
    table.to_csv(path, index=False)
    return source, hidden


def test_hidden_pairs_are_found_and_few_others(
    split_lesions: tuple[Path, set[frozenset[str]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(duplicates, "SAMPLE", 5000)  # words learnt in a second, not in ten
    source, hidden = split_lesions
    out = tmp_path / "pairs.csv"
    words = ["--source", str(source), "--out", str(out), "--workers", "2"]
    duplicates.main(words)
    table = pd.read_csv(out)
    found = {frozenset(pair) for pair in zip(table["image_id_a"], table["image_id_b"], strict=True)}
    assert len(hidden) >= 10
    assert len(found & hidden) >= 0.6 * len(hidden)
    assert len(found - hidden) <= 0.1 * len(hidden)
    assert list(table["score"]) == sorted(table["score"], reverse=True)
    assert read_pairs(out, set(table["image_id_a"]) | set(table["image_id_b"]))
    sheet = cv2.imread(str(tmp_path / "pairs.png"))
    assert sheet is not None and sheet.shape[1] > 1000
    first = out.read_bytes()
    duplicates.main(words)
    assert out.read_bytes() == first


def test_a_turned_and_zoomed_photograph_is_recognised_and_another_lesion_is_not(
    split_lesions: tuple[Path, set[frozenset[str]]],
) -> None:
    images = ImageStore(split_lesions[0])
    first, other = sorted(images.ids())[:2]
    pixels = cv2.imdecode(np.frombuffer(images.read(first), np.uint8), cv2.IMREAD_COLOR)
    turn = cv2.getRotationMatrix2D((150, 112), 130, 1.15)
    turned = cv2.warpAffine(pixels, turn, LANDMARKS, borderMode=cv2.BORDER_REFLECT)
    darker = cv2.convertScaleAbs(turned, alpha=0.8, beta=10)
    jpeg = cv2.imencode(".jpg", darker, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()
    same = compare(extract(images.read(first), "first"), extract(jpeg, "turned"))
    assert same.inliers >= 10 and same.correlation > 0.9
    different = compare(extract(images.read(first), "first"), extract(images.read(other), "o"))
    assert different.inliers < 10 or different.correlation < 0.6


def test_the_similarity_most_matches_agree_on_is_found_among_wrong_ones() -> None:
    rng = np.random.default_rng(0)
    a = rng.uniform(0, 300, 40) + 1j * rng.uniform(0, 225, 40)
    b = (0.9 * np.exp(0.7j)) * a + (30 - 12j)
    b[15:] = rng.uniform(0, 300, 25) + 1j * rng.uniform(0, 225, 25)
    (turn, shift), agree = best_similarity(a, b)
    assert abs(turn - 0.9 * np.exp(0.7j)) < 1e-6 and abs(shift - (30 - 12j)) < 1e-4
    assert agree[:15].all() and agree.sum() <= 17


def test_neighbours_are_those_of_a_full_sort() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((700, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    distance = ((vectors[:, None] - vectors[None]) ** 2).sum(2)
    np.fill_diagonal(distance, np.inf)
    nearest = np.argsort(distance, axis=1)[:, :3]
    expected = {tuple(sorted((i, int(j)))) for i in range(700) for j in nearest[i]}
    assert set(map(tuple, neighbours(vectors, 3).tolist())) == expected


def test_an_image_without_features_matches_nothing() -> None:
    blank = cv2.imencode(".png", np.full((225, 300, 3), 200, np.uint8))[1].tobytes()
    features = extract(blank, "blank")
    assert len(features.points) == 0
    assert compare(features, features).inliers == 0


def test_a_damaged_image_is_one_clear_message(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match=r"cannot decode here\.jpg"):
        extract(b"<html>", "here.jpg")
    with pytest.raises(SystemExit) as leaving:
        guard(lambda: duplicates.main(["--source", "/nonexistent/folder"]))
    assert leaving.value.code == 2
    assert "no such folder" in capsys.readouterr().err
