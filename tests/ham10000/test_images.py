import os
import pickle
import tempfile
import zipfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from pipeline.errors import DataError
from pipeline.ham10000.images import MAX_IMAGE_BYTES, ImageStore, require_images


def folder(root: Path, name: str, files: dict[str, bytes]) -> None:
    for path, data in files.items():
        target = root / name / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def archive(path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in files.items():
            file.writestr(name, data)


def test_folders_and_zips_give_the_same_bytes_and_nothing_is_unpacked(tmp_path):
    folder(tmp_path, "HAM10000_images_part_1", {"ISIC_1.jpg": b"one"})
    archive(
        tmp_path / "HAM10000_images_part_2.zip", {"ISIC_2.jpg": b"two", "deep/ISIC_3.JPG": b"three"}
    )
    before = sorted(tmp_path.rglob("*"))
    store = ImageStore(tmp_path)
    assert store.ids() == {"ISIC_1", "ISIC_2", "ISIC_3"}
    assert [store.read(f"ISIC_{n}") for n in (1, 2, 3)] == [b"one", b"two", b"three"]
    assert sorted(tmp_path.rglob("*")) == before


def test_without_parts_every_image_below_the_folder_counts(tmp_path):
    folder(tmp_path, "some/where", {"ISIC_1.jpg": b"one", "ISIC_2.png": b"two", "notes.txt": b""})
    assert ImageStore(tmp_path).ids() == {"ISIC_1", "ISIC_2"}


def test_pickled_store_reads_in_another_process(tmp_path):
    archive(
        tmp_path / "HAM10000_images_part_1.zip", {f"I_{n}.jpg": bytes([n]) * 999 for n in range(40)}
    )
    store = ImageStore(tmp_path)
    store.read("I_0")  # the open zip must not be pickled
    assert pickle.loads(pickle.dumps(store)).read("I_7") == bytes([7]) * 999
    with ProcessPoolExecutor(2, get_context("fork")) as pool:  # forked: shares the open file
        found = list(pool.map(store.read, [f"I_{n}" for n in range(40)]))
    assert found == [bytes([n]) * 999 for n in range(40)]


def test_same_image_in_folder_and_zip_is_one_and_two_different_ones_are_refused(tmp_path):
    folder(tmp_path, "HAM10000_images_part_1", {"ISIC_1.jpg": b"one"})
    archive(tmp_path / "HAM10000_images_part_1.zip", {"ISIC_1.jpg": b"one"})
    assert ImageStore(tmp_path).read("ISIC_1") == b"one"
    for part, other in ((2, b"two"), (3, b"another")):  # of the same size, of another
        archive(tmp_path / f"HAM10000_images_part_{part}.zip", {"ISIC_1.jpg": other})
        with pytest.raises(DataError, match="two different images are called ISIC_1"):
            ImageStore(tmp_path).read("ISIC_1")
    with pytest.raises(DataError, match="two different images"):
        require_images(["ISIC_2", "ISIC_1"], unlike(tmp_path))


def unlike(root: Path) -> ImageStore:
    """A store with one image, and one that two folders give in two sizes."""
    folder(root, "own", {"a/ISIC_1.jpg": b"one", "b/ISIC_1.png": b"large", "ISIC_2.jpg": b"x"})
    return ImageStore(root / "own")


def test_hostile_zip_names_write_nothing(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    names = {"/etc/ISIC_1.jpg": b"a", "../../ISIC_2.jpg": b"b", "C:\\ISIC_3.jpg": b"c"}
    archive(source / "HAM10000_images_part_1.zip", names)
    before = sorted(tmp_path.rglob("*"))
    store = ImageStore(source)
    assert {store.read(name) for name in store.ids()} == {b"a", b"b", b"c"}
    assert sorted(tmp_path.rglob("*")) == before


def test_files_larger_than_the_limit_are_refused_unread(tmp_path):
    archive(tmp_path / "HAM10000_images_part_1.zip", {"ISIC_1.jpg": bytes(MAX_IMAGE_BYTES + 1)})
    for name, size in (("ISIC_2", MAX_IMAGE_BYTES + 1), ("ISIC_3", MAX_IMAGE_BYTES)):
        folder(tmp_path, "HAM10000_images_part_2", {f"{name}.jpg": b""})
        os.truncate(tmp_path / "HAM10000_images_part_2" / f"{name}.jpg", size)
    store = ImageStore(tmp_path)
    for name in ("ISIC_1", "ISIC_2"):
        with pytest.raises(DataError, match="the limit is 67,108,864"):
            store.read(name)
    assert store.read("ISIC_3") == bytes(MAX_IMAGE_BYTES)


def test_member_that_understates_its_size_is_refused(tmp_path):
    path = tmp_path / "HAM10000_images_part_1.zip"
    archive(path, {"ISIC_1.jpg": bytes(10**6)})
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = (50).to_bytes(4, "little")  # the unpacked size in the directory
    path.write_bytes(data)
    with pytest.raises(DataError, match="cannot read"):
        ImageStore(tmp_path).read("ISIC_1")


def test_pipes_dangling_links_and_loops_are_skipped_but_file_links_are_read(tmp_path):
    folder(tmp_path, "HAM10000_images_part_1", {"ISIC_1.jpg": b"one"})
    part = tmp_path / "HAM10000_images_part_1"
    os.mkfifo(part / "ISIC_2.jpg")
    (part / "ISIC_3.jpg").symlink_to("/dev/zero")
    (part / "ISIC_4.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (part / "loop").symlink_to(part)
    (part / "ISIC_5.jpg").symlink_to(part / "ISIC_1.jpg")
    store = ImageStore(tmp_path)
    assert store.ids() == {"ISIC_1", "ISIC_5"}
    assert store.read("ISIC_5") == b"one"


def test_a_damaged_zip_and_a_damaged_member_are_reported(tmp_path):
    path = tmp_path / "HAM10000_images_part_1.zip"
    archive(path, {"ISIC_1.jpg": bytes(range(256)) * 50})
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(DataError, match=r"cannot read the zip .*part_1\.zip"):
        ImageStore(tmp_path)
    path.write_bytes(whole[:60] + b"\x55" + whole[61:])
    with pytest.raises(DataError, match=r"cannot read .*ISIC_1\.jpg"):
        ImageStore(tmp_path).read("ISIC_1")


def test_rows_without_image_are_counted_and_named(tmp_path):
    folder(tmp_path, "HAM10000_images_part_1", {"ISIC_1.jpg": b"one"})
    store = ImageStore(tmp_path)
    require_images(["ISIC_1"], store)
    with pytest.raises(DataError, match=r"5 rows .* ISIC_2, ISIC_3, ISIC_4 and 2 more"):
        require_images([f"ISIC_{n}" for n in range(1, 7)], store)
    with pytest.raises(DataError, match="no image ISIC_9"):
        store.read("ISIC_9")


def test_a_store_of_few_images_pickles_small_and_reads_the_same(tmp_path):
    folder = tmp_path / "HAM10000_images_part_1"
    folder.mkdir()
    for number in range(300):
        (folder / f"ISIC_{number:07d}.jpg").write_bytes(str(number).encode())
    store = ImageStore(tmp_path)
    part = pickle.loads(pickle.dumps(store.only(["ISIC_0000007", "ISIC_0000299", "unknown"])))
    assert part.ids() == {"ISIC_0000007", "ISIC_0000299"}
    assert part.read("ISIC_0000299") == store.read("ISIC_0000299") == b"299"
    assert len(pickle.dumps(part)) < len(pickle.dumps(store)) / 20
    assert len(store) == 300


def test_linked_folders_are_read_once_and_a_loop_is_named(tmp_path, capsys):
    folder(tmp_path, "disk", {"a.jpg": b"a", "deep/b.jpg": b"b"})
    folder(tmp_path, "mine", {"c.jpg": b"c"})
    mine = tmp_path / "mine"
    (mine / "linked").symlink_to(tmp_path / "disk")
    (mine / "again").symlink_to(tmp_path / "disk" / "deep")
    (tmp_path / "disk" / "deep" / "up").symlink_to(mine)
    (mine / "self").symlink_to(mine / "self")
    store = ImageStore(mine)
    assert [store.read(name) for name in "abc"] == [b"a", b"b", b"c"]
    assert all(len(files) == 1 for files in store.locations.values())
    assert "a loop, not followed" in capsys.readouterr().err


def test_files_of_systems_and_hidden_ones_are_no_images(tmp_path):
    names = (
        "._a.jpg",
        ".hidden/b.jpg",
        "__MACOSX/c.jpg",
        "@eaDir/d.jpg",
        ".ipynb_checkpoints/e.jpg",
    )
    folder(tmp_path, "in", dict.fromkeys((*names, "f.jpg"), b"x"))
    archive(
        tmp_path / "in" / "more.zip", dict.fromkeys((*names, "x/__MACOSX/._g.jpg", "h.jpg"), b"y")
    )
    assert ImageStore(tmp_path / "in").ids() == {"f", "h"}


def test_zips_of_other_systems_are_read_by_the_names_that_were_meant(tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as file:
        file.writestr("P1\\a.jpg", b"windows")
        file.writestr("grXXXXe.jpg", b"umlaut")
    data = (tmp_path / "photos.zip").read_bytes()  # macOS writes UTF-8 and does not say so
    (tmp_path / "photos.zip").write_bytes(data.replace(b"grXXXXe", "größe".encode()))
    store = ImageStore(tmp_path)
    assert store.read("a") == b"windows" and store.read("größe") == b"umlaut"
    named = ImageStore(tmp_path, {"k": "P1/a.jpg"})
    assert named.ids() == {"k"} and named.read("k") == b"windows"


def test_files_of_formats_that_are_not_read_are_counted_with_advice(tmp_path):
    names = ("a.jpg", "b.HEIC", "c.heic", "d.dcm", "nested.rar")
    folder(tmp_path, "in", dict.fromkeys(names, b"x"))
    store = ImageStore(tmp_path / "in")
    with pytest.raises(
        DataError, match=r"1 \.dcm, 2 \.heic, 1 \.rar\): convert them to JPEG"
    ) as raised:
        require_images(["b"], store)
    assert "unpack them" in str(raised.value)
    require_images(["a"], store)


def test_a_zip_that_git_lfs_keeps_elsewhere_says_how_to_get_it(tmp_path):
    text = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
    (tmp_path / "HAM10000_images_part_1.zip").write_bytes(text)
    with pytest.raises(DataError, match="git lfs pull"):
        ImageStore(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
@pytest.mark.parametrize("closed", ["", "part", "part/a.jpg"])
def test_what_may_not_be_read_is_named_before_the_work(closed):
    with tempfile.TemporaryDirectory() as name:  # pytest's own is closed to others
        root = Path(name)
        root.chmod(0o755)
        folder(root, "in", {"part/a.jpg": b"a", "b.jpg": b"b"})
        (root / "in" / closed).chmod(0)
        os.setresuid(4242, 4242, 0)
        try:
            if not os.access(root, os.X_OK):
                pytest.skip("another user may not enter the temporary folder")
            with pytest.raises(DataError, match=r"[Pp]ermission denied"):
                require_images(["a", "b"], ImageStore(root / "in"))
        finally:
            os.setresuid(0, 0, 0)
