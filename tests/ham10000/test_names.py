"""Names of image files become keys of shards, and lead back to their files."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import DataError
from pipeline.ham10000.images import ImageStore, require_images
from pipeline.ham10000.names import key, locate


@pytest.mark.parametrize("name", ["ISIC_0024306", "ISIC_0024306.jpg", "ISIC_0024306.JPG"])
def test_a_name_that_can_be_a_key_stays_as_it_is(name):
    assert key(name) == "ISIC_0024306"


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_every_name_gets_a_key_that_tar_index_and_webdataset_take(name):
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}", key(name))


def test_keys_of_different_names_differ_and_do_not_depend_on_unicode_form_or_slashes():
    names = [
        "a b.jpg",
        "a-b.jpg",
        "a+b.jpg",
        "a.b.jpg",
        "ä b.jpg",
        "x/a b.jpg",
        "病变.png",
        "-.png",
    ]
    assert len({key(name) for name in names}) == len(names)
    assert key("Läsion_1.jpg") == key(unicodedata.normalize("NFD", "Läsion_1.png"))
    assert key("P1\\a b.jpg") == key("./P1/a b.jpg")


@pytest.mark.parametrize(
    ("names", "files", "expected"),
    [
        ({"k": "NEL\\1.JPG"}, ["x/NEL/1.jpg", "x/OTH/1.jpg"], {"k": [0]}),
        ({"k": "1"}, ["a/1.jpg", "b/1.jpg"], {"k": [0, 1]}),
        ({"k": "a/1"}, ["b/a/1.jpg", "a/1.jpg"], {"k": [1]}),
        ({"k": "1.png"}, ["1.jpg", "1.png"], {"k": [1]}),
        ({"k": "D:\\a\\P1\\1.jpg", "l": "D:\\a\\P2\\1.jpg"}, ["P1/1.jpg", "P2/1.jpg"], None),
        ({"k": "P1/1.jpg", "l": "P2/1.jpg"}, ["P1/1.jpg"], {"k": [0]}),
        ({"k": "Läsion.jpg"}, [unicodedata.normalize("NFD", "Läsion.jpg")], {"k": [0]}),
        ({"k": "1.2.840.1"}, ["1.2.840.1.jpg"], {"k": [0]}),
    ],
)
def test_a_name_leads_to_its_file(names, files, expected):
    assert locate(names, files) == (expected or {"k": [0], "l": [1]})


def test_a_name_that_two_different_files_claim_is_refused(tmp_path):
    for folder, data in (("a", b"one"), ("b", b"other")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x 1.jpg").write_bytes(data)
    with pytest.raises(DataError, match="two different images are called x-1"):
        require_images(["x-1"], ImageStore(tmp_path, {"x-1": "x 1"}))
    store = ImageStore(tmp_path, {"x-1": "b/x 1.jpg"})
    assert store.read("x-1") == b"other"
