import contextlib
import io
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from pipeline.errors import DataError
from pipeline.ham10000.taxonomy import HAM10000
from pipeline.shards.dataset import open_shards
from pipeline.shards.format import TarSample, read_index, read_tar, write_tar

SAMPLES = [
    TarSample("ISIC_0000001", b"\xff\xd8" + bytes(1000), b"4", b'{"a": 1}'),
    TarSample("ISIC_0000002", bytes(512), b"5", b"{}"),
    TarSample("x" * 80, bytes(1), b"0", b"{}"),
]


def by_tarfile(samples: list[TarSample]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in samples:
            for extension, data in zip(("jpg", "cls", "json"), sample[1:], strict=True):
                info = tarfile.TarInfo(f"{sample.image_id}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def test_tar_is_byte_for_byte_what_tarfile_writes():
    assert b"".join(write_tar(SAMPLES)[0]) == by_tarfile(SAMPLES)


def test_tar_has_no_time_owner_or_extension_header():
    with tarfile.open(fileobj=io.BytesIO(b"".join(write_tar(SAMPLES)[0]))) as tar:
        for member in tar:
            assert (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o644)
            assert (member.uname, member.gname, member.pax_headers) == ("", "", {})


def test_index_is_the_one_dali_writes(tmp_path):
    pieces, index = write_tar(SAMPLES)
    (tmp_path / "a.tar").write_bytes(b"".join(pieces))
    tool = Path(sys.executable).with_name("wds2idx")
    if not tool.exists():
        pytest.skip("DALI's wds2idx is not installed here")
    subprocess.run([tool, tmp_path / "a.tar", tmp_path / "a.idx"], check=True, capture_output=True)
    assert (tmp_path / "a.idx").read_bytes() == index


def test_index_points_at_the_payloads(tmp_path):
    pieces, index = write_tar(SAMPLES)
    tar = b"".join(pieces)
    (tmp_path / "a.idx").write_bytes(index)
    found = read_index(tmp_path / "a.idx")
    assert found.names == tuple(sample.image_id for sample in SAMPLES)
    for sample, offset, size in zip(SAMPLES, found.jpg_offset, found.jpg_size, strict=True):
        assert tar[offset : offset + size] == sample.jpg
    assert found.jpg_offset.dtype == found.jpg_size.dtype == np.int64


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v1.1 0\n",
        "v1.2 2\njpg 1 2 a.jpg cls 3 1 a.cls json 4 5 a.json\n",
        "v1.2 1\njpg 1 2 a.jpg\n",
        "v1.2 1\nnonsense\n",
    ],
)
def test_unusable_index_is_refused(tmp_path, text):
    (tmp_path / "a.idx").write_text(text)
    with pytest.raises(DataError, match="not a usable index"):
        read_index(tmp_path / "a.idx")


def test_missing_index_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot read the index"):
        read_index(tmp_path / "a.idx")


def test_tar_is_read_back_as_it_was_written(tmp_path):
    (tmp_path / "a.tar").write_bytes(by_tarfile(SAMPLES))
    assert read_tar(tmp_path / "a.tar") == SAMPLES


@pytest.mark.parametrize(
    "names", [("a.jpg", "a.json", "a.cls"), ("a.jpg", "a.cls"), ("a.jpg",) * 3]
)
def test_tar_of_something_else_than_samples_is_refused(tmp_path, names):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(DataError, match="expected the files"):
        read_tar(tmp_path / "a.tar")


@pytest.mark.parametrize("cut", [1, 513, 3000])
def test_truncated_tar_is_refused_or_lacks_samples(tmp_path, cut):
    tar = b"".join(write_tar(SAMPLES)[0])
    end = tar.rindex(b"{}") + 512
    (tmp_path / "a.tar").write_bytes(tar[: end - cut])
    with contextlib.suppress(DataError):
        assert read_tar(tmp_path / "a.tar") != SAMPLES


def test_gnu_tar_lists_the_samples_in_order(packed):
    shards = open_shards(packed)
    for path in shards.split("train").tars:
        done = subprocess.run(["tar", "tf", path], check=True, capture_output=True, text=True)
        names = shards.samples.loc[
            shards.samples["shard"] == path.relative_to(packed).as_posix(), "image_id"
        ]
        assert done.stdout.split() == [f"{n}.{e}" for n in names for e in ("jpg", "cls", "json")]
        assert done.stderr == ""


def test_plain_webdataset_reads_what_the_table_says(packed):
    for split in ("train", "val", "test"):
        part = open_shards(packed).split(split)
        urls = [str(path) for path in part.tars]
        read = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil"))
        assert [sample["__key__"] for sample in read] == part.samples["image_id"].tolist()
        for sample, row in zip(read, part.samples.to_dict("records"), strict=True):
            assert isinstance(sample["jpg"], Image.Image) and min(sample["jpg"].size) == 64
            assert HAM10000.classes[sample["cls"]] == row["dx"] == sample["json"]["dx"]
            assert sample["json"]["lesion_id"] == row["lesion_id"]
