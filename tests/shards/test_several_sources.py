"""Several sources in one set: images held twice, ids, held-out sources, licences."""

import json
from pathlib import Path

import pandas as pd
import pytest

from pipeline.errors import DataError
from pipeline.ham10000.taxonomy import HAM10000
from pipeline.shards.dataset import open_shards
from pipeline.shards.stats import tabulate
from pipeline.shards.verify import verify


def source(root: Path, images: list[Path], names: list[str], **columns: list) -> Path:
    """A folder with a table: ``names`` are the ids of the bytes of ``images``."""
    root.mkdir()
    for path, name in zip(images, names, strict=True):
        (root / f"{name}.jpg").symlink_to(path)
    table = pd.DataFrame({"image_id": names, "dx": ["nv", "mel", "bkl"] * (len(names) // 3)})
    table.assign(**columns).to_csv(root / "table.csv", index=False)
    return root


@pytest.fixture
def images(shared_source) -> list[Path]:
    return sorted(shared_source.glob("*/*.jpg"))


def numbered(first: int, many: int = 30) -> list[str]:
    return [f"ISIC_{n:07d}" for n in range(first, first + many)]


def test_images_of_two_sources_are_taken_once_and_conflicts_are_named(
    tmp_path, images, build, capsys
):
    first = source(tmp_path / "a", images[:30], numbered(0))
    # the archive's id 29 with other bytes; the bytes of 0 under an own name with another label
    names = ["own-0", *numbered(29, 28), "own-58"]
    second = source(tmp_path / "b", [images[0], *images[30:59]], names, dx=["mel"] + ["nv"] * 29)
    root = build([f"a={first}", f"b={second}"])
    table = open_shards(root).samples.set_index("image_id")
    assert len(table) == 30 + 28 and table["source"].value_counts().to_dict() == {"a": 30, "b": 28}
    assert table.loc["ISIC_0000029", "source"] == "a" and "own-0" not in table.index
    left_out = pd.read_csv(root / "left_out.csv", index_col="image_id")["reason"]
    assert left_out["own-0"] == (
        "b: the same image as ISIC_0000000 of a, taken once; CONFLICT: nv in a, mel in b"
    )
    assert "CONFLICT" in left_out["ISIC_0000029"] and len(left_out) == 2
    said = capsys.readouterr().err
    assert "CONFLICT: 2 images" in said and "ISIC_0000000 is nv in a, mel in b" in said
    assert json.loads((root / "manifest.json").read_text())["source"]["sources"] == {
        "a": 30,
        "b": 28,
    }
    assert not verify(root, progress=False).problems
    assert tabulate(open_shards(root).samples, HAM10000)["source"].sum().sum() == 58


def test_ids_belong_to_their_source_unless_they_are_global(tmp_path, images, build):
    names = [f"img-{n}" for n in range(30)]
    patients = [f"{n // 3}" for n in range(30)]
    a = source(tmp_path / "a", images[:30], names, patient_id=patients)
    b = source(tmp_path / "b", images[30:], names, patient_id=patients)
    table = open_shards(build([f"a={a}", f"b={b}"])).samples
    assert len(table) == 60 and table["group"].nunique() == 20
    assert table.groupby("group")["source"].nunique().max() == 1
    renamed = table[table["image_id"] != table["file_name"]]
    assert set(renamed["source"]) == {"b"} and renamed["file_name"].str.startswith("img-").all()
    same = open_shards(build([f"a={a}", f"b={b}"], "same", ids_are_global=True)).samples
    assert len(same) == 30 and set(same["source"]) == {"a"}


def test_groups_span_sources_where_images_are_the_same(tmp_path, images, build):
    lesions = [f"L{n}" for n in range(30)]
    a = source(tmp_path / "a", images[:30], numbered(0), lesion_id=lesions)
    # b says that ISIC_0000029, which a has too, and its own first two images are one patient
    names = numbered(29)
    patients = ["P", "P", "P", *(f"Q{n}" for n in range(27))]
    b = source(tmp_path / "b", images[29:59], names, patient_id=patients)
    table = open_shards(build([f"a={a}", f"b={b}"])).samples.set_index("image_id")
    assert table.loc[names[:3], "group"].nunique() == 1
    assert set(table.loc[names[:3], "source"]) == {"a", "b"}
    assert table["group"].nunique() == 59 - 2


def test_a_source_is_held_out_whole(tmp_path, images, build):
    a = source(tmp_path / "a", images[:30], numbered(0))
    b = source(tmp_path / "b", images[29:59], numbered(29))
    root = build([f"a={a}", f"b={b}"], test_source="b")
    table = open_shards(root).samples
    assert (table["split"] == "test").tolist() == (table["source"] == "b").tolist()
    assert table["source"].value_counts().to_dict() == {"b": 30, "a": 29}
    assert set(table["split"]) == {"train", "val", "test"}
    manifest = json.loads((root / "manifest.json").read_text())["source"]
    assert manifest["test_source"] == "b" and "official_test" not in manifest
    with pytest.raises(DataError, match=r"--test-source b: leave --test-fraction 0\.2 out"):
        build([f"a={a}", f"b={b}"], "other", test_source="b", test_fraction=0.2)


def test_sources_need_names(tmp_path, images, build, command):
    a = source(tmp_path / "a", images[:30], numbered(0))
    for words in ([a, a], [f"x={a}", f"x={a}"], [a, f"x={a}"], []):
        flags = [f"--source={word}" for word in words]
        done = command("-m", "pipeline.shards", "build", "--out", tmp_path / "no", *flags)
        assert done.returncode == 2 and "--source NAME=DIR" in done.stderr
    with pytest.raises(SystemExit):
        build([f"x={a}"], test_source="y")


LICENCES = ["CC-0", "CC-BY", ""] * 10


def test_drawn_images_get_neither_the_licence_nor_the_authors_of_real_ones(build, source):
    real = open_shards(build(source, "real", keep_licenses=True))
    assert real.manifest.source["licenses"] == {"CC-BY-NC": 60}
    assert "Tschandl" in real.samples["attribution"].iloc[0]
    table = source / "HAM10000_metadata.csv"
    table.write_text(table.read_text().replace("HAM_0000", "HAM_7000"))  # as synthesize numbers
    drawn = open_shards(build(source, "drawn", keep_licenses=True))
    assert drawn.manifest.source["licenses"] == {"CC0-1.0": 60}
    assert set(drawn.samples["attribution"]) == {
        "made up by python -m pipeline.ham10000 synthesize"
    }


def test_licences_are_kept_counted_and_filtered_only_where_asked_for(
    tmp_path, images, build, capsys
):
    own = source(
        tmp_path / "own",
        images[:30],
        numbered(0),
        copyright_license=LICENCES,
        attribution=["Clinic A"] * 30,
    )
    plain = open_shards(build(own))
    assert "attribution" not in plain.samples and "licenses" not in plain.manifest.source
    kept = open_shards(build(own, "kept", license=["CC BY-NC"]))
    assert kept.manifest.source["licenses"] == {"CC BY-NC": 10, "CC-0": 10, "CC-BY": 10}
    assert kept.manifest.source["attributions"] == {"Clinic A": 30}
    assert list(kept.samples.columns[-2:]) == ["copyright_license", "attribution"]
    tables = tabulate(kept.samples, HAM10000)
    assert tables["copyright license"].loc["CC-0"].sum() == 10
    some = open_shards(build(own, "some", license_in="CC-0, cc by"))
    assert set(some.samples["copyright_license"]) == {"CC-0", "CC-BY"}
    left_out = pd.read_csv(some.root / "left_out.csv")["reason"]
    assert len(left_out) == 10 and left_out.str.endswith("not stated").all()
    assert "10 images are left out (licence: not stated 10)" in capsys.readouterr().err
    with pytest.raises(DataError, match="found CC-0 10, CC-BY 10, not stated 10"):
        build(own, "none", license_in="CC-BY-SA")


def test_a_licence_may_be_that_of_one_source_and_ham10000_knows_its_own(
    tmp_path, images, build, shared_source
):
    own = source(tmp_path / "own", images[:30], [f"own-{n}" for n in range(30)])
    named = [f"ham={shared_source}", f"own={own}"]
    root = build(named, license=["own=CC-0"], attribution=["own=Clinic A"])
    table = open_shards(root).samples
    assert len(table) == 60 and set(table["source"]) == {"ham"}  # the same bytes: HAM10000's rows
    assert set(table["copyright_license"]) == {"CC-BY-NC"}
    table = open_shards(build(named[::-1], "other", license=["own=CC-0"])).samples
    by_source = table.groupby("source")["copyright_license"].agg(set).to_dict()
    assert by_source == {"ham": {"CC-BY-NC"}, "own": {"CC-0"}}
