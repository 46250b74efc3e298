"""croissant.json, read by mlcroissant where that is installed, else by hand."""

import hashlib
import json

import pytest

from pipeline.shards.dataset import open_shards
from pipeline.shards.verify import verify


@pytest.fixture
def root(shared_source, build):
    return build(shared_source, croissant=True, keep_licenses=True)


def test_it_names_every_file_with_its_digest_and_every_column(root):
    content = json.loads((root / "croissant.json").read_text())
    listed = {e["contentUrl"]: e["sha256"] for e in content["distribution"] if "contentUrl" in e}
    files = [*root.glob("*/*.tar"), root / "samples.csv"]
    digests = {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()) for p in files}
    assert listed == {name: digest.hexdigest() for name, digest in digests.items()}
    columns = [field["@id"] for field in content["recordSet"][0]["field"]]
    assert columns == [f"samples/{name}" for name in open_shards(root).samples.columns]
    assert content["license"] == ["CC-BY-NC"]
    assert not verify(root, progress=False).problems


def test_it_stands_beside_an_unchanged_manifest_and_only_where_asked_for(
    shared_source, shared_shards, build
):
    root = build(shared_source, croissant=True)
    assert (root / "manifest.json").read_bytes() == (shared_shards / "manifest.json").read_bytes()
    assert (root / "croissant.json").exists() and not (shared_shards / "croissant.json").exists()


def test_mlcroissant_reads_rows_and_images(root):
    mlcroissant = pytest.importorskip("mlcroissant")
    dataset = mlcroissant.Dataset(str(root / "croissant.json"))
    rows = list(dataset.records("samples"))
    assert sorted(row["samples/image_id"].decode() for row in rows) == sorted(
        open_shards(root).samples["image_id"]
    )
    images = list(dataset.records("jpegs"))
    assert len(images) == len(rows) and images[0]["jpegs/image"].size == (48, 36)
