"""Opened shards: splits, folds, and where each JPEG lies."""

import gc
import json
import tarfile
import tracemalloc

import pytest

from benchmarks.tiny_shards import write_tiny_shards
from pipeline.errors import DataError
from pipeline.loading.samples import Samples
from pipeline.shards.dataset import open_shards


def test_folds_give_each_image_to_validation_once(shared_source, build):
    shards = open_shards(build(shared_source, folds=4))
    held_out = [set(shards.split("val", fold).samples["image_id"]) for fold in range(4)]
    test = set(shards.split("test", 2).samples["image_id"])
    assert sum(map(len, held_out)) == len(set().union(*held_out)) == 60 - len(test)
    for fold, inside in enumerate(held_out):
        train = shards.split("train", fold)
        assert set(train.samples["image_id"]) == set().union(*held_out) - inside
        assert set(train.samples["split"]) == {"train"}
        names = list(train.samples["image_id"])
        where = train.locations()
        assert len(names) == len(where.size) and train.tars[-1].is_file()
    for fold in (None, 4, -1):
        with pytest.raises(DataError, match="4-fold"):
            shards.split("val", fold)


def test_wrong_splits_are_explained(shared_source, build):
    shards = open_shards(build(shared_source, test_fraction=0.0))
    with pytest.raises(DataError, match="no samples in split 'test'"):
        shards.split("test")
    with pytest.raises(DataError, match="no split 'valid'; there are train, val, test"):
        shards.split("valid")
    with pytest.raises(DataError, match="has no folds"):
        shards.split("val", 0)


def test_locations_point_at_each_samples_jpeg(packed):
    split = open_shards(packed).split("val")
    where = split.locations()
    for number, name in enumerate(split.samples["image_id"]):
        tar = split.tars[where.shard[number]]
        data = tar.read_bytes()[where.offset[number] :][: where.size[number]]
        with tarfile.open(tar) as archive:
            member = archive.extractfile(f"{name}.jpg")
            assert member is not None and member.read() == data
            described = archive.extractfile(f"{name}.json")
            assert described is not None and json.loads(described.read())["image_id"] == name


def test_a_rank_keeps_less_than_a_hundred_bytes_an_image(tmp_path):
    write_tiny_shards(tmp_path, shards=5, samples_per_shard=2000)
    Samples(open_shards(tmp_path).split("train"))  # imports, caches
    gc.collect()
    tracemalloc.start()
    split = open_shards(tmp_path).split("train")
    samples = Samples(split)
    gc.collect()
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(samples) == len(split) == 10_000
    assert samples.image_id(9_999) == split.samples["image_id"].iloc[-1]
    assert samples.rows(["ISIC_0000007", "ISIC_0009999", "ISIC_0000003"]) == [7, 9_999, 3]
    assert kept < 100 * len(samples) and peak < 1000 * len(samples)
