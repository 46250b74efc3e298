"""The layouts that people have: each a small folder, read through the public commands' own way."""

import csv
import io
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.errors import DataError
from pipeline.ham10000.known_duplicates import SAME_LESION_PAIRS
from pipeline.ham10000.layouts.image_table import DX_TYPES
from pipeline.ham10000.source import Source, open_source
from pipeline.ham10000.taxonomy import HAM10000
from pipeline.shards.flags import SplitPolicy
from pipeline.shards.plan import place


def folder(root: Path, tables: dict[str, str | bytes], images: list[str]) -> Path:
    """Write tables and images (each with bytes of its own) below ``root``."""
    for name, content in tables.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    for name in images:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def dx_of(source: Source) -> dict[str, str]:
    return dict(zip(source.table["image_id"], source.table["dx"], strict=True))


ARCHIVE = {
    "I1": ("Benign", "Benign melanocytic proliferations", "Nevus", "Nevus, Spitz"),
    "I2": ("Malignant", "Malignant melanocytic proliferations (Melanoma)", "Melanoma in situ", ""),
    "I3": ("Malignant", "Malignant epidermal proliferations", "Squamous cell carcinoma, NOS", ""),
    "I4": ("Benign", "Benign soft tissue proliferations - Vascular", "", ""),
    "I5": ("", "", "", ""),
    "I6": (
        "Indeterminate",
        "Indeterminate epidermal proliferations",
        "Solar or actinic keratosis",
        "",
    ),
}


def archive(root: Path, **columns: list[str]) -> Path:
    """A folder as isic-cli leaves it, one image a row of ARCHIVE; ``columns`` replace or add."""
    table = pd.DataFrame({"isic_id": list(ARCHIVE), "attribution": "Anonymous, Nowhere"})
    for level in range(4):
        table[f"diagnosis_{level + 1}"] = [names[level] for names in ARCHIVE.values()]
    table["age_approx"] = ["85+", "50", "", "30", "40", "60"]
    table["anatom_site_general"] = "head/neck"
    table["image_type"] = "dermoscopic"
    table["diagnosis_confirm_type"] = "histopathology"
    for name, values in columns.items():
        table[name] = values
    licences = {"attribution.txt": "Anonymous, Nowhere\n", "licenses/CC-0.txt": "none, really\n"}
    text = table.to_csv(index=False)
    return folder(root, {"metadata.csv": text, **licences}, [f"{name}.jpg" for name in ARCHIVE])


def test_a_folder_of_the_isic_archive_maps_its_hierarchy_and_counts_what_it_leaves_out(tmp_path):
    source = open_source(archive(tmp_path, patient_id=["P1", "P1", "", "", "P2", "P1"]))
    assert source.kind == "isic"
    assert dx_of(source) == {"I1": "nv", "I2": "mel", "I4": "vasc", "I6": "akiec"}
    assert source.table["age"].tolist()[0] == 85 and set(source.table["dx_type"]) == {"histo"}
    assert source.together == ("lesion_id", "patient_id")
    assert dict(source.left_out).keys() == {"I3", "I5"}
    assert "Squamous cell carcinoma, NOS" in dict(source.left_out)["I3"]
    assert "2 images are left out" in source.notes[0]
    assert "Squamous cell carcinoma, NOS 1, no diagnosis 1" in source.notes[0]


def test_the_archives_older_columns_are_read(tmp_path):
    older = ["nevus", "melanoma", "AIMP", "pigmented benign keratosis", "", "other"]
    text = pd.DataFrame({"isic_id": list(ARCHIVE), "diagnosis": older}).assign(
        benign_malignant=["benign", "malignant", "indeterminate", "benign", "", "benign"]
    )
    images = [f"{name}.JPG" for name in ARCHIVE]
    source = open_source(folder(tmp_path, {"metadata.csv": text.to_csv(index=False)}, images))
    assert dx_of(source) == {"I1": "nv", "I2": "mel", "I4": "bkl"}
    assert "each image counts as a lesion of its own" in " ".join(source.notes)


TYPES = [
    "dermoscopic",
    "clinical: close-up",
    "TBP tile: close-up",
    "dermoscopic",
    "",
    "RCM: mosaic",
]


