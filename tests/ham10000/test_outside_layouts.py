"""Published sets from elsewhere, as small twins of their tables."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.ham10000.source import open_source
from pipeline.ham10000.taxonomy import load


def write(folder: Path, tables: dict[str, str], images: list[str]) -> Path:
    """Tables and one-colour images below ``folder``."""
    for name, text in tables.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for number, name in enumerate(images):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40, 50, 3), 20 + number, np.uint8)).save(folder / name)
    return folder


def pad_ufes(folder: Path) -> Path:
    header = (
        "patient_id,lesion_id,smoke,age,background_father,fitspatrick,region,gender,diagnostic,"
        "itch,img_id,biopsed\n"
    )
    rows = (
        "PAT_1,881,False,55,GERMANY,3.0,NECK,FEMALE,NEV,FALSE,PAT_1_881_1.png,True\n"
        "PAT_1,882,False,55,GERMANY,3.0,FACE,FEMALE,ACK,TRUE,PAT_1_882_2.png,True\n"
        "PAT_2,900,,77,,,HAND,,BCC,TRUE,PAT_2_900_3.png,True\n"
        "PAT_3,901,,70,,2.0,NOSE,MALE,SCC,TRUE,PAT_3_901_4.png,True\n"
    )
    names = ["PAT_1_881_1", "PAT_1_882_2", "PAT_2_900_3", "PAT_3_901_4"]
    images = [f"imgs_part_1/{name}.png" for name in names]
    return write(folder, {"metadata.csv": header + rows}, images)


def test_pad_ufes_20_with_its_own_classes_and_with_the_seven(tmp_path):
    source = pad_ufes(tmp_path / "pad")
    seven = open_source(source).table.set_index("image_id")
    assert seven["dx"].to_dict() == {
        "PAT_1_881_1": "nv",
        "PAT_1_882_2": "akiec",
        "PAT_2_900_3": "bcc",
    }
    own = open_source(source, taxonomy=load("pad-ufes-20")).table.set_index("image_id")
    assert own.loc["PAT_3_901_4", "dx"] == "scc" and len(own) == 4
    assert own["skin_tone"].to_list() == ["3", "3", "unknown", "2"]
    assert own["localization"].to_list() == ["NECK", "FACE", "HAND", "NOSE"]
    assert own["patient_id"].to_list() == ["PAT_1", "PAT_1", "PAT_2", "PAT_3"]


def test_bcn20000(tmp_path):
    table = (
        "bcn_filename,age_approx,anatom_site_general,diagnosis,lesion_id,capture_date,sex,split\n"
        "BCN_0000000001.jpg,55.0,anterior torso,MEL,BCN_0003884,2012-05-16,male,train\n"
        "BCN_0000000003.jpg,50.0,,SCC,BCN_0000019,2015-07-09,female,train\n"
        "BCN_0000000004.jpg,85.0,head/neck,AK,BCN_0003499,2015-11-23,male,train\n"
    )
    images = [f"BCN_20k_train/BCN_000000000{n}.jpg" for n in (1, 3, 4)]
    source = write(tmp_path / "bcn", {"bcn_20k_train.csv": table}, images)
    found = open_source(source)
    assert found.table["dx"].to_list() == ["mel", "akiec"]
    assert [name for name, _ in found.left_out] == ["BCN_0000000003"]
    eight = open_source(source, taxonomy=load("isic2019")).table
    assert eight["dx"].to_list() == ["mel", "scc", "ak"]
    assert eight["lesion_id"].iloc[0] == "BCN_0003884" and eight["age"].iloc[2] == 85


def test_derm7pt(tmp_path):
    header = "case_num,diagnosis,seven_point_score,pigment_network,location,sex,clinic,derm,id\n"
    rows = (
        "1,clark nevus,0,absent,abdomen,female,NEL/NEL025.JPG,NEL/Nel026.jpg,\n"
        "2,melanoma (in situ),1,atypical,back,male,NEL/NEL027.JPG,NEL/Nel028.jpg,\n"
        "3,reed or spitz nevus,1,absent,back,male,NEL/NEL029.JPG,NEL/Nel030.jpg,\n"
        "4,miscellaneous,1,absent,back,male,NEL/NEL031.JPG,NEL/Nel032.jpg,\n"
    )
    images = [f"images/NEL/Nel0{n}.jpg" for n in (26, 28, 30, 32)]
    source = write(tmp_path / "release_v0", {"meta/meta.csv": header + rows}, images)
    found = open_source(source)
    assert found.table["dx"].to_list() == ["nv", "mel", "nv"]
    assert found.table["localization"].to_list() == ["abdomen", "back", "back"]
    assert len(found.left_out) == 1 and "miscellaneous" in found.left_out[0][1]


def test_milk10k_joins_diagnoses_by_lesion(tmp_path):
    truth = (
        "lesion_id,AKIEC,BCC,BEN_OTH,BKL,DF,INF,MAL_OTH,MEL,NV,SCCKA,VASC\n"
        "IL_0000652,0.0,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0\n"
        "IL_0003176,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,1.0,0.0\n"
    )
    meta = (
        "lesion_id,image_type,isic_id,attribution,age_approx,sex,skin_tone_class,site,MONET_hair\n"
        "IL_0000652,clinical: close-up,ISIC_1,MILK,65,male,3,trunk,0.1\n"
        "IL_0000652,dermoscopic,ISIC_2,MILK,65,male,3,trunk,0.1\n"
        "IL_0003176,clinical: close-up,ISIC_3,MILK,75,female,5,head_neck,0.2\n"
        "IL_0003176,dermoscopic,ISIC_4,MILK,75,female,5,head_neck,0.2\n"
    )
    lesions = {"IL_0000652": (1, 2), "IL_0003176": (3, 4)}
    images = [f"MILK10k_Training_Input/{k}/ISIC_{n}.jpg" for k, v in lesions.items() for n in v]
    tables = {"MILK10k_Training_GroundTruth.csv": truth, "MILK10k_Training_Metadata.csv": meta}
    source = write(tmp_path / "milk", tables, images)
    table = open_source(source, taxonomy=load("milk10k")).table
    assert table["image_id"].to_list() == ["ISIC_2", "ISIC_4"]
    assert table["dx"].to_list() == ["bcc", "sccka"]
    assert table["skin_tone"].to_list() == ["3", "5"]
    clinical = open_source(source, taxonomy=load("milk10k"), image_types=["clinical"]).table
    assert clinical["image_id"].to_list() == ["ISIC_1", "ISIC_3"]


@pytest.fixture
def ddi(tmp_path):
    rows = [
        f"{n},{n},{n:06d}.png,{(12, 34, 56)[n % 3]},{n % 2 == 0},{('melanoma', 'wart')[n % 2]}"
        for n in range(1, 25)
    ]
    table = "\n".join([",DDI_ID,DDI_file,skin_tone,malignant,disease", *rows]) + "\n"
    images = [f"{n:06d}.png" for n in range(1, 25)]
    return write(tmp_path / "ddi", {"ddi_metadata.csv": table}, images)


def test_ddi_is_packed_whole_as_a_test_split_with_its_skin_tones(ddi, command, tmp_path):
    out = tmp_path / "shards"
    where = ("--source", ddi, "--out", out, "--image-size", "32", "--workers", "1")
    done = command("-m", "pipeline.shards", "build", *where, "--test-fraction", "1")
    assert done.returncode == 0, done.stderr
    samples = pd.read_csv(out / "samples.csv", dtype=str)
    assert set(samples["split"]) == {"test"} and len(samples) == 24
    assert samples["skin_tone"].value_counts().to_dict() == {"12": 8, "34": 8, "56": 8}
    assert json.loads((out / "manifest.json").read_text())["labels"] == "binary"
    assert (samples["label"] == "1").sum() == 12
    done = command("-m", "pipeline.shards", "verify", out)
    assert done.returncode == 0, done.stderr
