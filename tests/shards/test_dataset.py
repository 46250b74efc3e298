"""Opened shards: splits, folds, and where each JPEG lies."""

import json
import tarfile

import pytest

from pipeline.errors import DataError
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
