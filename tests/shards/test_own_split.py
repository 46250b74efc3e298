"""A split of one's own: from the table or a file, refused where lesions or patients cross it."""

import csv
import json
from pathlib import Path

import pandas as pd
import pytest

from pipeline.errors import DataError
from pipeline.shards.dataset import open_shards
from pipeline.shards.verify import verify

PARTS = ("train", "train", "train", "valid", "Test", "")


def own(root: Path, images: Path, **columns: list[str]) -> Path:
    """The images of ``images`` with a table of two lesions a patient and the ``columns``."""
    files = sorted(images.glob("*/*.jpg"))
    root.mkdir()
    for path in files:
        (root / path.name).symlink_to(path)
    table = pd.DataFrame({"image_id": [path.stem for path in files]})
    table["dx"] = [("nv", "mel", "bkl")[n % 3] for n in range(len(files))]
    table["lesion_id"] = [f"L{n // 2}" for n in range(len(files))]
    table["patient_id"] = [f"P{n // 4}" for n in range(len(files))]
    table.assign(**columns).to_csv(root / "mine.csv", index=False)
    return root


def by_patient(images: int, parts=PARTS) -> list[str]:
    return [parts[n // 4 % len(parts)] for n in range(images)]


def test_a_column_split_is_kept_and_images_without_one_are_listed(
    tmp_path, shared_source, build, capsys
):
    source = own(tmp_path / "own", shared_source, split=by_patient(60))
    shards = open_shards(build(source))
    expected = {"train": "train", "valid": "val", "Test": "test"}
    number = shards.samples["image_id"].str.removeprefix("ISIC_").astype(int)
    words = [expected[PARTS[n // 4 % 6]] for n in number]
    assert shards.samples["split"].tolist() == words and len(words) == 52
    left_out = pd.read_csv(shards.root / "left_out.csv")
    assert len(left_out) == 8 and left_out["reason"].str.contains("no split").all()
    assert shards.manifest.split["by"] == "table"
    assert "8 images are left out" in capsys.readouterr().err
    assert not verify(shards.root, progress=False).problems


def test_a_file_of_splits_replaces_the_column_and_may_name_images_by_file_and_lack_val(
    tmp_path, shared_source, build, capsys
):
    source = own(tmp_path / "own", shared_source, split=["train"] * 60)
    splits = tmp_path / "published.csv"
    lines = [f"ISIC_{n:07d}.jpg,{'testing' if n < 20 else 'training'}" for n in range(60)]
    splits.write_text("\n".join(["Image Name,Split", *lines, "ISIC_9999999.jpg,test", ""]))
    shards = open_shards(build(source, splits=splits))
    table = shards.samples.set_index("image_id")
    assert sorted(table.index[table["split"] == "test"]) == [f"ISIC_{n:07d}" for n in range(20)]
    assert 6 <= shards.manifest.counts["val"] <= 12
    assert table.groupby("group")["split"].nunique().max() == 1
    said = capsys.readouterr().err
    assert f"1 images of {splits} are not in the source" in said
    assert "no image is in val: 20% of train are" in said


def test_what_crosses_is_named_and_refused_then_packed_and_said_everywhere(
    tmp_path, shared_source, build, capsys, command
):
    parts = by_patient(60, ("train", "val", "test"))
    parts[1] = "test"  # lesion L0 of patient P0
    parts[6:8] = ["train", "train"]  # lesion L3, the second of patient P1
    source = own(tmp_path / "own", shared_source, split=parts)
    with pytest.raises(DataError, match=r"1 lesions \(L0\); 2 patients \(P0, P1\)") as refused:
        build(source)
    assert "--allow-crossing" in str(refused.value)
    assert not (tmp_path / "out" / "manifest.json").exists()

    root = build(source, allow_crossing=True)
    assert "LEAKS" in capsys.readouterr().err
    stated = json.loads((root / "manifest.json").read_text())["split"]["crossing"]
    assert (stated["lesions"], stated["patients"]) == (["L0"], ["P0", "P1"])
    done = command("-m", "pipeline.shards", "verify", root)
    assert done.returncode == 0 and "1 lesions (L0); 2 patients (P0, P1)" in done.stdout
    assert "no lesion" not in done.stdout


def test_pairs_of_one_lesion_that_cross_are_named(tmp_path, shared_source, build):
    source = own(tmp_path / "own", shared_source, split=by_patient(60, ("train", "val", "test")))
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("image_id_a,image_id_b,score\nISIC_0000000,ISIC_0000004,1\n")
    with pytest.raises(DataError, match=r"parts: 1 pairs \(ISIC_0000000 and ISIC_0000004\)"):
        build(source, duplicates=pairs)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image_id,part\nISIC_0000001,train\n", "lacks the column split"),
        ("image_id,split\nISIC_0000001,fold 1\n", "line 2: split is 'fold 1'"),
        ("image_id,split\nISIC_0000001,train\nISIC_0000001,test\n", "each id in one split"),
        ("image_id,split\nother,train\n", "no image of the source a split"),
    ],
)
def test_unusable_splits_are_refused_with_the_reason(shared_source, build, tmp_path, text, words):
    path = tmp_path / "splits.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        build(shared_source, splits=path)


def test_a_set_to_be_judged_on_is_the_test_split_whatever_its_table_says(
    tmp_path, shared_source, build
):
    source = own(tmp_path / "own", shared_source, split=["train"] * 59 + ["fold 1"])
    assert open_shards(build(source, test_fraction=1)).manifest.counts["test"] == 60


def test_flags_that_make_splits_are_refused_beside_splits_of_ones_own(
    shared_source, build, tmp_path
):
    path = tmp_path / "splits.csv"
    with pytest.raises(DataError, match="no such file"):
        build(shared_source, splits=path)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("image_id", "split"), ("ISIC_0000001", "train")])
    for flags in ({"folds": 3}, {"test_fraction": 0.1}, {"split_by": "image"}):
        with pytest.raises(DataError, match="makes the splits: leave"):
            build(shared_source, splits=path, **flags)
