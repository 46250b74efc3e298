"""Our shards through webdataset: the loader's samples, each once over ranks and workers."""

import io
import json

import numpy as np
import pytest
import webdataset
from PIL import Image
from torch.utils.data import DataLoader

import pipeline
import pipeline.shards
from pipeline.errors import DataError
from pipeline.loading.samples import Samples
from pipeline.shards import as_webdataset
from pipeline.shards.dataset import open_shards


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_samples_are_those_of_the_loader(packed, split):
    samples = Samples(open_shards(packed).split(split))
    found = list(as_webdataset(packed, split, decode=False))
    assert [sample["image_id"] for sample in found] == [
        samples.image_id(row) for row in range(len(samples))
    ]
    assert [sample["label"] for sample in found] == samples.labels.tolist()
    assert [sample["image"] for sample in found] == [samples.read(i) for i in range(len(samples))]


def test_samples_are_those_of_plain_webdataset_decoded(packed):
    tars = [str(path) for path in open_shards(packed).split("val").tars]
    plain = list(webdataset.WebDataset(tars, shardshuffle=False))
    found = list(as_webdataset(str(packed), "val"))
    for sample, members in zip(found, plain, strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(members["jpg"]))).astype(int)
        assert sample["image"].dtype == np.uint8 and sample["image"].shape == pixels.shape
        assert np.abs(sample["image"] - pixels).max() <= 1
        assert sample["image_id"] == members["__key__"]
        assert sample["label"] == int(members["cls"])
        assert sample["metadata"] == json.loads(members["json"])


@pytest.mark.parametrize("shuffle", [0, 16])
def test_two_ranks_of_two_workers_get_every_sample_once(packed, monkeypatch, shuffle):
    names: list[str] = []
    for rank in (0, 1):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        pipe = as_webdataset(packed, "train", shuffle=shuffle)
        share = [s["image_id"] for s in DataLoader(pipe, batch_size=None, num_workers=2)]
        assert len(share) >= 20  # at least one shard of each rank
        names += share
    assert sorted(names) == sorted(open_shards(packed).split("train").samples["image_id"])


def test_more_workers_than_shards_is_no_error(packed):
    loader = DataLoader(as_webdataset(packed, "test"), batch_size=None, num_workers=2)
    assert len(list(loader)) == len(open_shards(packed).split("test"))


def test_shuffle_has_another_order_each_epoch_and_the_seed_gives_it_again(packed):
    def ids(pipe) -> list[str]:
        return [sample["image_id"] for sample in pipe]

    pipe, again = (as_webdataset(packed, "train", shuffle=50, seed=3) for _ in range(2))
    first, second = ids(pipe), ids(pipe)
    assert first != second and sorted(first) == sorted(second)
    assert [ids(again), ids(again)] == [first, second]
    assert ids(as_webdataset(packed, "train", shuffle=50, seed=9)) != first


def test_labels_are_int64_when_batched(packed):
    pipe = as_webdataset(packed, "val", decode=False).to_tuple("image_id", "label").batched(4)
    names, labels = next(iter(pipe))
    assert labels.dtype == np.int64 and len(names) == len(labels) == 4


def test_a_fold_is_read_as_its_split(build, shared_source):
    root = build(shared_source, folds=3)
    found = [s["image_id"] for s in as_webdataset(root, "val", fold=1, decode=False)]
    assert found == open_shards(root).split("val", 1).samples["image_id"].tolist()
    with pytest.raises(DataError, match="name a fold"):
        as_webdataset(root, "val")


def test_a_damaged_image_is_named(packed, tmp_path, build, shared_source):
    root = build(shared_source)
    path = open_shards(root).split("test").tars[0]
    data = bytearray(path.read_bytes())
    data[512 : 512 + 400] = bytes(400)
    path.write_bytes(data)
    name = open_shards(root).split("test").samples["image_id"][0]
    with pytest.raises(DataError, match=f"cannot decode {name} in .*{path.name}"):
        list(as_webdataset(root, "test"))


def test_both_packages_offer_it():
    assert pipeline.as_webdataset is pipeline.shards.as_webdataset is as_webdataset
