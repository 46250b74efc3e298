"""Tables as spreadsheets, R and awk write them mean what their author meant, or are refused."""

from pathlib import Path

import pytest

from pipeline.errors import DataError
from pipeline.ham10000.source import open_source
from pipeline.ham10000.tables import read_table

ROWS = [["image_id", "dx", "localization"], ["a", "nv", "Rücken"], ["b", "MEL", "Gesäß"]]


def text(delimiter: str = ",", end: str = "\n") -> str:
    return end.join(delimiter.join(row) for row in ROWS) + end


def own(root: Path, content: str | bytes, name: str = "Befunde.csv") -> Path:
    root.mkdir(exist_ok=True)
    (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
    for image in ("a", "b"):
        (root / f"{image}.jpg").write_bytes(image.encode())
    return root


@pytest.mark.parametrize(
    "content",
    [
        text(";", "\r\n").encode("utf-8-sig"),
        text(";").encode("cp1252"),
        text("\t", "\r\n").encode("utf-16"),
        text("\t").encode("utf-16-le").join([b"\xff\xfe", b""]),
        ("sep=;\r\n" + text(";", "\r\n")).encode("utf-8-sig"),
        ('"sep=|"\n' + text("|")).encode(),
        text().replace("image_id", "Image ID").replace("dx", "DX").encode(),
        (text() + ",,\n,,,,\n\n").encode(),
        text().replace("\n", ",\n").replace("localization,", "localization").encode(),
        text().replace("\n", ",,\n").encode(),
        b'"image_id","dx","localization"\n"1","a","nv","R\xc3\xbccken"\n"2","b","mel","Ges\xc3\xa4\xc3\x9f"\n',
        (text() + "b,MEL,Gesäß\n").encode(),
        ("\n" + text().replace("\na,", "\n a.jpg , ").replace("\nb,", "\nb.JPG,")).encode(),
        (",".join(["", *ROWS[0]]) + "\n0,a,nv,Rücken\n1,b,mel,Gesäß\n").encode(),
        text().replace("nv", "Melanocytic nevi").replace("MEL", "melanoma").encode(),
        text().replace("\n", "\r").encode(),
    ],
)
def test_a_table_is_read_whatever_program_wrote_it(tmp_path, content):
    table = open_source(own(tmp_path, content)).table
    assert table["image_id"].tolist() == ["a", "b"]
    assert table["dx"].tolist() == ["nv", "mel"]
    assert table["localization"].tolist() == ["Rücken", "Gesäß"]


def test_a_row_of_more_values_than_the_header_is_refused_with_its_line(tmp_path):
    with pytest.raises(DataError, match=r"line 3: it has 4 values and the header has 3"):
        open_source(own(tmp_path, text().replace("Gesäß", "Gesäß, links")))


def test_lines_in_messages_are_those_of_the_file(tmp_path):
    content = "sep=,\nimage_id,dx\n\na,nv\n,,\nb,melanomma\n"
    with pytest.raises(DataError, match=r"line 6: dx is 'melanomma'"):
        open_source(own(tmp_path, content))


def test_unknown_is_understood_in_many_spellings_and_never_joins_patients(tmp_path):
    content = "image_id,dx,patient_id,age,sex\na,nv,unknown,85+,w\nb,nv,Unknown,n/a,not specified\n"
    source = open_source(own(tmp_path, content))
    assert source.table["patient_id"].tolist() == ["", ""]
    assert source.table["sex"].tolist() == ["female", "unknown"]
    assert source.table["age"].tolist()[0] == 85 and source.table["age"].isna().sum() == 1


def test_what_lies_there_and_what_is_needed_is_said(tmp_path):
    own(tmp_path, "Bild-ID;Diagnosis1;Alter\na;nv;5\n")
    own(tmp_path, b"PK\x03\x04", "Liste.xlsx")
    with pytest.raises(DataError) as caught:
        open_source(tmp_path)
    words = ["Befunde.csv", "Bild-ID, Diagnosis1, Alter", "image_id", "nearest is Diagnosis1"]
    assert all(word in str(caught.value) for word in [*words, "Liste.xlsx", "CSV UTF-8"])


def test_unreadable_and_foreign_tables_beside_the_right_one_do_not_matter(tmp_path):
    own(tmp_path, text())
    own(tmp_path, "Datum;Gerät\n1.2.;geprüft\n".encode("cp1252"), "Notizen.csv")
    own(tmp_path, b"\0\x05\x16\x07", "._Befunde.csv")
    own(tmp_path, b"\0\1\2", "binary.csv")
    own(tmp_path, 'x,"never closed\n', "broken.csv")
    own(tmp_path, "", "empty.csv")
    assert len(open_source(tmp_path).table) == 2


def test_a_second_table_adds_patients_and_a_contradicting_one_is_refused(tmp_path):
    own(tmp_path, text())
    own(tmp_path, "Image,Patient\na,P1\nb,P1\nz,P9\n", "patients.csv")
    source = open_source(tmp_path)
    assert source.table["patient_id"].tolist() == ["P1", "P1"]
    assert source.together == ("lesion_id", "patient_id")
    assert "patients.csv adds patient_id" in source.notes
    own(tmp_path, "Image,Patient\na,P1\na,P2\n", "patients.csv")
    with pytest.raises(DataError, match=r"patients\.csv, line 3: image_id is 'a'"):
        open_source(tmp_path)


def test_names_of_files_are_kept_beside_their_keys(tmp_path):
    (tmp_path / "x").mkdir()
    names = ["IMG 1 (2).jpg", "2024-05-01_10.00.33.jpg", "x\\P1+L.JPG"]
    for name in names:
        (tmp_path / name.replace("\\", "/")).write_bytes(name.encode())
    (tmp_path / "t.csv").write_text("image_id,label\n" + "".join(f"{n},0\n" for n in names))
    source = open_source(tmp_path)
    assert sorted(source.table["file_name"]) == sorted(names)
    for row in source.table.itertuples():
        assert source.store.read(str(row.image_id)).decode() == row.file_name


def test_a_table_of_strings_keeps_leading_zeros_and_quoted_delimiters(tmp_path):
    (tmp_path / "t.csv").write_text('image_id,note\n001,"a, b"\n')
    table = read_table(tmp_path / "t.csv")
    assert table.to_dict("list") == {"image_id": ["001"], "note": ["a, b"]}
