"""After SIGKILL in the middle of an epoch, another process continues with identical batches."""

import json
import signal
from pathlib import Path

import pytest

ITERATE = Path(__file__).with_name("iterate.py")


@pytest.mark.parametrize("backend", ["dali", "portable"])
def test_a_killed_process_is_continued_bit_for_bit(
    packed: Path, tmp_path: Path, command, backend: str
) -> None:
    done = command(ITERATE, packed, backend, tmp_path, env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    cases = json.loads(done.stdout)
    assert len(cases) == 4
    for name, found in cases.items():
        number, before = found["killed"]
        assert number == signal.SIGKILL
        assert 0 < len(before) < len(found["undisturbed"]), name
        assert before + found["resumed"] == found["undisturbed"], name
        assert len(set(found["undisturbed"])) == len(found["undisturbed"])
    assert not set(cases["rank 0 of 2"]["undisturbed"]) & set(cases["rank 1 of 2"]["undisturbed"])
