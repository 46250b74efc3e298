"""Trainings that take a second: a process that forks them, and the flags of a tiny one."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

TINY = (
    *("--arch", "shufflenet_v2_x0_5", "--weights", "none", "--image-size", "32", "--lr", "1e-3"),
    *("--epochs", "3", "--batch-size", "6", "--threads", "1", "--tracker", "none", "--dropout", "0.2"),
    *("--optimizer", "adamw", "--schedule", "onecycle", "--ema-decay", "0.9"),
)
"""Flags of a training that has dropout, an average and a moving rate, in a second or two."""


@dataclass(frozen=True)
class Outcome:
    """What became of the ranks of a training."""

    codes: list[int]
    text: str
    """What all ranks printed."""


Train = Callable[..., Outcome]


@pytest.fixture(scope="session")
def train(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Train]:
    """``train(*flags, ranks=1, die=None, env=None, file_limit=0) -> Outcome``."""
    logs = tmp_path_factory.mktemp("logs")
    pad = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("launchpad.py"))],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert pad.stdin and pad.stdout
    stdin, stdout = pad.stdin, pad.stdout

    def order(
        *flags: str | Path,
        ranks: int = 1,
        die: Sequence[object] | None = None,
        env: dict[str, str] | None = None,
        file_limit: int = 0,
    ) -> Outcome:
        log = logs / "log"
        words = {"argv": [*map(str, flags)], "ranks": ranks, "die": die, "log": str(log)}
        words["file_limit"] = file_limit
        stdin.write(json.dumps({**words, "env": env or {}}) + "\n")
        stdin.flush()
        codes = json.loads(stdout.readline())
        text = "".join(Path(f"{log}.{rank}").read_text() for rank in range(ranks))
        return Outcome(codes, text)

    yield order
    stdin.close()
    pad.wait(timeout=30)


@pytest.fixture(scope="session")
def tiny(packed: Path) -> list[str]:
    """The flags of a tiny training on made-up shards, but for its run folder."""
    return ["--shards", str(packed), *TINY]
