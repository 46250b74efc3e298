"""What ``build`` does with lesions: duplicates, --split-by image, official test set, own images."""

import itertools
import shutil

import numpy as np
import pandas as pd
import pytest

from pipeline.errors import DataError
from pipeline.ham10000.known_duplicates import OFFICIAL_TEST_PAIRS
from pipeline.ham10000.taxonomy import HAM10000
from pipeline.shards.dataset import open_shards
from pipeline.shards.verify import verify


def test_duplicates_share_a_split_and_the_largest_group_is_reported(
    shared_source, shared_shards, build, tmp_path, capsys
):
    table = open_shards(shared_shards).samples
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


def test_split_by_image_reports_how_many_lesions_leak(shared_source, build, capsys):
    table = open_shards(build(shared_source, split_by="image")).samples
    crossing = int((table.groupby("group")["split"].nunique() > 1).sum())
    assert f"LEAKS: {crossing} lesions" in capsys.readouterr().err and crossing > 0
    assert set(table["split"]) == {"train", "val"}


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
    assert set(alone.samples["dx"]) == set(HAM10000.classes)
    assert not verify(alone.root, progress=False).problems


def test_known_pairs_of_the_official_test_set_join_its_lesions_and_leave_training_images_out(
    shared_source, build, tmp_path, command
):
    assert len(OFFICIAL_TEST_PAIRS) == 291
    inside = [pair for pair in OFFICIAL_TEST_PAIRS if min(pair) > "ISIC_0034323"][:8]
    across = next(
        pair for pair in OFFICIAL_TEST_PAIRS if pair not in inside and min(pair) < "ISIC_00343"
    )
    training, test = sorted(across)
    source = tmp_path / "both"
    shutil.copytree(shared_source, source)
    first = source / "HAM10000_images_part_1" / "ISIC_0000000.jpg"
    first.rename(first.with_name(f"{training}.jpg"))
    table = source / "HAM10000_metadata.csv"
    table.write_text(table.read_text().replace("ISIC_0000000", training))
    names = sorted({test, "ISIC_0035068", *(name for pair in inside for name in pair)})
    (source / "ISIC2018_Task3_Test_Images").mkdir()
    for name in names:
        data = (source / "HAM10000_images_part_1" / "ISIC_0000001.jpg").read_bytes()
        (source / "ISIC2018_Task3_Test_Images" / f"{name}.jpg").write_bytes(data)
    rows = np.eye(7, dtype=int)[np.arange(len(names)) % 7]
    truth = pd.DataFrame(rows, columns=["MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"])
    truth.insert(0, "image", names)
    truth.to_csv(source / "ISIC2018_Task3_Test_GroundTruth.csv", index=False)

    shards = open_shards(build(source))
    groups = shards.split("test").samples.set_index("image_id")["group"]
    assert all(groups[a] == groups[b] for a, b in inside)
    assert len(groups) == len(names) - 1 and training not in set(shards.samples["image_id"])
    reasons = pd.read_csv(shards.root / "left_out.csv", index_col="image_id")["reason"]
    assert "test set" in reasons[training] and "scorer" in reasons["ISIC_0035068"]
    done = command("-m", "pipeline.shards", "verify", shards.root)
    assert f"{len(groups)} images in {groups.nunique()} groups of one lesion" in done.stdout
    assert "1 training images of its lesions are left out" in done.stdout


def test_a_class_of_fewer_groups_than_splits_or_folds_is_said_before_packing(
    shared_source, build, tmp_path, capsys
):
    source = tmp_path / "own"
    shutil.copytree(shared_source, source)
    table = pd.read_csv(source / "HAM10000_metadata.csv")
    table["dx"] = table["dx"].where(table["dx"] != "vasc", "nv")
    table.loc[table["lesion_id"] == "HAM_0000004", "dx"] = "vasc"  # three images of one lesion
    table.to_csv(source / "HAM10000_metadata.csv", index=False)
    build(source)
    said = capsys.readouterr().err
    assert "vasc has 1 groups of images (3 images) for 3 splits or folds" in said
    assert said.count("some have none of it") == 1
    build(source, "folds", folds=5)
    said = capsys.readouterr().err
    assert "vasc has 1 groups of images (3 images) for 6 splits or folds" in said


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
