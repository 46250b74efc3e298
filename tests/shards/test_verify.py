import hashlib
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from pipeline.errors import DataError
from pipeline.ham10000.known_duplicates import SAME_LESION_PAIRS
from pipeline.shards.dataset import open_shards
from pipeline.shards.verify import verify


@pytest.fixture
def root(shared_shards, tmp_path) -> Path:
    """Shards that this test may damage."""
    return Path(shutil.copytree(shared_shards, tmp_path / "shards"))


def first(root: Path, pattern: str) -> Path:
    return sorted(root.glob(pattern))[0]


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def edit_manifest(root: Path, change, *, forge: bool = False) -> None:
    path = root / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    if forge:
        content.pop("self_sha256")  # computed as shards/README.md specifies it
        canonical = json.dumps(content, sort_keys=True).encode()
        content["self_sha256"] = hashlib.sha256(canonical).hexdigest()
    path.write_text(json.dumps(content))


def edit_table(root: Path, change, *, forge: bool = False) -> None:
    path = root / "samples.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    change(table)
    table.to_csv(path, index=False, lineterminator="\n")
    if forge:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        edit_manifest(root, lambda m: m["files"].update({"samples.csv": digest}), forge=True)


def problems(root: Path, *, quick: bool = False) -> str:
    return "\n".join(verify(root, quick=quick, progress=False).problems)


def test_undamaged_shards_have_no_problem(root):
    assert problems(root) == problems(root, quick=True) == ""
    verdict = verify(root, progress=False)
    assert (verdict.samples, verdict.leaks) == (60, ())
    assert (
        verdict.manifest_sha256 == hashlib.sha256((root / "manifest.json").read_bytes()).hexdigest()
    )


@pytest.mark.parametrize("position", [0, 600, 3000, -1])
def test_flipped_byte_is_found(root, position):
    path = first(root, "train/*.tar")
    flip(path, position)
    assert f"{path} is damaged" in problems(root)
    assert problems(root, quick=True) == ""


@pytest.mark.parametrize("quick", [False, True])
def test_truncated_missing_and_additional_shards_are_found(root, quick):
    cut, gone, index = (
        first(root, "train/*.tar"),
        first(root, "val/*.tar"),
        first(root, "test/*.idx"),
    )
    cut.write_bytes(cut.read_bytes()[:-512])
    shutil.copy(gone, gone.with_name("ham10000-val-000099.tar"))
    gone.unlink()
    index.unlink()
    found = problems(root, quick=quick)
    assert f"{cut} has" in found and "the manifest says" in found
    assert f"{gone} is missing" in found and f"{index} is missing" in found
    assert "ham10000-val-000099.tar is not in the manifest" in found
    with pytest.raises(DataError, match=r"\d more problems"):
        open_shards(root)


def test_index_that_disagrees_with_its_tar_is_found_even_if_forged(root):
    index = first(root, "train/*.idx")
    index.write_bytes(index.read_bytes().replace(b"jpg 512", b"jpg 513", 1))
    with pytest.raises(DataError, match=r"\.idx was changed"):
        open_shards(root)

    def forge(content):
        for shard in content["shards"]:
            if shard["path"] == index.relative_to(root).with_suffix(".tar").as_posix():
                shard["index_sha256"] = hashlib.sha256(index.read_bytes()).hexdigest()

    edit_manifest(root, forge, forge=True)
    assert f"{index} disagrees with its tar" in problems(root)


def test_manifest_edited_by_hand_is_found(root):
    edit_manifest(root, lambda content: content["split"].update(seed=7))
    with pytest.raises(DataError, match="was changed after it was written"):
        verify(root, progress=False)
    with pytest.raises(DataError, match="was changed after it was written"):
        open_shards(root)


def test_table_edited_by_hand_is_found(root):
    edit_table(root, lambda table: table.__setitem__("sex", "male"))
    assert "samples.csv was changed" in problems(root, quick=True)
    with pytest.raises(DataError, match=r"samples\.csv was changed"):
        open_shards(root)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("dx", "vasc", "differently"),
        ("dx", "cancer", "dx that is not one of"),
        ("label", "1", "label that contradicts"),
        ("split", "val", "different splits"),
        ("shard", "train/other.tar", "shards that the manifest does not"),
        ("age", "33.0", "is described as"),
        ("lesion_id", "HAM_0000999", "is described as"),
    ],
)
def test_forged_table_contradicts_something_else(root, column, value, words):
    def change(table):
        row = table.index[(table["dx"] == "nv") & (table["split"] == "train")][0]
        table.loc[row, column] = value

    edit_table(root, change, forge=True)
    assert words in problems(root)


@pytest.mark.parametrize("damage", [b"x", b"\xff", b"[", b"\0"])
def test_a_damaged_description_is_named(root, damage):
    path = next((root / "train").glob("*.tar"))
    data = bytearray(path.read_bytes())
    at = data.index(b'{"')
    data[at : at + 1] = damage
    path.write_bytes(data)
    found = problems(root)
    assert f"{path} is damaged" in found and "is described as" in found


def test_leak_is_a_problem_and_counts_groups_lesions_and_known_pairs(root):
    def change(table):
        a = table.index[table["split"] == "train"][0]
        b = table.index[table["split"] == "test"][0]
        table.loc[b, ["group", "lesion_id"]] = table.loc[a, ["group", "lesion_id"]].to_numpy()
        table.loc[a, "image_id"], table.loc[b, "image_id"] = SAME_LESION_PAIRS[3]

    edit_table(root, change, forge=True)
    found = problems(root, quick=True)
    assert "1 groups are in two splits" in found
    assert "1 lesions are in two splits" in found
    assert "1 known pairs of one lesion are in two splits" in found


def test_leak_of_split_by_image_is_reported_but_is_no_problem(shared_source, build):
    verdict = verify(build(shared_source, split_by="image"), progress=False)
    assert verdict.problems == () and len(verdict.leaks) > 0


def test_folds_are_proved_too(shared_source, build):
    root = build(shared_source, folds=3)
    assert verify(root, progress=False) == verify(root, progress=False)
    assert not verify(root, progress=False).problems

    def change(table):
        a = table.index[table["fold"] == "0"][0]
        b = table.index[table["fold"] == "1"][0]
        table.loc[b, "group"] = table.loc[a, "group"]

    edit_table(root, change, forge=True)
    assert "groups are in two splits" in problems(root, quick=True)


def test_other_format_version_is_refused(root):
    edit_manifest(root, lambda content: content.update(format_version=2), forge=True)
    with pytest.raises(DataError, match="shard format 2; this program reads format 1"):
        open_shards(root)


def test_folder_without_shards_is_explained(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        open_shards(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no manifest\.json"):
        open_shards(tmp_path)
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(DataError, match="not a shard manifest"):
        open_shards(tmp_path)


def test_verify_command_lists_every_problem_and_leaves_with_two(root, command):
    good = command("-m", "pipeline.shards", "verify", root)
    assert good.returncode == 0 and "no lesion and no known pair" in good.stdout
    flip(first(root, "train/*.tar"), 700)
    edit_table(root, lambda table: table.__setitem__("sex", "male"))
    bad = command("-m", "pipeline.shards", "verify", root)
    assert bad.returncode == 2 and "Traceback" not in bad.stderr
    assert "is damaged" in bad.stderr and "samples.csv was changed" in bad.stderr