@pytest.mark.parametrize(
    ("chosen", "packed", "others"),
    [
        ((), {"I1", "I4"}, {"I2", "I3", "I6"}),
        (("clinical",), {"I2"}, {"I1", "I3", "I4", "I6"}),
        (("confocal", "dermoscopic"), {"I1", "I4", "I6"}, {"I2", "I3"}),
        (("all",), {"I1", "I2", "I4", "I6"}, set()),
    ],
)
def test_kinds_of_photographs_are_chosen_and_the_others_counted(tmp_path, chosen, packed, others):
    source = open_source(archive(tmp_path, image_type=TYPES), image_types=chosen)
    assert dx_of(source).keys() == packed
    assert {name for name, reason in source.left_out if "--image-type" in reason} == others
    assert not others or f"{len(others)} images are left out (image type" in source.notes[0]


def test_without_a_dermoscopic_image_all_are_taken_and_a_flag_without_its_column_is_refused(
    tmp_path,
):
    clinical = archive(tmp_path / "a", image_type=["clinical: overview"] * 6)
    assert len(open_source(clinical).table) == 4
    own = folder(tmp_path / "b", {"t.csv": "image_id,dx\na,nv\n"}, ["a.jpg"])
    with pytest.raises(DataError, match="no column image_type"):
        open_source(own, image_types=["clinical"])


def test_every_diagnosis_of_the_official_package_is_mapped_as_its_words_say():
    fields = pytest.importorskip("isic_metadata.fields", reason="isic-metadata is not installed")
    words = {
        "Seborrheic keratosis": "bkl",
        "Solar lentigo": "bkl",
        "Lichen planus like keratosis": "bkl",
        "Pigmented benign keratosis": "bkl",
        "Benign melanocytic proliferations:Nevus": "nv",
        ":Dermatofibroma": "df",
        "Benign soft tissue proliferations - Vascular": "vasc",
        "Hemorrhagic lesions": "vasc",
        "Solar or actinic keratosis": "akiec",
        "Squamous cell carcinoma in situ": "akiec",
        ":Basal cell carcinoma": "bcc",
        "(Melanoma)": "mel",
    }
    counts = Counter()
    for each in fields.DiagnosisEnum:
        found = [dx for word, dx in words.items() if word in each.value]
        expected = "" if each.value.endswith("Melanoma metastasis") or not found else found[0]
        if ":" in each.value:
            assert HAM10000.find(each.value) == expected, each.value
            counts[expected] += 1
    assert counts == {
        "akiec": 8,
        "bcc": 10,
        "bkl": 5,
        "df": 6,
        "mel": 28,
        "nv": 32,
        "vasc": 34,
        "": 292,
    }
    for each in fields.LegacyDxEnum:
        assert HAM10000.find(each.value) is not None, each.value
    nevi = [each.value for each in fields.DiagnosisEnum if HAM10000.find(each.value) == "nv"]
    assert {value.split(":")[0] for value in nevi} == {"Benign"}
    paths = {each.value.lower() for each in fields.DiagnosisEnum}
    words = [*HAM10000.none, *chain(*HAM10000.aliases.values())]
    assert {name.lower() for name in words if ":" in name} <= paths
    kinds = {each.value.lower().partition(":")[0] for each in fields.ImageTypeEnum}
    assert kinds == {"dermoscopic", "clinical", "tbp tile", "rcm"}
    confirmed = {each.value for each in fields.DiagnosisConfirmTypeEnum}
    assert set(DX_TYPES) <= confirmed


def one_hot(classes: str, rows: dict[str, str]) -> str:
    names = classes.split()
    lines = [",".join(["image", *names])]
    lines += [",".join([i, *("1.0" if n == k else "0.0" for n in names)]) for i, k in rows.items()]
    return "\n".join(lines) + "\n"


def test_ham10000_as_the_isic_2018_challenge_gives_it_has_the_lesions_of_its_groupings(tmp_path):
    rows = {"ISIC_1": "NV", "ISIC_2": "NV", "ISIC_3": "AKIEC"}
    stem = "ISIC2018_Task3_Training"
    tables = {
        f"{stem}_GroundTruth/{stem}_GroundTruth.csv": one_hot("MEL NV BCC AKIEC BKL DF VASC", rows),
        f"{stem}_LesionGroupings.csv": "image,lesion_id,diagnosis_confirm_type\n"
        "ISIC_1,HAM_1,histopathology\nISIC_2,HAM_1,histopathology\nISIC_3,HAM_2,"
        "serial imaging showing no change\n",
    }
    source = open_source(folder(tmp_path, tables, [f"{stem}_Input/{name}.jpg" for name in rows]))
    assert source.kind == "ham10000"
    assert source.table["lesion_id"].tolist() == ["HAM_1", "HAM_1", "HAM_2"]
    assert source.table["dx_type"].tolist() == ["histo", "histo", "follow_up"]


