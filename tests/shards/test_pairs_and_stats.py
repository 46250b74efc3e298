import itertools

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.errors import DataError
from pipeline.ham10000.taxonomy import DX
from pipeline.shards.dataset import open_shards
from pipeline.shards.pairs import read_pairs
from pipeline.shards.stats import main as stats
from pipeline.shards.stats import tabulate
from pipeline.shards.verify import verify


def test_duplicates_are_joined_and_the_largest_component_is_told(
    shared_source, build, tmp_path, capsys
):
    table = open_shards(build(shared_source, "plain")).samples
    ends = table.groupby("split")["image_id"].first()
    middle = [ends["train"], ends["test"], ends["val"]]
    pairs = tmp_path / "duplicates.csv"
    lines = [f"{a},{b},0.9" for a, b in itertools.pairwise(middle)]
    pairs.write_text("\n".join(["image_id_a,image_id_b,score", *lines, ""]))
    out = build(shared_source, "joined", duplicates=pairs)
    assert "adds 2 pairs; the largest group has" in capsys.readouterr().err
    joined = open_shards(out).samples.set_index("image_id")
    assert joined.loc[middle, "split"].nunique() == joined.loc[middle, "group"].nunique() == 1
    assert not verify(out, progress=False).problems


def test_unusable_pairs_are_refused(tmp_path):
    path = tmp_path / "pairs.csv"
    with pytest.raises(DataError, match="no such file"):
        read_pairs(path, {"a"})
    path.write_text("image_id_a,image_id_b\na,b\n")
    with pytest.raises(DataError, match="lacks the column score"):
        read_pairs(path, {"a", "b"})
    path.write_text("image_id_a,image_id_b,score\na,z,1\n")
    with pytest.raises(DataError, match="line 2: the source has no image 'z'"):
        read_pairs(path, {"a", "b"})


def test_split_by_image_says_how_many_lesions_cross(shared_source, build, capsys):
    table = open_shards(build(shared_source, split_by="image")).samples
    crossing = int((table.groupby("group")["split"].nunique() > 1).sum())
    assert f"LEAKS: {crossing} lesions" in capsys.readouterr().err and crossing > 0
    assert set(table["split"]) == {"train", "val"}


def test_folds_give_each_image_to_validation_once(shared_source, build):
    shards = open_shards(build(shared_source, folds=4))
    held_out = [set(shards.split("val", fold).samples["image_id"]) for fold in range(4)]
    test = set(shards.split("test", 2).samples["image_id"])
    assert sum(map(len, held_out)) == len(set().union(*held_out)) == 60 - len(test)
    for fold, inside in enumerate(held_out):
        train = shards.split("train", fold)
        assert set(train.samples["image_id"]) == set().union(*held_out) - inside
        assert set(train.samples["split"]) == {"train"}
        names = list(train.samples["image_id"])
        where = train.locations()
        assert len(names) == len(where.size) and train.tars[-1].is_file()
    for fold in (None, 4, -1):
        with pytest.raises(DataError, match="4-fold"):
            shards.split("val", fold)


def test_wrong_splits_are_explained(shared_source, build):
    shards = open_shards(build(shared_source, test_fraction=0.0))
    with pytest.raises(DataError, match="no samples in split 'test'"):
        shards.split("test")
    with pytest.raises(DataError, match="no split 'valid'; there are train, val, test"):
        shards.split("valid")
    with pytest.raises(DataError, match="has no folds"):
        shards.split("val", 0)


def test_stats_count_what_the_table_says(shared_source, build):
    samples = open_shards(build(shared_source)).samples
    tables = tabulate(samples)
    for title, column in {"diagnosis": "dx", "sex": "sex", "site": "localization"}.items():
        for split, part in samples.groupby("split"):
            counts = part[column].value_counts().to_dict()
            shown = tables[title][split]
            assert shown[shown > 0].to_dict() == counts
    assert list(tables["diagnosis"].index) == list(DX)
    bands = tables["age"].sum(axis=1)
    assert bands["unknown"] == samples["age"].isna().sum()
    assert bands["20-29"] == samples["age"].between(20, 29.9).sum()
    assert bands.sum() == len(samples)
    assert tables["images and lesions"].loc["images"].sum() == 60


@pytest.mark.parametrize("folds", [0, 3])
def test_stats_are_printed_and_drawn(shared_source, build, capsys, folds):
    root = build(shared_source, folds=folds)
    stats([str(root)])
    assert "melanoma" not in capsys.readouterr().err
    picture = np.asarray(Image.open(root / "stats.png").convert("RGB"))
    assert picture.shape[0] > 600 and picture.std() > 10
    assert not verify(root, progress=False).problems
    with pytest.raises(DataError, match="cannot write"):
        stats([str(root), "--out", str(root / "nowhere" / "x.png")])


def test_official_test_set_is_the_test_split(shared_source, build, tmp_path):
    source = tmp_path / "both"
    source.mkdir()
    for name in ("HAM10000_metadata.csv", "HAM10000_images_part_1"):
        (source / name).symlink_to(shared_source / name)
    (source / "ISIC2018_Task3_Test_Images").mkdir()
    names = [f"ISIC_00345{n:02d}" for n in range(14)]
    jpeg = next(shared_source.glob("*/*.jpg")).read_bytes()
    for name in names:
        (source / "ISIC2018_Task3_Test_Images" / f"{name}.jpg").write_bytes(jpeg)
    rows = np.eye(7, dtype=int)[np.arange(14) % 7]
    truth = pd.DataFrame(rows, columns=["MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"])
    truth.insert(0, "image", names)
    truth.to_csv(source / "ISIC2018_Task3_Test_GroundTruth.csv", index=False)
    shards = open_shards(build(source))
    assert sorted(shards.split("test").samples["image_id"]) == names
    assert len(shards.split("train")) + len(shards.split("val")) == 60
    assert abs(len(shards.split("val")) - 12) <= 1
    with pytest.raises(DataError, match="official test set"):
        build(source, "other", test_fraction=0.2)
    (source / "HAM10000_metadata.csv").unlink()
    (source / "HAM10000_images_part_1").unlink()
    alone = open_shards(build(source, "alone"))
    assert alone.manifest.counts["test"] == 14 and alone.manifest.name == "isic2018"
    assert set(alone.samples["dx"]) == set(DX)
    assert not verify(alone.root, progress=False).problems


def test_own_images_are_packed_with_patients_whole(build, tmp_path, shared_source):
    source = tmp_path / "own"
    source.mkdir()
    images = sorted(shared_source.glob("*/*.jpg"))
    lines = ["image_id,label,patient_id"]
    for number, path in enumerate(images):
        (source / f"img-{number}.jpg").write_bytes(path.read_bytes())
        lines.append(f"img-{number}.jpg,{number % 2},p{number // 4}")
    (source / "mine.csv").write_text("\n".join(lines) + "\n")
    shards = open_shards(build(source))
    assert shards.manifest.labels == "binary" and shards.manifest.name == "images"
    number = shards.samples["image_id"].str.removeprefix("img-").astype(int)
    assert (shards.samples["label"] == number % 2).all()
    assert shards.samples.groupby(number // 4)["split"].nunique().max() == 1
    assert not verify(shards.root, progress=False).problems
