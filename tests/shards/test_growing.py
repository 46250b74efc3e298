"""build --base: val and test stay byte for byte, train grows, and nothing of them leaks into it."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.errors import DataError
from pipeline.shards.dataset import open_shards
from pipeline.shards.verify import verify


def clinic(
    root: Path, images: Path, rows: Sequence[tuple[str, str, str, str | Image.Image]]
) -> Path:
    """A source of ``rows``: image id, lesion, patient, and the image whose bytes it has."""
    root.mkdir()
    files = {path.stem: path for path in images.rglob("*.jpg")}
    for image_id, _, _, picture in rows:
        if isinstance(picture, Image.Image):
            picture.save(root / f"{image_id}.jpg", quality=90)
        else:
            shutil.copy(files[picture], root / f"{image_id}.jpg")
    table = pd.DataFrame([row[:3] for row in rows], columns=["image_id", "lesion_id", "patient_id"])
    table = table.assign(dx=["mel", "nv"] * (len(rows) // 2) + ["nv"] * (len(rows) % 2))
    table.loc[:, (table != "").any()].to_csv(root / "mine.csv", index=False)
    return root


def plain(number: int) -> Image.Image:
    """A picture that no other number and no tiny source has."""
    small = np.random.default_rng(1000 + number).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((48, 36), Image.Resampling.BICUBIC)


def new_rows(count: int, patient: str = "") -> list[tuple[str, str, str, Image.Image]]:
    return [
        (f"new_{n:03d}", f"N{n // 2}", patient and f"{patient}{n // 2}", plain(n))
        for n in range(count)
    ]


@pytest.fixture
def base(build, shared_source) -> Path:
    return build(shared_source, "base")


def reasons(root: Path) -> dict[str, str]:
    return pd.read_csv(root / "left_out.csv").set_index("image_id")["reason"].to_dict()


def test_val_and_test_are_the_bases_byte_for_byte_and_new_images_are_train(
    base, build, shared_source, tmp_path, contents, capsys, command
):
    more = clinic(tmp_path / "more", shared_source, new_rows(20))
    grown, old = open_shards(build(more, "grown", base=base)), open_shards(base)
    before, after = contents(base), contents(grown.root)
    kept = {name for name in before if name.endswith((".tar", ".idx"))}
    assert {name: after.get(name) for name in kept} == {name: before[name] for name in kept}
    fresh = sorted(name for name in after if name.endswith(".tar") and name not in kept)
    assert fresh == [f"train/ham10000-train-{5 + n:06d}.tar" for n in range(3)]
    for split in ("val", "test"):
        pd.testing.assert_frame_equal(grown.split(split).samples, old.split(split).samples)
    lines = (grown.root / "samples.csv").read_text().splitlines()
    assert [line for line in lines if "new_" not in line] == before["samples.csv"].decode().split()
    assert len(grown.split("train")) == len(old.split("train")) + 20
    assert len(grown.split("train").locations().size) == len(grown.split("train"))
    assert grown.manifest.base is not None
    assert grown.manifest.base["manifest_sha256"] == old.manifest_sha256
    assert grown.manifest.base["name"] == "ham10000"
    assert not verify(grown.root, progress=False).problems
    done = command("-m", "pipeline.shards", "verify", grown.root)
    assert done.returncode == 0
    assert f"val and test are those of base {old.manifest_sha256[:12]}" in done.stdout
    assert contents(base) == before


def test_an_image_that_would_leak_or_is_known_is_left_out_with_the_reason(
    base, build, shared_source, tmp_path, capsys
):
    samples = open_shards(base).samples
    first = {s: rows.iloc[0] for s, rows in samples.groupby("split")}
    train, val, test = first["train"], first["val"], first["test"]
    rows = [
        *new_rows(4),
        (train["image_id"], "X0", "", train["image_id"]),
        (val["image_id"], "X1", "", plain(101)),
        ("copy", "X2", "", test["image_id"]),
        ("besides_copy", "X2", "", plain(102)),
        ("of_val", val["lesion_id"], "", plain(103)),
        ("of_train", train["lesion_id"], "", plain(104)),
        ("twin_a", "X3", "", plain(105)),
        ("twin_b", "X4", "", plain(105)),
        ("in_pairs", "X5", "", plain(106)),
    ]
    more = clinic(tmp_path / "more", shared_source, rows)
    pairs = tmp_path / "pairs.csv"
    pairs.write_text(f"image_id_a,image_id_b,score\nin_pairs,{test['image_id']},1\n")
    grown = open_shards(build(more, "grown", base=base, duplicates=pairs))
    said = reasons(grown.root)
    assert said == {
        train["image_id"]: "image id: the base has it in train, with the same bytes",
        val["image_id"]: "image id: the base has it in val, with other bytes",
        "copy": f"same bytes: as {test['image_id']} of the base's test",
        "besides_copy": "group: joined by other images to a lesion in the base's test",
        "of_val": f"lesion: {val['lesion_id']} belongs to the base's val",
        "twin_b": "same bytes: as twin_a (new)",
        "in_pairs": "group: joined by other images to a lesion in the base's test",
    }
    table = grown.samples.set_index("image_id")
    assert set(table.index) == {
        *samples["image_id"],
        *(r[0] for r in rows[:4]),
        "of_train",
        "twin_a",
    }
    assert table.loc["of_train", "group"] == train["group"]
    assert table.loc["of_train", "split"] == table.loc["twin_a", "split"] == "train"
    assert "7 new images are left out: " in capsys.readouterr().err
    assert not verify(grown.root, progress=False).problems
    later = [*new_rows(30)[28:], ("late", "X2", "", plain(107))]  # the lesion of the copy
    more = clinic(tmp_path / "later", shared_source, later)
    late = reasons(build(more, "again", base=grown.root))
    assert late.pop("late") == "lesion: X2 belongs to the base's test" and late == said


def test_sources_columns_and_licences_of_both_are_kept(build, shared_source, tmp_path):
    old = build(f"ham={shared_source}", "base")
    more = clinic(tmp_path / "more", shared_source, new_rows(6))
    table = pd.read_csv(more / "mine.csv").assign(skin_tone="IV")
    table.to_csv(more / "mine.csv", index=False)
    with pytest.raises(DataError, match="names its sources"):
        build(more, "grown", base=old)
    grown = open_shards(build(f"clinic={more}", "grown", base=old, license="CC-BY"))
    assert grown.manifest.source["sources"] == {"clinic": 6, "ham": 60}
    assert grown.manifest.source["licenses"] == {"CC-BY": 6, "CC-BY-NC": 60}
    assert grown.samples["skin_tone"].value_counts().to_dict() == {"": 60, "IV": 6}
    assert not verify(grown.root, progress=False).problems


def test_labels_of_another_kind_and_a_second_test_set_are_refused(
    base, build, shared_source, tmp_path
):
    more = clinic(tmp_path / "more", shared_source, new_rows(4))
    table = pd.read_csv(more / "mine.csv")
    table.rename(columns={"dx": "label"}).assign(label=[0, 1, 0, 1]).to_csv(
        more / "mine.csv", index=False
    )
    with pytest.raises(DataError, match="labels of the kind 'dx'"):
        build(more, "grown", base=base)
    shutil.copytree(shared_source, tmp_path / "official")
    truth = pd.read_csv(shared_source / "HAM10000_metadata.csv").head(3)
    truth.assign(image_id=["new_000", "new_001", "new_002"]).to_csv(
        tmp_path / "official" / "ISIC2018_Task3_Test_GroundTruth.csv", index=False
    )
    for n in range(3):
        folder = tmp_path / "official" / "HAM10000_images_part_1"
        shutil.copy(more / f"new_{n:03d}.jpg", folder)
    with pytest.raises(DataError, match="official test set"):
        build(tmp_path / "official", "grown", base=base)


def test_a_patient_of_val_or_test_is_left_out_and_unknown_patients_are_said(
    base, build, shared_source, tmp_path, capsys
):
    rows = [(f"a{n:02d}", f"A{n}", f"P{n // 2}", plain(n)) for n in range(40)]
    old = open_shards(build(clinic(tmp_path / "first", shared_source, rows), "own"))
    assert "P1" not in (old.root / "patients.csv").read_text()
    held = old.split("test").samples["image_id"].iloc[0]
    patient = next(row[2] for row in rows if row[0] == held)
    seen = [("again", "B0", patient, plain(90)), ("other", "B1", "P99", plain(91))]
    more = clinic(tmp_path / "more", shared_source, seen)
    grown = build(more, "grown", base=old.root)
    assert reasons(grown) == {"again": f"patient: {patient} belongs to the base's test"}
    assert len(pd.read_csv(grown / "patients.csv")) == 41
    assert "patients of the base are not known" not in capsys.readouterr().err

    third = clinic(
        tmp_path / "third",
        shared_source,
        [("late", "C0", patient, plain(92)), ("x", "C1", "P98", plain(93))],
    )
    assert "late" in reasons(build(third, "again", base=grown))  # through two generations

    blind = open_shards(build(more, "blind", base=base))
    assert "patients of the base are not known" in capsys.readouterr().err
    assert (
        blind.manifest.base is not None and blind.manifest.base["unknown"] == "patients of the base"
    )
    assert {"again", "other"} <= set(blind.samples["image_id"])


def test_a_stopped_build_continues_and_the_manifest_is_the_same_each_time(
    base, build, shared_source, tmp_path, contents
):
    more = clinic(tmp_path / "more", shared_source, new_rows(20))

    def stop(work, shards):
        yield work(shards[0])
        raise KeyboardInterrupt

    whole = contents(build(more, "whole", base=base))
    with pytest.raises(KeyboardInterrupt):
        build(more, "out", base=base, engine=stop)
    with pytest.raises(DataError, match="did not finish"):
        open_shards(tmp_path / "out")
    assert contents(build(more, "out", base=base)) == whole
    assert contents(build(more, "out", base=base)) == whole  # finished: nothing is done
    with pytest.raises(DataError, match="made from another"):
        build(more, "out")


def test_sizes_are_the_bases_and_a_set_grows_again(build, shared_source, tmp_path):
    old = build(shared_source, "base", image_size=24)
    one = clinic(tmp_path / "one", shared_source, new_rows(4))
    two = clinic(tmp_path / "two", shared_source, [("later", "L", "", plain(50))])
    grown = open_shards(build(two, "second", base=build(one, "first", base=old)))
    assert grown.manifest.encode["image_size"] == 24
    assert grown.manifest.base is not None
    assert grown.manifest.base["base"]["manifest_sha256"] == open_shards(old).manifest_sha256
    assert grown.manifest.shards[6].path == "train/ham10000-train-000006.tar"
    assert json.loads((old / "manifest.json").read_text()).keys().isdisjoint({"base"})


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"val_fraction": 0.1}, "leave the flags of the splits out"),
        ({"test_fraction": 0.2}, "leave the flags of the splits out"),
        ({"folds": 3}, "leave the flags of the splits out"),
        ({"image_size": 20}, "--image-size is 20, --base .* has None"),
        ({"jpeg_quality": 80}, "--jpeg-quality is 80"),
        ({"taxonomy": "isic2019"}, "other classes"),
        ({"name": "clinic"}, "--name is clinic"),
        ({"out": "base"}, "choose another --out"),
    ],
)
def test_what_would_change_the_bases_splits_or_images_is_refused(
    base, build, shared_source, tmp_path, flags, words
):
    more = clinic(tmp_path / "more", shared_source, new_rows(2))
    with pytest.raises(DataError, match=words):
        build(more, **{"out": "grown", "base": base} | flags)


def test_folds_damage_and_nothing_new_are_refused(base, build, shared_source, tmp_path):
    more = clinic(tmp_path / "more", shared_source, new_rows(2))
    with pytest.raises(DataError, match="packed in folds"):
        build(more, "grown", base=build(shared_source, "folds", folds=3))
    with pytest.raises(DataError, match=r"no image is new to --base .*: 60 by image id"):
        build(shared_source, "grown", base=base)
    tar = next((base / "test").glob("*.tar"))
    tar.write_bytes(tar.read_bytes().replace(b"JFIF", b"JFIX", 1))
    with pytest.raises(DataError, match="is damaged"):
        build(more, "grown", base=base)
