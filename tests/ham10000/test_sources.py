import zipfile
from pathlib import Path

import pytest

from pipeline.errors import DataError
from pipeline.ham10000.source import open_source
from pipeline.ham10000.taxonomy import HAM10000

COLUMNS = "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC"
HAM = "lesion_id,image_id,dx,dx_type,age,sex,localization\n"


def one_hot(image: str, dx: str, delimiter: str = ",") -> str:
    names = COLUMNS.lower().split(",")[1:]
    return delimiter.join([image, *("1.0" if name == dx else "0.0" for name in names)]) + "\n"


def official(root: Path, *, ending: str, zipped: str | None) -> None:
    """Write a test set of seven images in a folder, or in a zip below its folder ``zipped``."""
    delimiter = "\t" if ending == ".tab" else ","
    text = COLUMNS.replace(",", delimiter) + "\n"
    names = {f"ISIC_003451{n}": dx for n, dx in enumerate(HAM10000.classes)}
    rows = [one_hot(name, dx, delimiter) for name, dx in names.items()]
    rows.append(one_hot("ISIC_0035068", "nv", delimiter))
    (root / f"ISIC2018_Task3_Test_GroundTruth{ending}").write_text(text + "".join(rows))
    if zipped is None:
        (root / "ISIC2018_Task3_Test_Images").mkdir()
        for name in names:
            (root / "ISIC2018_Task3_Test_Images" / f"{name}.jpg").write_bytes(name.encode())
    else:
        with zipfile.ZipFile(root / "ISIC2018_Task3_Test_Images.zip", "w") as file:
            for name in names:
                file.writestr(f"{zipped}{name}.jpg", name)


@pytest.mark.parametrize("ending", [".csv", ".tab"])
@pytest.mark.parametrize("zipped", [None, "", "ISIC2018_Task3_Test_Images/"])
def test_official_test_set_is_read_alone_and_its_imageless_row_is_noted(tmp_path, ending, zipped):
    official(tmp_path, ending=ending, zipped=zipped)
    source = open_source(tmp_path)
    assert source.kind == "isic2018"
    assert source.table["official_test"].all()
    assert source.table["dx"].tolist() == list(HAM10000.classes)
    assert source.store.read("ISIC_0034513") == b"ISIC_0034513"
    assert len(source.notes) == 1 and "ISIC_0035068" in source.notes[0]


def test_the_row_that_the_official_scorer_ignores_is_left_out_with_its_image_too(tmp_path):
    official(tmp_path, ending=".csv", zipped=None)
    (tmp_path / "ISIC2018_Task3_Test_Images" / "ISIC_0035068.jpg").write_bytes(b"here")
    source = open_source(tmp_path)
    assert len(source.table) == 7 and "ISIC_0035068" not in set(source.table["image_id"])
    assert dict(source.left_out).keys() == {"ISIC_0035068"}


def test_any_other_row_without_image_is_an_error(tmp_path):
    official(tmp_path, ending=".csv", zipped=None)
    (tmp_path / "ISIC2018_Task3_Test_Images" / "ISIC_0034512.jpg").unlink()
    with pytest.raises(DataError, match="ISIC_0034512"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    "row", ["ISIC_1,1.0,1.0,0,0,0,0,0", "ISIC_1,0,0,0,0,0,0,0", "ISIC_1,x,0,0,0,0,0,0"]
)
def test_row_that_is_not_one_hot_is_refused(tmp_path, row):
    (tmp_path / "ISIC2018_Task3_Test_GroundTruth.csv").write_text(f"{COLUMNS}\n{row}\n")
    with pytest.raises(DataError, match=r"GroundTruth\.csv"):
        open_source(tmp_path)


def test_official_test_set_joins_ham10000(tmp_path):
    official(tmp_path, ending=".csv", zipped="")
    (tmp_path / "HAM10000_metadata.csv").write_text(HAM + "HAM_1,ISIC_1,nv,histo,40,male,back\n")
    (tmp_path / "HAM10000_images_part_1").mkdir()
    (tmp_path / "HAM10000_images_part_1" / "ISIC_1.jpg").write_bytes(b"train")
    source = open_source(tmp_path)
    assert source.kind == "ham10000"
    assert source.table.groupby("official_test").size().to_dict() == {False: 1, True: 7}


def own(root: Path, text: str, images: list[str]) -> Path:
    (root / "photos").mkdir(parents=True, exist_ok=True)
    (root / "table.csv").write_text(text)
    for name in images:
        (root / "photos" / name).write_bytes(b"x")
    return root


def test_own_images_need_only_image_id_and_dx(tmp_path):
    source = open_source(own(tmp_path, "image_id,dx\na.jpg,MEL\nb,nv\n", ["a.jpg", "b.png"]))
    assert source.kind == "images" and source.labels == "dx"
    assert source.table["image_id"].tolist() == ["a", "b"]
    assert source.table["lesion_id"].tolist() == ["a", "b"]
    assert source.table["dx"].tolist() == ["mel", "nv"]
    assert source.table["age"].isna().all()


def test_own_labels_stand_for_a_dx_with_a_note(tmp_path):
    text = "image_id,label,patient_id,age,sex\na,1,p1,50,F\nb,benign,p1,,\nc,0.0,,7,m\n"
    source = open_source(own(tmp_path, text, ["a.jpg", "b.jpg", "c.jpg"]))
    assert source.labels == "binary" and "binary" in source.notes[0]
    assert source.table["label"].tolist() == [1, 0, 0]
    assert source.table["sex"].tolist() == ["female", "unknown", "male"]
    assert source.together == ("lesion_id", "patient_id")
    assert source.table["patient_id"].tolist() == ["p1", "p1", ""]


def test_unusable_own_tables_are_refused_with_the_reason(tmp_path):
    with pytest.raises(DataError, match="neither a column dx"):
        open_source(own(tmp_path / "a", "image_id,age\na,5\n", ["a.jpg"]))
    with pytest.raises(DataError, match=r"line 2: label is '2'"):
        open_source(own(tmp_path / "b", "image_id,label\na,2\n", ["a.jpg"]))
    root = own(tmp_path / "c", "image_id,dx\na,nv\n", ["a.jpg"])
    (root / "other.csv").write_text("image_id,dx\na,nv\n")
    with pytest.raises(DataError, match="several tables"):
        open_source(root)
    with pytest.raises(DataError, match="1 rows of the metadata have no image"):
        open_source(own(tmp_path / "d", "image_id,dx\nz,nv\n", ["a.jpg"]))
