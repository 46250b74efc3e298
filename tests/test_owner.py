"""One folder has one writer, on any file system and machine; the dead are replaced."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline.errors import DataError
from pipeline.owner import EXPIRY, OWNER, sole_writer

ROOT = Path(__file__).resolve().parent.parent
HOLD = """
import sys, time
from pathlib import Path
from pipeline.owner import sole_writer
with sole_writer(Path(sys.argv[1]), "--out"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that writes to ``tmp_path``."""
    words = [sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def take(folder: Path) -> None:
    with sole_writer(folder, "--out"):
        assert (folder / OWNER).exists()
    assert not list(folder.iterdir())


def test_a_second_writer_is_refused_with_process_machine_and_start(holder, tmp_path):
    with pytest.raises(DataError, match=rf"process {holder.pid} on {os.uname().nodename}, started"):
        take(tmp_path)
    assert holder.poll() is None
    assert (tmp_path / OWNER).exists()


@pytest.mark.parametrize("reaped", [True, False])
def test_a_dead_owner_of_this_machine_is_replaced_at_once(holder, tmp_path, reaped):
    os.kill(holder.pid, signal.SIGKILL)
    while psutil.Process(holder.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    if reaped:
        holder.wait()
    begun = time.monotonic()
    take(tmp_path)
    assert time.monotonic() - begun < 2


def test_another_process_with_the_dead_owners_number_is_not_taken_for_it(holder, tmp_path):
    path = tmp_path / OWNER
    path.write_text(json.dumps(json.loads(path.read_text()) | {"began": time.time() - 9000}))
    take(tmp_path)
    assert holder.poll() is None  # the process of that number was left alone


def from_elsewhere(path: Path, age: float) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"space": "x", "host": "elsewhere"}))
    then = time.time() - age
    os.utime(path, (then, then))


def test_another_machines_owner_is_replaced_after_the_expiry_only(holder, tmp_path, capsys):
    os.kill(holder.pid, signal.SIGSTOP)
    from_elsewhere(tmp_path / OWNER, EXPIRY - 2)
    begun = time.monotonic()
    take(tmp_path)
    assert 1 < time.monotonic() - begun < 6
    assert "elsewhere" in capsys.readouterr().err


def test_another_machines_owner_that_renews_is_respected(holder, tmp_path):
    path = tmp_path / OWNER
    os.kill(holder.pid, signal.SIGSTOP)
    from_elsewhere(path, EXPIRY / 2)
    renew = f"import os, time; time.sleep(0.3); os.utime({str(path)!r})"
    with subprocess.Popen([sys.executable, "-c", renew]), pytest.raises(DataError, match="elsewh"):
        take(tmp_path)


def test_a_torn_owner_file_expires(tmp_path):
    (tmp_path / OWNER).write_text('{"host": "a')
    begun = time.monotonic()
    os.utime(tmp_path / OWNER, (0, 0))
    take(tmp_path)
    assert time.monotonic() - begun < 2 and not (tmp_path / OWNER).exists()


def test_of_many_processes_that_find_a_dead_owner_one_gets_the_folder(tmp_path):
    with sole_writer(tmp_path, "--out"):
        text = json.loads((tmp_path / OWNER).read_text())
    (tmp_path / OWNER).write_text(json.dumps(text | {"began": 0.0}))
    words = [sys.executable, "-c", HOLD.replace("sleep(60)", "sleep(3)"), str(tmp_path)]
    started = [
        subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        for _ in range(5)
    ]
    assert sorted(process.wait() for process in started) == [0, 1, 1, 1, 1]
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(DataError, match=r"cannot write .*Permission denied.*--out"):
        take(tmp_path)
