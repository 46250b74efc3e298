"""Publishing survives kills, full disks and concurrent writers: old content or new, no part."""

import errno
import hashlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import files
from pipeline.errors import DataError
from pipeline.files import (
    is_unfinished,
    point,
    publish_folder,
    require_writable,
    sha256,
    sha256_of,
    staged,
    staged_folder,
    sync,
    tidy,
    write_file,
    writing,
)

ROOT = Path(__file__).resolve().parent.parent
OLD, NEW = {"a": b"old a", "b": b"old b"}, {"a": b"new a" * 1000, "c": b"new c"}


def child(code: str, folder: Path, *, die_at: str = "", file_limit: int = 0) -> int:
    """Run ``code`` in a process that sends itself SIGKILL at a moment; return its exit code."""
    program = f"""
import os, signal
from pathlib import Path
from pipeline import files
from pipeline.files import *
def watch(moment, what):
    if moment == {die_at!r}:
        os.kill(os.getpid(), signal.SIGKILL)
files.watchers.append(watch)
{code}
"""
    limits = (file_limit or resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits),
        check=False,
    ).returncode


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def failing_at(request: pytest.FixtureRequest) -> Iterator[str]:
    """The disk is full from this moment on."""

    def watch(moment: str, what: str) -> None:
        if moment == request.param:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), what)

    files.watchers.append(watch)
    yield request.param
    files.watchers.remove(watch)


def test_a_file_is_written_of_text_and_bytes_and_nothing_is_left_beside(tmp_path: Path) -> None:
    write_file(tmp_path / "a.txt", "gr\u00fc\u00df ", b"\x00\xff", "end")
    assert content(tmp_path) == {"a.txt": b"gr\xc3\xbc\xc3\x9f \x00\xffend"}


@pytest.mark.parametrize("moment", ["sync", "rename"])
def test_a_kill_while_a_file_is_written_leaves_the_old_content(tmp_path: Path, moment: str) -> None:
    write_file(tmp_path / "a.txt", "old")
    code = child("write_file(Path('a.txt'), 'new' * 100_000)", tmp_path, die_at=moment)
    assert code == -signal.SIGKILL
    assert (tmp_path / "a.txt").read_text() == "old"
    (left,) = {path.name for path in tmp_path.iterdir()} - {"a.txt"}
    assert is_unfinished(left) and not is_unfinished("a.txt")
    tidy(tmp_path)
    assert content(tmp_path) == {"a.txt": b"old"}


