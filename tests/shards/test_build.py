import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from pipeline.errors import DataError
from pipeline.shards.build import BuildOptions
from pipeline.shards.dataset import open_shards
from pipeline.shards.packing import builder as build_module
from pipeline.shards.packing.local_engine import run_here
from pipeline.shards.packing.pack import PackWork
from pipeline.shards.storage.store import LocalStore

ROOT = Path(__file__).resolve().parents[2]


def contents(root: Path) -> dict[str, bytes]:
    """Every file below ``root`` by its path."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def command(source: Path, out: Path, *flags: str) -> list[str]:
    words = ["-m", "pipeline.shards", "build", "--source", str(source), "--out", str(out)]
    return [sys.executable, *words, "--samples-per-shard", "4", *flags]


def test_workers_order_of_files_and_zips_change_no_byte(shared_source, build, tmp_path):
    one = contents(build(shared_source, "one", workers=1))
    assert contents(build(shared_source, "two", workers=2)) == one
    zipped = tmp_path / "zipped"
    zipped.mkdir()
    table = pd.read_csv(shared_source / "HAM10000_metadata.csv", dtype=str).fillna("")
    table.sample(frac=1, random_state=0).to_csv(
        zipped / "HAM10000_metadata.tab", sep="\t", index=False
    )
    with zipfile.ZipFile(zipped / "HAM10000_images_part_1.zip", "w") as file:
        for path in sorted(shared_source.glob("*/*.jpg"), reverse=True):
            file.write(path, f"inside/{path.name}")
    assert contents(build(zipped, "three")) == one


def test_untouched_images_are_byte_for_byte_the_sources(shared_source, build):
    split = open_shards(build(shared_source)).split("train")
    where = split.locations()
    for number, name in enumerate(split.samples["image_id"]):
        tar = split.tars[where.shard[number]].read_bytes()
        original = shared_source / "HAM10000_images_part_1" / f"{name}.jpg"
        assert tar[where.offset[number] :][: where.size[number]] == original.read_bytes()


def test_seed_changes_the_splits_and_flags_change_the_manifest(shared_source, build):
    first = open_shards(build(shared_source, "a"))
    other = open_shards(build(shared_source, "b", seed=1))
    assert first.samples["split"].tolist() and not first.samples.equals(other.samples)
    resized = open_shards(build(shared_source, "c", image_size=20))
    assert resized.samples.equals(first.samples)
    assert len({s.manifest_sha256 for s in (first, other, resized)}) == 3


def test_finished_build_is_not_made_again_and_another_one_is_refused(source, build):
    out = build(source)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert build(source) == out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    for flags in ({"seed": 1}, {"image_size": 16}, {"samples_per_shard": 5}, {"name": "x"}):
        with pytest.raises(DataError, match="already holds finished shards"):
            build(source, **flags)
    image = next((source / "HAM10000_images_part_1").glob("*.jpg"))
    image.write_bytes(image.read_bytes()[:-1])
    with pytest.raises(DataError, match="made from another source"):
        build(source)


def test_folder_with_other_files_is_not_touched(source, build, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match=r"holds files that are no shards \(thesis\.tex"):
        build(source)
    assert contents(tmp_path / "out") == {"thesis.tex": b"years of work"}


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


def pack(source: Path, out: Path, engine, **flags):
    """Build with another engine."""
    from pipeline.ham10000.source import open_source
    from pipeline.shards.build import settings_for

    options = BuildOptions(source=source, out=out, **({"samples_per_shard": 8} | flags))
    opened = open_source(source)
    settings = settings_for(options, opened)
    plan = build_module.make_plan(opened, settings)
    return build_module.build(plan, opened, LocalStore(out), settings, engine, progress=False)


def test_stopped_build_goes_on_from_complete_shards_to_the_same_bytes(source, build, tmp_path):
    whole = contents(build(source, "whole"))
    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        pack(source, out, StopAfter(3))
    with pytest.raises(DataError, match="did not finish"):
        open_shards(out)
    (out / "train" / ".partial-1-ham10000-train-000009.tar").write_bytes(b"half a shard")
    rest = StopAfter(99)
    pack(source, out, rest)
    assert len(rest.packed) == sum(name.endswith(".tar") for name in whole) - 3
    assert contents(out) == whole


def test_shard_damaged_between_two_starts_is_packed_again(source, build, tmp_path):
    whole = contents(build(source, "whole"))
    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        pack(source, out, StopAfter(3))
    tars = sorted(out.rglob("*.tar"))
    tars[0].write_bytes(tars[0].read_bytes()[:-512])
    tars[1].with_suffix(".idx").unlink()
    rest = StopAfter(99)
    pack(source, out, rest)
    assert {name.split("/")[-1] for name in rest.packed} >= {tars[0].name, tars[1].name}
    assert contents(out) == whole


@pytest.mark.parametrize("change", ["flag", "image"])
def test_stopped_build_of_something_else_is_cleared_away(source, build, tmp_path, change):
    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        pack(source, out, StopAfter(3), seed=1)
    seed = 0 if change == "flag" else 1
    if change == "image":  # same size, other bytes: only the time of the file tells
        image = sorted((source / "HAM10000_images_part_1").glob("*.jpg"))[0]
        data = image.read_bytes().replace(b"\x01\x00\x00\x01", b"\x01\x00\x00\x02", 1)
        image.write_bytes(data)
        os.utime(image, ns=(1, 1))
    pack(source, out, StopAfter(99), seed=seed)
    assert contents(out) == contents(build(source, "whole", seed=seed))


def kill_until_done(source: Path, out: Path, kills: int, seed: int, flags: tuple[str, ...]) -> int:
    """Kill the build ``kills`` times at random moments, then let it finish; return real kills."""
    moments = random.Random(seed)
    landed, longest = 0, 0.6
    for _ in range(20 * kills):
        if landed == kills:
            break
        process = subprocess.Popen(
            command(source, out, *flags),
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        limit = time.monotonic() + 60
        while not (out / ".build").exists() and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.005)  # past the imports, which are most of a small build
        time.sleep(moments.uniform(0, longest))
        process.send_signal(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            landed += 1
        else:  # the build was faster: kill earlier, and begin anew
            longest *= 0.8
            shutil.rmtree(out)
        for path in out.rglob("*.tar"):  # a final name is whole at every moment
            assert path.stat().st_size % 10240 == 0
    subprocess.run(command(source, out, *flags), cwd=ROOT, check=True, capture_output=True)
    return landed


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_build_resumes_to_the_same_bytes(synthetic_source, tmp_path, kills):
    flags = ("--workers", "2")
    subprocess.run(
        command(synthetic_source, tmp_path / "whole", *flags),
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    landed = kill_until_done(synthetic_source, tmp_path / "killed", kills, kills, flags)
    assert landed == kills
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_workers_end_when_the_build_is_killed(synthetic_source, tmp_path):
    process = subprocess.Popen(
        command(synthetic_source, tmp_path / "out", "--workers", "2"),
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
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


def test_bad_image_ends_the_build_with_its_name_and_reason(source, build):
    bad = source / "HAM10000_images_part_1" / "ISIC_0000007.jpg"
    bad.write_bytes(bad.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"ISIC_0000007 .*truncated.*--on-bad-image skip"):
        build(source)
    with pytest.raises(DataError, match="ISIC_0000007"):
        build(source, "two", workers=2)


def test_bad_images_are_skipped_and_listed_and_nothing_else_moves(source, build):
    whole = open_shards(build(source, "whole")).samples.set_index("image_id")
    part = source / "HAM10000_images_part_1"
    for number, data in {7: b"", 9: b"<html>", 11: None}.items():
        path = part / f"ISIC_{number:07d}.jpg"
        path.write_bytes(path.read_bytes() + b"junk" if data is None else data)
    out = build(source, "skipped", on_bad_image="skip")
    rejected = pd.read_csv(out / "rejected.csv").set_index("image_id")["reason"]
    assert rejected.index.tolist() == ["ISIC_0000007", "ISIC_0000009", "ISIC_0000011"]
    assert [
        word in r for word, r in zip(["empty", "not an image", "garbage"], rejected, strict=True)
    ]
    shards = open_shards(out)
    left = shards.samples.set_index("image_id")
    assert left.equals(whole.drop(index=rejected.index))
    assert shards.manifest.counts["rejected"] == 3
    assert shards.split("train").locations().size.shape == (len(shards.split("train")),)


def test_shard_without_a_good_image_is_left_out(source, build):
    out = build(source, "whole", samples_per_shard=2)
    victims = open_shards(out).samples.query("split == 'val'").head(2)["image_id"]
    for name in victims:
        (source / "HAM10000_images_part_1" / f"{name}.jpg").write_bytes(b"")
    shards = open_shards(build(source, "skipped", samples_per_shard=2, on_bad_image="skip"))
    assert "val/ham10000-val-000000.tar" not in {entry.path for entry in shards.manifest.shards}
    assert len(shards.samples) == 58 and shards.split("val").locations().shard.max() >= 0


def test_no_good_image_at_all_is_an_error(source, build):
    for path in source.glob("*/*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="no image is left"):
        build(source, on_bad_image="skip")


def test_full_disk_is_said_and_leaves_no_half_file(source, build, tmp_path, monkeypatch):
    whole = contents(build(source, "whole"))
    written = {"bytes": 0}
    real = os.fsync

    def fsync(descriptor: int) -> None:
        written["bytes"] += os.fstat(descriptor).st_size
        if written["bytes"] > 60_000:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(DataError, match=r"cannot write .*No space left on device"):
        build(source)
    left = contents(tmp_path / "out")
    assert "manifest.json" not in left
    assert all(whole[name] == data for name, data in left.items() if not name.startswith(".build"))
    assert not [name for name in left if "partial" in name]
    monkeypatch.undo()
    assert contents(build(source)) == whole


def test_file_size_limit_of_the_system_is_said_without_a_traceback(shared_source, tmp_path):
    limited = (
        f"ulimit -f 15; exec {' '.join(command(shared_source, tmp_path / 'out', '--workers', '1'))}"
    )
    done = subprocess.run(
        ["bash", "-c", limited],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ},
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "error: cannot write" in done.stderr and "Traceback" not in done.stderr
    assert not [name for name in contents(tmp_path / "out") if "partial" in name]


def test_unwritable_folder_is_said(source, build, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        build(source, "file/below")


def test_hostile_ids_and_links_write_nothing_outside_out(source, build, tmp_path):
    part = source / "HAM10000_images_part_1"
    table = source / "HAM10000_metadata.csv"
    text = table.read_text()
    for hostile in ("../../escape", "/tmp/escape", "a b", "a.b", "é", "..", "x" * 81):
        table.write_text(text.replace("ISIC_0000000", hostile))
        with pytest.raises(DataError):
            build(source)
    with zipfile.ZipFile(source / "HAM10000_images_part_2.zip", "w") as file:
        file.writestr("../../ISIC_9999999.jpg", (part / "ISIC_0000001.jpg").read_bytes())
        file.writestr("/ISIC_9999998.jpg", (part / "ISIC_0000001.jpg").read_bytes())
    extra = "".join(f"HAM_9,ISIC_999999{n},nv,histo,50,male,back\n" for n in (8, 9))
    table.write_text(text + extra)
    (part / "outside").symlink_to(tmp_path)
    before = contents(tmp_path)
    build(source)
    after = {name for name in contents(tmp_path) if not name.startswith("out/")}
    assert after == set(before)


def test_bad_flags_are_refused_with_exit_code_two(shared_source, tmp_path):
    for flags in (
        ["--sede", "3"],
        ["--image-size", "0"],
        ["--val-fraction", "1.5"],
        ["--workers", "-1"],
    ):
        words = command(shared_source, tmp_path / "out", *flags)
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        assert not (tmp_path / "out").exists()


def test_engine_yields_every_receipt_once(shared_source, tmp_path):
    manifest = pack(shared_source, tmp_path / "out", run_here(2), samples_per_shard=5)
    assert len(manifest.shards) == len({entry.path for entry in manifest.shards}) == 13
    assert sum(entry.samples for entry in manifest.shards) == 60
