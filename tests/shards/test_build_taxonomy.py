"""``build --taxonomy``: the classes of the shards, in the tars and in the manifest."""

import json
import tarfile
from pathlib import Path

import pytest

from pipeline.errors import DataError
from pipeline.ham10000.taxonomy import HAM10000, SHIPPED, described, load
from pipeline.loading.samples import Samples
from pipeline.shards.dataset import open_shards
from pipeline.shards.verify import verify


def own_source(root: Path, shared_source: Path, classes: tuple[str, ...]) -> Path:
    """The 60 images of ``shared_source``, each class in turn in a table of one's own."""
    root.mkdir()
    (root / "images").symlink_to(shared_source / "HAM10000_images_part_1")
    names = sorted(path.stem for path in (root / "images").glob("*.jpg"))
    rows = [f"{name},{classes[k % len(classes)].upper()}" for k, name in enumerate(names)]
    (root / "table.csv").write_text("\n".join(["image_id,dx", *rows]))
    return root


@pytest.mark.parametrize("name", sorted({*SHIPPED} - {"ham10000"}))
def test_shards_of_a_shipped_taxonomy_have_its_classes(shared_source, tmp_path, build, name):
    taxonomy = load(name)
    source = own_source(tmp_path / "source", shared_source, taxonomy.classes)
    out = build(source, taxonomy=name)
    shards = open_shards(out)
    assert shards.taxonomy == taxonomy and shards.manifest.taxonomy["dx"] == [*taxonomy.classes]
    assert set(shards.samples["dx"]) == set(taxonomy.classes)
    split = shards.split("train")
    assert set(split.entries[0].class_counts) == set(taxonomy.classes)
    members = []
    for tar in split.tars:
        with tarfile.open(tar) as file:
            members += [file.extractfile(m).read() for m in file if m.name.endswith(".cls")]
    codes = [taxonomy.classes[int(member)] for member in members]
    assert codes == split.samples["dx"].tolist()
    assert Samples(split).labels.tolist() == [int(member) for member in members]
    assert verify(out, progress=False).problems == ()


def test_a_manifest_says_no_more_than_before_where_the_classes_are_ham10000s(shared_shards):
    manifest = json.loads((shared_shards / "manifest.json").read_text())
    assert manifest["taxonomy"] == {
        "dx": ["akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"],
        "malignant": ["akiec", "bcc", "mel"],
    }
    assert described(manifest["taxonomy"]) is HAM10000


def test_the_same_images_with_other_classes_are_another_build(
    shared_source, shared_shards, tmp_path, build
):
    text = 'classes = ["nv", "mel", "bcc", "bkl", "akiec", "df", "vasc"]\nmalignant = ["mel"]\n'
    (tmp_path / "own.toml").write_text(text)
    out = build(shared_source, taxonomy=tmp_path / "own.toml")
    samples = open_shards(out).samples
    assert set(samples.loc[samples["label"] == 1, "dx"]) == {"mel"}
    build(shared_source, taxonomy=tmp_path / "own.toml")  # the same one: nothing to do
    (tmp_path / "own.toml").write_text(text + "title = 'mine'\n")
    with pytest.raises(DataError, match="made from another taxonomy"):
        build(shared_source, taxonomy=tmp_path / "own.toml")


def test_a_word_that_maps_to_no_class_is_named(shared_source, tmp_path, build):
    source = own_source(tmp_path / "source", shared_source, ("nv", "wart"))
    with pytest.raises(DataError, match="dx is 'WART', expected one of mel, nv, bcc, ak, bkl"):
        build(source, taxonomy="isic2019")
