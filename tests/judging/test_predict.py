"""``eval.py predict`` in this process, with a tiny network of random weights."""

import io
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageCms

from pipeline import files
from pipeline.errors import DataError
from pipeline.evaluation.flags import PredictFlags
from pipeline.files import publish_folder
from pipeline.ham10000.taxonomy import HAM10000
from pipeline.judging.predict import predict as predict_images
from pipeline.learning.model import build_model
from pipeline.learning.stored_model import ModelCard, samples_csv, stored_files
from pipeline.shards.packing.encode import encode
from pipeline.shards.packing.shard_plan import EncodeSettings

ARCH = "shufflenet_v2_x0_5"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    card = ModelCard(arch=ARCH, task="dx", classes=HAM10000.classes, image_size=32)
    samples = pd.DataFrame(columns=["image_id", "lesion_id", "group", "split"])
    folder = tmp_path_factory.mktemp("run") / "best"
    publish_folder(
        folder, stored_files(build_model(ARCH, 7).state_dict(), card, samples_csv(samples))
    )
    return folder


def picture(number: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(10):
        picture(number).save(folder / f"{number}.jpg", quality=95)
    return folder


@pytest.fixture
def predict(checkpoint, tmp_path):
    """``predict(*places, out="out", **flags)`` returns the table."""

    def run(*places: Path, out: str = "out", **flags) -> pd.DataFrame:
        where = {"checkpoint": checkpoint, "out": tmp_path / out}
        predict_images(PredictFlags(images=places, batch_size=3, workers=1, **where, **flags))
        return pd.read_csv(tmp_path / out / "predictions.csv")

    return run


def test_a_stopped_predict_goes_on_with_what_is_missing_and_writes_the_same(
    photos, predict, tmp_path, monkeypatch
):
    predict(photos, out="whole")
    reached: list[str] = []

    def stop(moment: str, what: str) -> None:
        if moment == "batch":
            reached.append(what)
            if len(reached) == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr(files, "watchers", [stop])
    with pytest.raises(KeyboardInterrupt):
        predict(photos)
    assert not (tmp_path / "out" / "predictions.csv").exists()
    with (tmp_path / "out" / ".predicting" / "0.jsonl").open("a") as file:
        file.write('{"batch": 3, "logi')  # as a kill leaves a line
    predict(photos)
    assert reached == ["0", "1", "2", "3"]
    for name in ("predictions.csv", "predictions.png"):
        whole, resumed = (tmp_path / out / name for out in ("whole", "out"))
        assert whole.read_bytes() == resumed.read_bytes()
    assert not (tmp_path / "out" / ".predicting").exists()


def test_another_list_of_images_starts_anew(photos, predict, tmp_path):
    (photos / "9.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"9\.jpg: the file is empty.*--on-bad-image skip"):
        predict(photos)
    picture(99).save(photos / "9.jpg")
    table = predict(photos)
    assert len(table) == 10 and not (tmp_path / "out" / "rejected.csv").exists()


def test_bad_images_are_left_out_and_listed_where_asked(photos, predict, tmp_path, capsys):
    alone = predict(photos, out="alone").set_index("image")
    (photos / "cut.jpg").write_bytes((photos / "0.jpg").read_bytes()[:400])
    (photos / "lfs.jpg").write_text("version https://git-lfs.github.com/spec/v1\nsize 9\n")
    (photos / "nowhere.jpg").symlink_to(photos / "gone.jpg")
    with pytest.raises(DataError, match=r"cannot read .*nowhere\.jpg.*--on-bad-image skip"):
        predict(photos)
    table = predict(photos, on_bad_image="skip").set_index("image")
    np.testing.assert_allclose(table["prob_malignant"], alone["prob_malignant"], atol=1e-6)
    rejected = pd.read_csv(tmp_path / "out" / "rejected.csv")
    assert [Path(name).name for name in rejected["image"]] == ["cut.jpg", "lfs.jpg", "nowhere.jpg"]
    for words, reason in zip(
        ("truncated", "git lfs pull", "No such"), rejected["reason"], strict=True
    ):
        assert words in reason
    assert "3 images are left out" in capsys.readouterr().out
    for path in photos.glob("?.jpg"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="none of 13 images can be read"):
        predict(photos, on_bad_image="skip")


def test_folders_of_other_systems_and_formats(photos, predict, tmp_path, capsys):
    for name in ("._0.jpg", ".DS_Store", "Thumbs.db", ".hidden/a.jpg", "__MACOSX/b.jpg"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes(b"x")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "disk").symlink_to(photos)
    (photos / "loop").symlink_to(tmp_path / "linked")
    (photos / "a.heic").write_bytes(b"x")
    assert len(predict(tmp_path / "linked")) == 10
    said = capsys.readouterr().err
    assert "a loop, not followed" in said and "1 .heic" in said
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "a.HEIC").write_bytes(b"x")
    with pytest.raises(DataError, match=r"no images in this folder .*1 \.heic\): convert them"):
        predict(tmp_path / "phone")


def test_any_file_name_has_a_row_in_a_table_of_utf8(photos, predict):
    names = [b"L\xe4sion.jpg", "größe (1).JPG".encode(), b'a,"b".jpeg', b"line\nbreak.jpg"]
    for old, name in zip(sorted(photos.iterdir()), names, strict=False):
        os.rename(old, os.fsencode(photos) + b"/" + name)  # noqa: PTH104 - bytes
    found = [name.rpartition("/")[2] for name in predict(photos)["image"]]
    assert {"L\\xe4sion.jpg", "größe (1).JPG", 'a,"b".jpeg', "line\nbreak.jpg"} <= set(found)


def variants(image: Image.Image) -> dict[str, tuple[Image.Image, dict]]:
    """One picture as many kinds of file; each shows the same colours."""
    swapped = Image.merge("RGB", [image.getchannel(band) for band in "GRB"])
    return {
        "plain.png": (image, {}),
        "alpha.png": (image.convert("RGBA"), {}),
        "strip.tif": (image, {"compression": "tiff_lzw"}),
        "pages.tiff": (image, {"save_all": True, "append_images": [swapped]}),
        "windows.bmp": (image, {}),
        "lossless.webp": (image, {"lossless": True}),
        "turned.png": (image.transpose(Image.Transpose.ROTATE_90), {"exif": turned()}),
        "profile.png": (swapped, {"icc_profile": exchanged()}),
        "srgb.png": (image, {"icc_profile": ImageCms.ImageCmsProfile(SRGB).tobytes()}),
        "named.jpg": (image, {"format": "PNG"}),
    }


SRGB = ImageCms.createProfile("sRGB")


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def exchanged() -> bytes:
    """A profile whose red and green are exchanged."""
    data = bytearray(ImageCms.ImageCmsProfile(SRGB).tobytes())
    count = int.from_bytes(data[128:132], "big")
    tags = {bytes(data[at : at + 4]): at + 4 for at in range(132, 132 + 12 * count, 12)}
    for one, other in ((b"rXYZ", b"gXYZ"), (b"rTRC", b"gTRC")):
        a, b = slice(tags[one], tags[one] + 8), slice(tags[other], tags[other] + 8)
        data[a], data[b] = data[b], data[a]
    return bytes(data)


def test_a_picture_is_the_same_to_predict_and_build_in_every_kind_of_file(predict, tmp_path):
    folder = tmp_path / "kinds"
    folder.mkdir()
    image = picture(3)
    for name, (pixels, options) in variants(image).items():
        pixels.save(folder / name, **options)
    found = predict(folder)["prob_malignant"]
    np.testing.assert_allclose(found, found[0], atol=2e-4)
    for path in folder.iterdir():
        packed, _ = encode(path.read_bytes(), EncodeSettings(jpeg_quality=100))
        pixels = np.asarray(Image.open(io.BytesIO(packed)), int)
        assert np.abs(pixels - np.asarray(image, int)).mean() < 6, path.name