@pytest.mark.parametrize("moment", ["sync", "exchange", "replace", "rename"])
def test_a_kill_while_a_folder_is_replaced_leaves_the_old_one(tmp_path: Path, moment: str) -> None:
    publish_folder(tmp_path / "run", OLD)
    cannot = "files.exchange = lambda *_: False\n" if moment in ("replace", "rename") else ""
    code = child(f"{cannot}publish_folder(Path('run'), {NEW!r})", tmp_path, die_at=moment)
    assert code == -signal.SIGKILL
    if not cannot:
        assert content(tmp_path / "run") == OLD
    tidy(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert content(tmp_path / "run") == OLD


def test_publishing_a_folder_again_removes_what_killed_processes_left(tmp_path: Path) -> None:
    for moment in ("sync", "rename"):
        child(f"publish_folder(Path('run'), {OLD!r})", tmp_path, die_at=moment)
    (tmp_path / ".other.7.partial").mkdir()
    publish_folder(tmp_path / "run", NEW)
    assert {path.name for path in tmp_path.iterdir()} == {"run", ".other.7.partial"}
    assert content(tmp_path / "run") == NEW


@pytest.mark.parametrize("moment", ["sync", "rename"])
def test_a_kill_while_a_first_folder_is_published_leaves_none(tmp_path: Path, moment: str) -> None:
    code = child(f"publish_folder(Path('run'), {NEW!r})", tmp_path, die_at=moment)
    assert code == -signal.SIGKILL
    assert not (tmp_path / "run").exists()
    tidy(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_kill_after_the_last_rename_leaves_the_new_folder(tmp_path: Path) -> None:
    publish_folder(tmp_path / "run", NEW)
    publish_folder(tmp_path / ".run.old", OLD)  # the process died before it was removed
    tidy(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert content(tmp_path / "run") == NEW


def test_a_kill_while_a_link_is_moved_leaves_the_old_target(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    point(tmp_path / "best", tmp_path / "one")
    assert child("point(Path('best'), Path('two'))", tmp_path, die_at="rename") == -signal.SIGKILL
    assert (tmp_path / "best").readlink() == Path("one")
    tidy(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"best", "one", "two"}
    point(tmp_path / "best", tmp_path / "two")
    assert (tmp_path / "best").readlink() == Path("two")


@pytest.mark.parametrize("failing_at", ["link"], indirect=True)
def test_where_links_cannot_be_made_a_copy_takes_the_place(tmp_path: Path, failing_at: str) -> None:
    for name, expected in (("one", OLD), ("two", NEW)):
        publish_folder(tmp_path / name, expected)
        point(tmp_path / "best", tmp_path / name)
        assert not (tmp_path / "best").is_symlink()
        assert content(tmp_path / "best") == expected
    assert {path.name for path in tmp_path.iterdir()} == {"best", "one", "two"}


def test_a_link_takes_the_place_of_a_folder(tmp_path: Path) -> None:
    publish_folder(tmp_path / "best", OLD)  # RUN was copied without its links
    publish_folder(tmp_path / "two", NEW)
    code = "point(Path('best'), Path('two'))"
    assert child(code, tmp_path, die_at="rename") == -signal.SIGKILL
    tidy(tmp_path)
    assert content(tmp_path / "best") == OLD
    point(tmp_path / "best", tmp_path / "two")
    assert (tmp_path / "best").readlink() == Path("two")
    assert {path.name for path in tmp_path.iterdir()} == {"best", "two"}


def test_a_place_that_cannot_be_written_to_is_found_before_the_work(tmp_path: Path) -> None:
    require_writable(tmp_path / "not" / "yet", "--out")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="a folder is there"):
        require_writable(tmp_path, "--onnx", file=True)
    for place in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nobody/may")):
        with pytest.raises(DataError, match=f"--out {place}: .* cannot be written to"):
            require_writable(place, "--out")


def test_a_file_system_that_cannot_flush_folders_is_no_error() -> None:
    folder = Path("/proc/self")
    descriptor = os.open(folder, os.O_RDONLY)
    with pytest.raises(OSError, match="Invalid argument"):
        os.fsync(descriptor)
    os.close(descriptor)
    assert sync(folder) is None


def test_a_full_disk_leaves_the_old_content_and_nothing_beside(tmp_path: Path) -> None:
    write_file(tmp_path / "a.txt", "old")
    publish_folder(tmp_path / "run", OLD)
    code = f"""
for publish in (lambda: write_file(Path('a.txt'), b'x' * 50_000),
                lambda: publish_folder(Path('run'), {{'a': b'small', 'b': b'x' * 50_000}})):
    try:
        publish()
    except OSError as error:
        assert error.errno == {errno.EFBIG}
    else:
        raise AssertionError('written beyond the limit')
"""
    assert child(code, tmp_path, file_limit=20_000) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", "run"}
    assert (tmp_path / "a.txt").read_bytes() == b"old"
    assert content(tmp_path / "run") == OLD


@pytest.mark.parametrize("failing_at", ["sync", "exchange", "replace", "rename"], indirect=True)
def test_an_error_at_any_moment_leaves_the_old_folder(
    tmp_path: Path, failing_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if failing_at in ("replace", "rename"):  # of a file system that cannot exchange
        monkeypatch.setattr(files, "exchange", lambda *_: False)
    for name, data in OLD.items():
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / name).write_bytes(data)
    message = r"cannot write .*run: No space left on device; check"
    with pytest.raises(DataError, match=message), writing(tmp_path / "run"):
        publish_folder(tmp_path / "run", NEW)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert content(tmp_path / "run") == OLD


def test_an_interrupted_block_publishes_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "a.txt") as hidden:
        hidden.write_text("half")
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), staged_folder(tmp_path / "run") as hidden:
        (hidden / "a").write_text("half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_staged_folder_takes_the_place_of_an_empty_one_and_may_have_subfolders(
    tmp_path: Path,
) -> None:
    (tmp_path / "deep" / "out").mkdir(parents=True)
    with staged_folder(tmp_path / "deep" / "out") as hidden:
        (hidden / "part").mkdir()
        (hidden / "part" / "a").write_bytes(b"1")
    assert (tmp_path / "deep" / "out" / "part" / "a").read_bytes() == b"1"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


def test_two_processes_that_write_one_file_never_mix_their_contents(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_file(path, "0" * 300_000)
    code = "for _ in range(150): write_file(Path('a.txt'), {mark!r} * 300_000)"
    start = [sys.executable, "-c"]
    head = "from pathlib import Path\nfrom pipeline.files import write_file\n"
    writers = [
        subprocess.Popen(
            [*start, head + code.format(mark=mark)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for mark in "12"
    ]
    seen: set[str] = set()
    while any(writer.poll() is None for writer in writers):
        text = path.read_text()
        assert len(text) == 300_000 and len(set(text)) == 1
        seen |= set(text)
    assert [writer.returncode for writer in writers] == [0, 0]
    assert seen & {"1", "2"}
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"]


def test_tidy_removes_unfinished_names_of_all_versions_and_no_others(tmp_path: Path) -> None:
    unfinished = [".a.txt.7.partial", ".partial-7-a.txt", ".run.partial", ".run.7.partial"]
    kept = ["a.txt", ".hidden", "b.partial", "c.old", ".gitignore"]
    for name in unfinished[:2] + kept:
        (tmp_path / name).write_text("x")
    for name in unfinished[2:]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "state").write_text("x")
    assert [is_unfinished(name) for name in unfinished + kept] == [True] * 4 + [False] * 5
    tidy(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(kept)
    tidy(tmp_path / "missing")


def test_an_error_names_the_file_and_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "b.txt"
    message = r"cannot write .*b\.txt: Not a directory; choose another --out"
    with pytest.raises(DataError, match=message), writing(path, "choose another --out"):
        write_file(path, "x")


def test_digests_are_those_of_hashlib(tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "a").write_bytes(data)
    expected = hashlib.sha256(data).hexdigest()
    assert sha256_of(tmp_path / "a") == sha256(data[:1000], data[1000:]) == expected
