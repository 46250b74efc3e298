"""A build that was stopped, killed or out of space continues to the same bytes."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import files
from pipeline.errors import DataError
from pipeline.owner import OWNER, sole_writer
from pipeline.shards.dataset import open_shards
from pipeline.shards.packing.pack import PackWork

ROOT = Path(__file__).resolve().parents[2]


class StopAfter:
    """An engine that ends abruptly once some shards are complete."""

    def __init__(self, shards: int) -> None:
        self.shards = shards
        self.packed: list[str] = []

    def __call__(self, work: PackWork, shards):
        for shard in shards:
            if len(self.packed) == self.shards:
                raise KeyboardInterrupt
            self.packed.append(shard.path)
            yield work(shard)


def test_stopped_build_continues_from_complete_shards_to_the_same_bytes(source, build, contents):
    whole = contents(build(source, "whole"))
    with pytest.raises(KeyboardInterrupt):
        build(source, engine=StopAfter(3))
    out = source.parent / "out"
    with pytest.raises(DataError, match="did not finish"):
        open_shards(out)
    for name in (".partial-1-ham10000-train-000009.tar", ".ham10000-train-000009.tar.1.partial"):
        (out / "train" / name).write_bytes(b"half a shard")  # of an earlier version, of this one
    rest = StopAfter(99)
    build(source, engine=rest)
    assert len(rest.packed) == sum(name.endswith(".tar") for name in whole) - 3
    assert contents(out) == whole


def test_shard_damaged_between_two_starts_is_packed_again(source, build, contents):
    whole = contents(build(source, "whole"))
    with pytest.raises(KeyboardInterrupt):
        build(source, engine=StopAfter(3))
    out = source.parent / "out"
    tars = sorted(out.rglob("*.tar"))
    tars[0].write_bytes(tars[0].read_bytes()[:-512])
    tars[1].with_suffix(".idx").unlink()
    rest = StopAfter(99)
    build(source, engine=rest)
    assert {name.split("/")[-1] for name in rest.packed} >= {tars[0].name, tars[1].name}
    assert contents(out) == whole


@pytest.mark.parametrize("change", ["flag", "image"])
def test_stopped_build_from_other_flags_or_images_is_removed(source, build, contents, change):
    with pytest.raises(KeyboardInterrupt):
        build(source, engine=StopAfter(3), seed=1)
    out = source.parent / "out"  # as if killed between a shard and its receipt:
    (out / "train" / "ham10000-train-000099.tar").write_bytes(b"a shard without a receipt")
    seed = 0 if change == "flag" else 1
    if change == "image":  # same size, other bytes: only the file's mtime shows it
        image = sorted((source / "HAM10000_images_part_1").glob("*.jpg"))[0]
        data = image.read_bytes().replace(b"\x01\x00\x00\x01", b"\x01\x00\x00\x02", 1)
        image.write_bytes(data)
        os.utime(image, ns=(1, 1))
    assert contents(build(source, seed=seed)) == contents(build(source, "whole", seed=seed))


def build_words(source: Path, out: Path, workers: int = 2) -> list[str]:
    words = ["build", "--source", str(source), "--out", str(out), "--workers", str(workers)]
    return [sys.executable, "-m", "pipeline.shards", *words, "--samples-per-shard", "4"]


def started(source: Path, out: Path) -> subprocess.Popen:
    """A build that runs in a process group of its own."""
    return subprocess.Popen(
        build_words(source, out),
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def kill_until_done(source: Path, out: Path, kills: int) -> int:
    """Kill the build ``kills`` times at random moments, then let it finish; return real kills."""
    moments = random.Random(kills)
    landed, longest = 0, 0.6
    for _ in range(20 * kills):
        if landed == kills:
            break
        process = started(source, out)
        limit = time.monotonic() + 60
        while not (out / ".build").exists() and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.005)  # past the imports, which are most of a small build
        time.sleep(moments.uniform(0, longest))
        process.send_signal(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            landed += 1
        else:  # the build was faster: start again and kill earlier
            longest *= 0.8
            shutil.rmtree(out)
        for path in out.rglob("*.tar"):  # a final name is whole at every moment
            assert path.stat().st_size % 10240 == 0
    subprocess.run(build_words(source, out), cwd=ROOT, check=True, capture_output=True)
    return landed


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_build_resumes_to_the_same_bytes(synthetic_source, tmp_path, contents, kills):
    words = build_words(synthetic_source, tmp_path / "whole")
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
    assert kill_until_done(synthetic_source, tmp_path / "killed", kills) == kills
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_workers_end_when_the_build_is_killed(synthetic_source, tmp_path):
    process = started(synthetic_source, tmp_path / "out")
    limit = time.monotonic() + 60
    while not list((tmp_path / "out").glob("*/*.tar")) and time.monotonic() < limit:
        time.sleep(0.01)
    process.kill()
    process.wait()
    while alive := in_group(process.pid):
        assert time.monotonic() < limit, alive
        time.sleep(0.05)


def in_group(group: int) -> list[str]:
    """Return the processes of a process group that still run."""
    done = subprocess.run(
        ["ps", "-eo", "pgid=,stat=,args="], capture_output=True, text=True, check=True
    )
    rows = [line.split(None, 2) for line in done.stdout.splitlines()]
    return [row[2] for row in rows if row[0] == str(group) and not row[1].startswith("Z")]


def test_full_disk_is_reported_and_leaves_no_half_file(source, build, contents, monkeypatch):
    whole = contents(build(source, "whole"))

    def full_disk(moment: str, path: str) -> None:
        if moment == "sync" and path.endswith("train-000002.tar"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "watchers", [full_disk])
    with pytest.raises(DataError, match=r"cannot write .*No space left on device"):
        build(source)
    left = contents(source.parent / "out")
    assert "manifest.json" not in left and "train/ham10000-train-000001.tar" in left
    assert all(whole[name] == data for name, data in left.items() if not name.startswith(".build"))
    assert not [name for name in left if "partial" in name]
    monkeypatch.undo()
    assert contents(build(source)) == whole


def test_file_size_limit_of_the_system_is_reported_without_a_traceback(
    shared_source, tmp_path, contents
):
    limited = f"ulimit -f 15; exec {' '.join(build_words(shared_source, tmp_path / 'out', 1))}"
    done = subprocess.run(
        ["bash", "-c", limited], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "error: cannot write" in done.stderr and "Traceback" not in done.stderr
    assert not [name for name in contents(tmp_path / "out") if "partial" in name]


def test_unwritable_folder_is_reported(source, build, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        build(source, "file/below")


def test_a_second_build_into_the_same_folder_is_refused(source, build, tmp_path):
    with sole_writer(tmp_path / "out", "--out"):
        with pytest.raises(DataError, match=r"--out .* is in use by process \d+"):
            build(source, "out")
        assert [path.name for path in (tmp_path / "out").iterdir()] == [OWNER]