def test_isic_2019_leaves_its_eighth_class_out_and_reads_the_metadata(tmp_path):
    rows = {"I1": "NV", "I2_downsampled": "AK", "I3": "SCC", "I4": "UNK"}
    tables = {
        "ISIC_2019_Training_GroundTruth.csv": one_hot("MEL NV BCC AK BKL DF VASC SCC UNK", rows),
        "ISIC_2019_Training_Metadata.csv": "image,age_approx,anatom_site_general,lesion_id,sex\n"
        "I1,55.0,anterior torso,BCN_1,female\nI2_downsampled,,,,\nI3,40,,,male\n",
    }
    images = [f"ISIC_2019_Training_Input/ISIC_2019_Training_Input/{name}.jpg" for name in rows]
    source = open_source(folder(tmp_path, tables, images))
    assert source.kind == "isic2019"
    assert dx_of(source) == {"I1": "nv", "I2_downsampled": "akiec"}
    assert source.table["lesion_id"].tolist() == ["BCN_1", "I2_downsampled"]
    assert dict(source.left_out).keys() == {"I3", "I4"}


def test_siim_isic_2020_is_binary_with_its_patients_and_passes_the_other_tables_over(tmp_path):
    tables = {
        "train.csv": "image_name,patient_id,sex,age_approx,anatom_site_general_challenge,diagnosis,"
        "benign_malignant,target\nI1,P1,male,45.0,head/neck,unknown,benign,0\n"
        "I2,P1,male,45.0,head/neck,melanoma,malignant,1\n",
        "test.csv": "image_name,patient_id,sex\nI9,P9,female\n",
        "sample_submission.csv": "image_name,target\nI9,0\n",
    }
    source = open_source(folder(tmp_path, tables, ["jpeg/train/I1.jpg", "jpeg/train/I2.jpg"]))
    assert (source.kind, source.labels) == ("isic2020", "binary")
    assert source.table["label"].tolist() == [0, 1]
    assert source.table["patient_id"].tolist() == ["P1", "P1"]
    assert source.table["localization"].tolist() == ["head/neck"] * 2


def test_isic_2024_takes_its_crops_though_none_is_dermoscopic(tmp_path):
    text = (
        "isic_id,target,patient_id,age_approx,image_type,iddx_full,lesion_id\n"
        "I1,0,P1,60,TBP tile: close-up,Benign,\nI2,1,P2,60,TBP tile: close-up,Malignant,IL_1\n"
    )
    tables = {"train-metadata.csv": text, "test-metadata.csv": "isic_id,patient_id\nI9,P1\n"}
    source = open_source(folder(tmp_path, tables, ["train-image/I1.jpg", "train-image/I2.jpg"]))
    assert (source.kind, source.labels) == ("isic2024", "binary")
    assert source.table["label"].tolist() == [0, 1] and not source.left_out


def test_the_crops_of_isic_2024_are_read_from_their_hdf5_file_by_several_processes(tmp_path):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    text = "isic_id,target,patient_id\nI1,0,P1\nI2,1,P2\n"
    folder(
        tmp_path, {"train-metadata.csv": text, "sample_submission.csv": "isic_id,target\nI9,0"}, []
    )
    with h5py.File(tmp_path / "train-image.hdf5", "w") as file:
        for name in ("I1", "I2"):
            file.create_dataset(name, data=np.void(name.encode() * 40))
    store = open_source(tmp_path).store
    assert store.read("I2") == b"I2" * 40 and store.where("I2").endswith("train-image.hdf5/I2")
    with ProcessPoolExecutor(1) as pool:
        assert pool.submit(store.only(["I1"]).read, "I1").result() == b"I1" * 40
    (tmp_path / "train-image.hdf5").write_bytes(b"cut off")
    with pytest.raises(DataError, match=r"cannot read .*train-image.hdf5"):
        open_source(tmp_path)


def test_one_folder_a_class_takes_copies_once_and_keeps_equal_names_apart(tmp_path):
    images = [
        "train/benign/1.jpg",
        "train/malignant/1.jpg",
        "test/benign/1.jpg",
        "test/benign/b.png",
    ]
    source = open_source(folder(tmp_path, {}, images))
    assert source.labels == "binary"
    names = dict(zip(source.table["file_name"], source.table["label"], strict=True))
    assert names == {**dict.fromkeys(images[:1] + images[2:3], 0), images[1]: 1, "b.png": 0}
    for row in source.table.itertuples():
        assert source.store.read(str(row.image_id)).decode().endswith(str(row.file_name))
    (tmp_path / "copy" / "benign").mkdir(parents=True)
    (tmp_path / "copy" / "benign" / "b.png").write_bytes(images[3].encode())
    again = open_source(tmp_path)
    assert len(again.table) == 4 and "1 files are copies" in " ".join(again.notes)


