"""What ``build`` packs, refuses and leaves alone."""

import zipfile

import pandas as pd
import pytest

from pipeline.errors import DataError
from pipeline.shards.dataset import open_shards
from pipeline.shards.packing.local_engine import run_here
from pipeline.shards.verify import verify


def test_workers_order_of_files_and_zips_change_no_byte(shared_source, build, tmp_path, contents):
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


def test_untouched_images_are_byte_for_byte_the_sources(shared_source, shared_shards):
    split = open_shards(shared_shards).split("train")
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


def test_a_data_card_is_kept_in_the_manifest_and_nothing_changes_without_one(
    shared_source, shared_shards, build, tmp_path
):
    card = tmp_path / "card.toml"
    card.write_text('licence = "CC0"\n')
    described = open_shards(build(shared_source, "described", data_card=card))
    assert described.manifest.data_card == {"licence": "CC0"}
    plain = open_shards(shared_shards).manifest
    assert plain.data_card is None
    assert b"data_card" not in (shared_shards / "manifest.json").read_bytes()
    assert described.manifest.shards == plain.shards


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


def test_folder_with_other_files_is_not_touched(source, build, tmp_path, contents):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match=r"holds files that are no shards \(thesis\.tex"):
        build(source)
    assert contents(tmp_path / "out") == {"thesis.tex": b"years of work"}


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
        path.write_bytes(path.read_bytes()[:-9] if data is None else data)
    out = build(source, "skipped", on_bad_image="skip")
    rejected = pd.read_csv(out / "rejected.csv").set_index("image_id")["reason"]
    assert rejected.index.tolist() == ["ISIC_0000007", "ISIC_0000009", "ISIC_0000011"]
    for words, reason in zip(("empty", "not an image", "truncated"), rejected, strict=True):
        assert words in reason
    shards = open_shards(out)
    left = shards.samples.set_index("image_id")
    assert left.equals(whole.drop(index=rejected.index))
    assert shards.manifest.counts["rejected"] == 3
    assert shards.split("train").locations().size.shape == (len(shards.split("train")),)


def test_rows_without_an_image_are_left_out_and_listed_where_asked(source, build):
    gone = [f"ISIC_{number:07d}" for number in (3, 30)]
    for name in gone:
        (source / "HAM10000_images_part_1" / f"{name}.jpg").unlink()
    with pytest.raises(DataError, match=r"2 rows .*part_2 is not there.*--on-bad-image skip"):
        build(source)
    shards = open_shards(build(source, on_bad_image="skip"))
    rejected = pd.read_csv(shards.root / "rejected.csv")
    assert rejected["image_id"].tolist() == gone and set(rejected["reason"]) == {
        "there is no image of this id in the source"
    }
    assert shards.manifest.counts["rejected"] == 2 and len(shards.samples) == 58
    assert verify(shards.root, progress=False).problems == ()


def test_files_that_systems_leave_do_not_fill_out_nor_spoil_shards(source, build, tmp_path):
    left = (".DS_Store", "Thumbs.db", "desktop.ini", ".gitkeep", "__MACOSX/._x")
    for name in left:
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_bytes(b"")
    out = build(source)
    for name in (*left[:3], "._ham10000-train-000000.tar"):
        (out / "train" / name).write_bytes(b"")
    assert verify(out, progress=False).problems == ()
    (out / "train" / "ham10000-train-000999.tar").write_bytes(b"")
    assert "000999.tar is not in the manifest" in verify(out, progress=False).problems[0]


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


def test_hostile_ids_and_links_write_nothing_outside_out(source, build, tmp_path, contents):
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


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("--sede", "3", "--seed"),
        ("--image-size", "0", "--image-size is 0; expected at least 1 pixel"),
        ("--jpeg-quality", "101", "expected 1 to 100"),
        ("--val-fraction", "1.5", "expected 0 or more, and below 1"),
        ("--workers", "-1", "--workers is -1"),
        ("--split-by", "patient", "lesion"),
    ],
)
def test_bad_flags_are_refused_with_exit_code_two(
    shared_source, tmp_path, command, flag, value, words
):
    out = tmp_path / "out"
    build = ("-m", "pipeline.shards", "build", "--source", shared_source, "--out", out)
    done = command(*build, flag, value)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert words in done.stderr
    assert not out.exists()


def test_engine_yields_every_receipt_once(shared_source, build):
    received = []

    def counting(work, shards):
        for receipt in run_here(2)(work, shards):
            received.append(receipt.entry.path)
            yield receipt

    out = build(shared_source, engine=counting, samples_per_shard=5)
    assert sorted(received) == sorted(e.path for e in open_shards(out).manifest.shards)
    assert len(received) == len(set(received)) == 13


def test_mistyped_command_and_help_name_the_commands(command):
    wrong = command("-m", "pipeline.shards", "biuld")
    assert wrong.returncode == 2 and "did you mean build?" in wrong.stderr
    listed = command("-m", "pipeline.shards", "--help")
    assert listed.returncode == 0
    assert all(word in listed.stdout for word in ("build", "verify", "stats", "duplicates"))


@pytest.mark.parametrize("word", ["build", "verify", "stats"])
def test_help_is_answered_without_pandas_or_torch(command, word):
    code = (
        "import sys\n"
        "from pipeline.cli import choose\n"
        "from pipeline.shards.__main__ import COMMANDS\n"
        "try: choose(COMMANDS, argv=sys.argv[1:])\n"
        "except SystemExit: print({'torch', 'pandas'} & set(sys.modules))\n"
    )
    done = command("-c", code, word, "--help")
    assert done.stdout.rstrip().endswith("set()"), done.stdout + done.stderr
