import csv
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import DataError
from pipeline.ham10000.layouts.choice import choose_table
from pipeline.ham10000.layouts.image_table import read_images
from pipeline.ham10000.metadata import COLUMNS, age_band
from pipeline.ham10000.source import open_source
from pipeline.ham10000.taxonomy import HAM10000

ROW = {
    "lesion_id": "HAM_1",
    "image_id": "ISIC_1",
    "dx": "mel",
    "dx_type": "histo",
    "age": "45.0",
    "sex": "male",
    "localization": "back",
}


def read_metadata(folder: Path):
    choice = choose_table(folder, HAM10000)
    assert choice.table
    return read_images(choice.table, HAM10000, required=choice.required).table


def write(folder: Path, rows: list[dict], *, name="HAM10000_metadata.csv", delimiter=",") -> Path:
    with (folder / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.mark.parametrize(
    "name", ["HAM10000_metadata.tab", "HAM10000_metadata", "HAM10000_metadata.csv"]
)
@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_table_is_the_same_whatever_its_name_and_delimiter(tmp_path, name, delimiter):
    write(tmp_path, [ROW], name=name, delimiter=delimiter)
    table = read_metadata(tmp_path)
    assert table.to_dict("records") == [
        {
            "image_id": "ISIC_1",
            "lesion_id": "HAM_1",
            "dx": "mel",
            "dx_type": "histo",
            "age": 45.0,
            "sex": "male",
            "localization": "back",
            "label": 1,
        }
    ]


def test_eighth_column_quotes_and_byte_order_mark_are_accepted(tmp_path):
    names = [*ROW, "dataset"]
    line = ",".join(f'"{ROW.get(name, "vidir_modern")}"' for name in names)
    text = "\ufeff" + ",".join(names) + "\r\n" + line + "\r\n"
    (tmp_path / "HAM10000_metadata.csv").write_text(text, encoding="utf-8")
    table = read_metadata(tmp_path)
    assert list(table.columns) == [*COLUMNS, "label"]
    assert table["image_id"].tolist() == ["ISIC_1"]


def test_rows_are_sorted_and_missing_values_have_one_form(tmp_path):
    gaps = {"age": "", "sex": "", "localization": "", "dx_type": "", "dx": "nv"}
    write(tmp_path, [ROW | {"image_id": "ISIC_2"} | gaps, ROW])
    table = read_metadata(tmp_path)
    assert table["image_id"].tolist() == ["ISIC_1", "ISIC_2"]
    assert table["label"].tolist() == [1, 0]
    assert table["age"].isna().tolist() == [False, True]
    assert table.loc[1, ["sex", "localization", "dx_type"]].tolist() == ["unknown"] * 3


def test_every_dx_has_the_binary_label_of_the_taxonomy(tmp_path):
    names = ["akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"]
    write(tmp_path, [ROW | {"image_id": f"ISIC_{n}", "dx": n} for n in names])
    label = read_metadata(tmp_path).set_index("dx")["label"].to_dict()
    assert {dx for dx, malignant in label.items() if malignant} == {"akiec", "bcc", "mel"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dx": "melanomma"}, ["dx", "'melanomma'", "akiec", "line 3"]),
        ({"image_id": "ISIC_1", "age": "5"}, ["image_id", "ISIC_1", "line 3", "once"]),
        ({"image_id": ""}, ["image_id", "line 3"]),
        ({"lesion_id": ""}, ["lesion_id", "line 3"]),
        ({"age": "old"}, ["age", "'old'", "line 3"]),
        ({"age": "-4"}, ["age", "'-4'"]),
        ({"age": "850"}, ["age", "'850'"]),
        ({"sex": "x"}, ["sex", "'x'", "female"]),
    ],
)
def test_impossible_value_is_refused_with_its_line(tmp_path, change, words):
    write(tmp_path, [ROW, ROW | {"image_id": "ISIC_2"} | change])
    with pytest.raises(DataError) as caught:
        read_metadata(tmp_path)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize("column", COLUMNS)
def test_missing_column_is_named(tmp_path, column):
    write(tmp_path, [{name: value for name, value in ROW.items() if name != column}])
    with pytest.raises(DataError, match=rf"lacks the column {column}: expected .* found"):
        read_metadata(tmp_path)


def test_missing_folder_file_or_rows_are_reported(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        open_source(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no metadata in .*HAM10000_metadata\.csv"):
        open_source(tmp_path)
    table = tmp_path / "HAM10000_metadata.csv"
    table.write_text(",".join(COLUMNS) + "\n")
    with pytest.raises(DataError, match="no rows"):
        open_source(tmp_path)
    for data in (b"", b"\xff\xd8\xff\xe0\x00\x10JFIF", b"PK\x03\x04\x14"):
        table.write_bytes(data)
        with pytest.raises(DataError, match="not a comma- or tab-separated table"):
            open_source(tmp_path)
    with pytest.raises(DataError, match="is a file"):
        open_source(table)


@pytest.mark.realdata
def test_real_metadata_has_the_published_counts(ham10000):
    table = read_metadata(ham10000)
    counts = {
        "akiec": 327,
        "bcc": 514,
        "bkl": 1099,
        "df": 115,
        "mel": 1113,
        "nv": 6705,
        "vasc": 142,
    }
    assert table["dx"].value_counts().to_dict() == counts
    assert (len(table), table["lesion_id"].nunique(), table["label"].sum()) == (10015, 7470, 1954)
    assert (table["age"].isna().sum(), (table["sex"] == "unknown").sum()) == (57, 57)
    assert (table["localization"] == "unknown").sum() == 234


def test_ages_fall_into_the_band_that_begins_at_or_below_them():
    years = np.array([0, 29.9, 30, 69, 70, 120, np.nan])
    bands = ["0-29", "0-29", "30-39", "60-69", "70+", "70+", "unknown"]
    assert age_band(years).tolist() == bands