def test_folders_of_diagnoses_are_read_and_mixed_or_unknown_ones_refused(tmp_path):
    images = [
        "Train/nevus/a.jpg",
        "Train/Basal_Cell_Carcinoma/b.jpg",
        "Test/squamous cell carcinoma/c.jpg",
    ]
    source = open_source(folder(tmp_path / "a", {}, images))
    assert dx_of(source) == {"a": "nv", "b": "bcc"} and dict(source.left_out).keys() == {"c"}
    with pytest.raises(DataError, match="benign"):
        open_source(folder(tmp_path / "b", {}, ["nevus/a.jpg", "benign/b.jpg"]))
    with pytest.raises(DataError, match=r"masks 1"):
        open_source(folder(tmp_path / "c", {}, ["nevus/a.jpg", "masks/b.jpg"]))
    with pytest.raises(DataError, match="two classes"):
        two = folder(tmp_path / "d", {}, ["nevus/a.jpg", "melanoma/a.jpg"])
        (two / "melanoma" / "a.jpg").write_bytes((two / "nevus" / "a.jpg").read_bytes())
        open_source(two)


HAMTEST = (
    "lesion_id\timage_id\tdx\tdx_type\tage\tsex\tlocalization\tdataset\n"
    '"HAMTEST_1"\t"T1"\t"nv"\t"histo"\t40.0\t"female"\t"back"\t"x"\n'
    '"HAMTEST_1"\t"T2"\t"nv"\t"histo"\t\t"female"\t"back"\t"x"\n'
    '"HAMTEST_9"\t"ISIC_0035068"\t"nv"\t""\t\t""\t""\t""\n'
)


@pytest.mark.parametrize("place", ["", "ISIC2018_Task3_Test_GroundTruth/"])
def test_the_deposits_own_test_table_keeps_its_lesions(tmp_path, place):
    tables = {f"{place}ISIC2018_Task3_Test_GroundTruth.tab": HAMTEST}
    images = ["ISIC2018_Task3_Test_Images/T1.jpg", "ISIC2018_Task3_Test_Images/T2.jpg"]
    source = open_source(folder(tmp_path, tables, images))
    assert source.kind == "isic2018" and source.table["official_test"].all()
    assert source.table["lesion_id"].tolist() == ["HAMTEST_1"] * 2
    assert source.table["age"].notna().sum() == 1


PATHS = {
    "akiec": "Indeterminate:Indeterminate epidermal proliferations:Solar or actinic keratosis",
    "bcc": "Malignant:Malignant adnexal epithelial proliferations - Follicular"
    ":Basal cell carcinoma",
    "bkl": "Benign:Benign epidermal proliferations:Pigmented benign keratosis",
    "df": "Benign:Benign soft tissue proliferations - Fibro-histiocytic:Dermatofibroma",
    "mel": "Malignant:Malignant melanocytic proliferations (Melanoma):Melanoma, NOS",
    "nv": "Benign:Benign melanocytic proliferations:Nevus",
    "vasc": "Benign:Benign soft tissue proliferations - Vascular",
}


@pytest.mark.realdata
def test_the_archive_layout_of_ham10000_has_the_class_counts_of_the_dataverse_layout(
    ham10000, tmp_path
):
    rows = list(csv.DictReader((ham10000 / "HAM10000_metadata.csv").open()))
    out = io.StringIO()
    writer = csv.writer(out)
    levels = [f"diagnosis_{level}" for level in range(1, 6)]
    writer.writerow(["isic_id", "age_approx", *levels, "image_type", "lesion_id", "sex"])
    for row in rows:
        path = PATHS[row["dx"]].split(":")
        lesion = row["lesion_id"].replace("HAM_", "IL_")
        cells = [*path, *[""] * (5 - len(path)), "dermoscopic", lesion, row["sex"]]
        writer.writerow([row["image_id"], row["age"], *cells])
    folder(tmp_path, {"metadata.csv": out.getvalue()}, [])
    for part in ham10000.glob("*.zip"):
        (tmp_path / part.name).symlink_to(part)
    counts = []
    for source in (ham10000, tmp_path):
        placed = place(open_source(source).table, SAME_LESION_PAIRS, SplitPolicy())
        counts.append(placed.groupby(["split", "dx"]).size().to_dict())
    assert counts[0] == counts[1] and sum(counts[0].values()) == 10015
