"""The classes of a set: shipped files, own ones, and what maps to what."""

import re
from pathlib import Path

import pytest

from pipeline.errors import DataError
from pipeline.ham10000.source import Source, open_source
from pipeline.ham10000.taxonomy import HAM10000, SHIPPED, described, load

GOOD = """
classes = ["wart", "Mel", "scc"]
malignant = ["MEL", "scc"]
none = ["no lesion"]
[names]
mel = "malignant melanoma"
[aliases]
scc = ["squamous cell carcinoma", "Malignant:Malignant epidermal proliferations"]
"""


def test_the_shipped_taxonomies_have_the_published_classes():
    published = {  # in the order of the sets' own tables
        "ham10000": "akiec bcc bkl df mel nv vasc",
        "isic2019": "mel nv bcc ak bkl df vasc scc",
        "pad-ufes-20": "ack bcc mel nev scc sek",
        "milk10k": "akiec bcc ben_oth bkl df inf mal_oth mel nv sccka vasc",
    }
    assert {name: " ".join(load(name).classes) for name in SHIPPED} == published
    assert load("ham10000").malignant == ("akiec", "bcc", "mel")
    assert load("pad-ufes-20").malignant == ("bcc", "mel", "scc")


def test_an_own_file_maps_names_codes_and_paths_in_any_case(tmp_path):
    (tmp_path / "own.toml").write_text(GOOD)
    own = load(str(tmp_path / "own.toml"))
    assert own.classes == ("wart", "mel", "scc") and own.is_malignant.tolist() == [0, 1, 1]
    words = {
        **{"WART": "wart", " Malignant  Melanoma": "mel", "Squamous_cell carcinoma": "scc"},
        **{"malignant:Malignant epidermal proliferations:Keratoacanthoma": "scc"},
        **{"Benign:Wart": "wart", "No lesion": "", "Benign:Nevus": "", "nevus": None},
    }
    assert {word: own.find(word) for word in words} == words
    assert described(own.describe()) == own


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (('["wart"', '["wart", "WART"'), "classes has 'wart' twice; expected each class once"),
        (("none =", "nothing ="), "unknown key 'nothing'; expected classes, malignant, names"),
        (('"MEL"', '"nv"'), "malignant names 'nv', which is none of the classes wart, mel, scc"),
        (('mel = "mal', 'nv = "mal'), "names names 'nv', which is none of the classes"),
        (('"no lesion"', '"Wart"'), "'wart' maps to none and to wart; expected one"),
        (('["squ', '["mel", "squ'), "'mel' maps to mel and to scc; expected one"),
        (('"MEL", ', '"MEL", "wart", '), "3 of 3 classes are malignant; expected at least one"),
        (('["MEL", "scc"]', "[]"), "0 of 3 classes are malignant"),
        (('["wart", "Mel", "scc"]', '["mel"]'), "malignant names 'scc'"),
        (('"wart"', '"a wart"'), "classes has 'a wart'; expected up to 32 letters, digits"),
        (('"wart"', '"benign"'), "classes has 'benign'; expected .* none of benign, malignant"),
        (('["no lesion"]', '"no lesion"'), "none is 'no lesion'; expected texts"),
        (("[aliases]\n", "[aliases]\nmel = 3\n"), "aliases of mel is 3; expected texts"),
        (("[names]", "[names"), "is no TOML file: "),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else "",
)
def test_mistakes_in_a_file_are_named(tmp_path, change, expected):
    assert change[0] in GOOD
    path = tmp_path / "own.toml"
    path.write_text(GOOD.replace(*change, 1))
    with pytest.raises(DataError, match=expected) as caught:
        load(str(path))
    assert str(path) in str(caught.value)


def test_fewer_than_two_classes_and_a_missing_file_are_refused(tmp_path):
    (tmp_path / "one.toml").write_text('classes = ["mel"]\nmalignant = ["mel"]\n')
    with pytest.raises(DataError, match="1 classes; expected at least 2"):
        load(str(tmp_path / "one.toml"))
    shipped = re.escape("one of ham10000, isic2019, milk10k, pad-ufes-20")
    with pytest.raises(DataError, match=f"--taxonomy ham1000: No such file .* {shipped}"):
        load("ham1000")


