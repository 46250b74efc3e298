"""Every byte is read once before training, and again when a file changed."""

import os
import shutil
import zlib
from pathlib import Path

import pytest

from pipeline.errors import DataError
from pipeline.shards.dataset import open_shards
from pipeline.shards.format import read_tar
from pipeline.shards.intact import checksums, ensure_intact


@pytest.fixture
def root(shared_shards, tmp_path, monkeypatch) -> Path:
    """Shards that this test may damage, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(shutil.copytree(shared_shards, tmp_path / "shards"))


def check(root: Path, *splits: str) -> None:
    ensure_intact(open_shards(root), splits, progress=False)


def flip_a_byte(root: Path) -> Path:
    path = sorted(root.glob("train/*.tar"))[0]
    data = bytearray(path.read_bytes())
    data[2000] ^= 1
    path.write_bytes(data)
    return path


def test_damage_that_opening_cannot_see_is_found_in_the_splits_that_are_read(root):
    path = flip_a_byte(root)
    with pytest.raises(DataError, match=f"{path.name} is damaged"):
        check(root, "val", "train")
    check(root, "val", "test")


def test_shards_found_undamaged_are_not_read_again_until_their_mtime_changes(root):
    check(root, "train")
    split = open_shards(root).split("train")
    jpegs = [sample.jpg for tar in split.tars for sample in read_tar(tar)]
    known = checksums(split)
    assert known is not None and known.tolist() == [zlib.crc32(jpeg) for jpeg in jpegs]
    path = sorted(root.glob("train/*.tar"))[0]
    stamp = path.stat().st_mtime_ns
    flip_a_byte(root)
    os.utime(path, ns=(stamp, stamp))
    check(root, "train")  # the damage shows only to one who reads the bytes
    os.utime(path)
    assert checksums(split) is None
    with pytest.raises(DataError, match="is damaged"):
        check(root, "train")


def test_val_of_a_cross_validation_is_read_where_it_lies(build, shared_source, monkeypatch):
    root = build(shared_source, folds=3)
    monkeypatch.setenv("XDG_CACHE_HOME", str(root / "cache"))
    flip_a_byte(root)
    check(root, "test")
    with pytest.raises(DataError, match="is damaged"):
        check(root, "val")


def test_unwritable_cache_only_costs_a_second_reading(root, tmp_path, monkeypatch):
    (tmp_path / "blocked").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "blocked"))
    check(root, "train")
    assert (tmp_path / "blocked").read_text() == ""
    flip_a_byte(root)
    with pytest.raises(DataError, match="is damaged"):
        check(root, "train")
