"""The synthetic dataset: HAM10000's layout and proportions, reproducible bytes, learnable."""

import csv
import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.errors import DataError
from pipeline.ham10000.synthetic.dataset import class_counts, looks_of, plan, synthesize
from pipeline.ham10000.taxonomy import HAM10000

HAM_COLUMNS = ["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "demo"
    synthesize(out, images=240, seed=3, size=(150, 112))
    return out


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "HAM10000_metadata.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_layout_is_that_of_ham10000(folder: Path) -> None:
    rows = rows_of(folder)
    assert list(rows[0]) == HAM_COLUMNS
    assert {path.name for path in folder.iterdir()} == {
        "HAM10000_images_part_1",
        "HAM10000_images_part_2",
        "HAM10000_metadata.csv",
    }
    files = list(folder.glob("HAM10000_images_part_[12]/ISIC_*.jpg"))
    assert len(rows) == len(files) == 240
    assert {row["image_id"] for row in rows} == {path.stem for path in files}
    with Image.open(files[0]) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (150, 112))


def test_photographs_of_one_lesion_share_its_row_and_differ_in_pixels(folder: Path) -> None:
    lesions: dict[str, list[dict[str, str]]] = {}
    for row in rows_of(folder):
        lesions.setdefault(row["lesion_id"], []).append(row)
    several = [rows for rows in lesions.values() if len(rows) > 1]
    assert len(several) >= 20
    for rows in several:
        assert len({tuple(v for k, v in row.items() if k != "image_id") for row in rows}) == 1
    contents = digest(folder)
    assert len(set(contents.values())) == len(contents)


def test_some_values_are_missing_as_in_the_real_table(folder: Path) -> None:
    rows = rows_of(folder)
    assert any(row["age"] == "" for row in rows)
    assert any(row["sex"] == "unknown" for row in rows)
    assert any(row["localization"] == "unknown" for row in rows)


@pytest.mark.parametrize("images", [7, 60, 120, 600, 10015])
def test_classes_have_ham10000s_proportions_and_none_is_empty(images: int) -> None:
    counts = class_counts(images, looks_of(HAM10000))
    assert sum(counts.values()) == images
    assert min(counts.values()) >= (6 if images >= 144 else 1)
    if images == 10015:
        assert counts == {
            "akiec": 327, "bcc": 514, "bkl": 1099, "df": 115, "mel": 1113, "nv": 6705, "vasc": 142,
        }  # fmt: skip
    assert Counter(plan(images, 0)["dx"]) == counts


def test_rare_classes_have_lesions_for_three_splits() -> None:
    for seed in range(20):
        lesions = plan(600, seed).groupby("dx")["lesion_id"].nunique()
        assert lesions.min() >= 4


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    folder: Path, tmp_path: Path
) -> None:
    synthesize(tmp_path / "again", images=240, seed=3, size=(150, 112))
    synthesize(tmp_path / "other", images=240, seed=4, size=(150, 112))
    assert digest(tmp_path / "again") == digest(folder)
    shared = set(digest(tmp_path / "other").values()) & set(digest(folder).values())
    assert not shared


def test_diagnoses_are_learnable_but_not_perfectly(tmp_path: Path) -> None:
    """Colour and brightness alone tell malignant from benign better than chance, not wholly."""
    synthesize(tmp_path / "demo", images=400, seed=5, size=(96, 72))
    features, labels, lesions = [], [], []
    for row in rows_of(tmp_path / "demo"):
        path = next((tmp_path / "demo").glob(f"*/{row['image_id']}.jpg"))
        with Image.open(path) as image:
            pixels = np.asarray(image, float).reshape(-1, 3)
        spread = np.percentile(pixels, [1, 5, 10, 25, 50, 75], axis=0)
        features.append(np.concatenate([(spread - spread[-2]).ravel(), pixels.std(0)]))
        labels.append(row["dx"] in ("mel", "bcc", "akiec"))
        lesions.append(int(row["lesion_id"][-3:]) % 2)
    x, y, half = np.array(features), np.array(labels), np.array(lesions) == 0
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    model.fit(x[half], y[half])
    score = roc_auc_score(y[~half], model.predict_proba(x[~half])[:, 1])
    assert 0.65 < score < 0.999


def test_a_filled_folder_is_refused_and_a_refusal_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep me")
    with pytest.raises(DataError, match="not empty"):
        synthesize(tmp_path / "full", images=10, seed=0)
    with pytest.raises(DataError, match="at least 7"):
        synthesize(tmp_path / "few", images=3, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
    assert (tmp_path / "full" / "mine.txt").read_text() == "keep me"