def test_classes_of_two_taxonomies_map_by_code_name_or_alias():
    seven, eight, six, eleven = map(load, ("ham10000", "isic2019", "pad-ufes-20", "milk10k"))
    assert seven.shared(seven) == {dx: dx for dx in seven.classes}
    assert seven.shared(eight)["akiec"] == "ak" and "scc" not in seven.shared(eight).values()
    assert eight.shared(eleven)["scc"] == "sccka" and eleven.shared(eight)["sccka"] == "scc"
    assert six.shared(seven) == {
        **{"ack": "akiec", "bcc": "bcc", "mel": "mel", "nev": "nv", "sek": "bkl"},
    }
    assert not {"ben_oth", "inf", "mal_oth", "sccka"} & set(eleven.shared(seven))


def source(root: Path, taxonomy: str, table: str, ids: list[str]) -> Source:
    """Open a folder with a table and an (empty) image for each id."""
    root.mkdir(exist_ok=True)
    (root / "metadata.csv").write_text(table)
    for name in ids:
        (root / f"{name}.jpg").write_bytes(b"\xff\xd8")
    return open_source(root, load(taxonomy))


def test_columns_of_isic_2019_are_its_eight_classes_and_unk_is_left_out(tmp_path):
    codes = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")
    rows = [",".join([f"I{k}", *("1.0" if k == j else "0.0" for j in range(9))]) for k in range(9)]
    text = "\n".join([",".join(["image", *codes]), *rows])
    found = source(tmp_path / "a", "isic2019", text, [f"I{k}" for k in range(9)])
    assert found.table["dx"].tolist() == [code.lower() for code in codes[:8]]
    assert found.table["label"].tolist() == [1, 0, 1, 1, 0, 0, 0, 1]
    assert found.left_out == (("I8", "diagnosis is none of the eight of ISIC 2019: unk"),)
    seven = source(tmp_path / "a", "ham10000", text, [])
    assert [name for name, _ in seven.left_out] == ["I7", "I8"]
    assert seven.table["dx"].tolist() == ["mel", "nv", "bcc", "akiec", "bkl", "df", "vasc"]


def test_the_table_of_pad_ufes_20_is_read_with_its_six_classes(tmp_path):
    codes = ["ACK", "BCC", "MEL", "NEV", "SCC", "SEK"]
    rows = [f"PAT_{k},{k},{60 + k},NECK,{code},PAT_{k}.png" for k, code in enumerate(codes)]
    text = "\n".join(["patient_id,lesion_id,age,region,diagnostic,img_id", *rows])
    found = source(tmp_path, "pad-ufes-20", text, [f"PAT_{k}" for k in range(6)])
    assert found.table["dx"].tolist() == [code.lower() for code in codes]
    assert found.table["label"].tolist() == [0, 1, 1, 0, 1, 0]
    assert found.together == ("lesion_id", "patient_id")


def test_columns_and_folders_of_milk10k_are_its_eleven_classes(tmp_path):
    codes = [code.upper() for code in load("milk10k").classes]
    rows = [
        ",".join([f"I{k:02d}", *("1" if k == j else "0" for j in range(11))]) for k in range(11)
    ]
    text = "\n".join([",".join(["isic_id", *codes]), *rows])
    found = source(tmp_path / "a", "milk10k", text, [f"I{k:02d}" for k in range(11)])
    assert [dx.upper() for dx in found.table["dx"]] == codes
    for code in codes:
        (tmp_path / "b" / code).mkdir(parents=True)
        (tmp_path / "b" / code / f"{code}.jpg").write_bytes(code.encode())
    folders = open_source(tmp_path / "b", load("milk10k"))
    assert sorted(dx.upper() for dx in folders.table["dx"]) == codes


def test_a_source_without_diagnoses_gets_a_class_of_each_label(tmp_path):
    found = source(tmp_path, "pad-ufes-20", "image_id,label\na,0\nb,1\n", ["a", "b"])
    assert found.labels == "binary"
    assert found.table[["dx", "label"]].to_numpy().tolist() == [["ack", 0], ["mel", 1]]
    assert any("benign is packed as ack, malignant is packed as mel" in n for n in found.notes)
    assert HAM10000.stand_in(0) == "nv" and HAM10000.stand_in(1) == "mel"
